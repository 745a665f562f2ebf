"""A finished run, ready to use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer

from lightning_seg.callbacks.run_record import RunRecord
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.test_sets import FurtherTest
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import ExperimentSettings, TaskAndData
from lightning_seg.experiment.failures import does_not_fit, note_version_mismatch
from lightning_seg.experiment.files import read_settings
from lightning_seg.experiment.test_sets import make_test_sets, score_test_sets
from lightning_seg.experiment.trainer import make_trainer
from lightning_seg.inference.calibration import temperature_of
from lightning_seg.inference.inferers import Inferer
from lightning_seg.inference.predictor import (
    MultiLabelPredictor,
    ObjectPredictor,
    Predictor,
    SegmentPredictor,
)
from lightning_seg.runs.csv_logger import RunLogger
from lightning_seg.runs.directory import (
    BEST_CHECKPOINT,
    CONFIG,
    LAST_CHECKPOINT,
    JsonObject,
    existing_run,
    resume_command,
)
from lightning_seg.tasks.base import SegmentationTask
from lightning_seg.tasks.instance import InstanceSegmentation
from lightning_seg.tasks.mask_classification import MaskClassification
from lightning_seg.tasks.multi_label import MultiLabelSegmentation
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.checkpoint_io import read

# A finished run is scored on all images of a split, however few its training looked at.
_WHOLE = ("--trainer.limit_val_batches=1.0", "--trainer.limit_test_batches=1.0")


@dataclass(frozen=True)
class LoadedRun:
    """A run, its network as in one of its checkpoints.

    Attributes:
        directory: The run directory.
        checkpoint: The checkpoint; the best unless another was asked for.
        task: The task, network included, with the temperature of the run's calibration.
        data: The data module.
        settings: The resolved settings.
    """

    directory: Path
    checkpoint: Path
    task: SegmentationTask
    data: SegmentationData
    settings: Namespace
    _objects: Namespace
    _text: str

    @property
    def name(self) -> str:
        """Experiment and id."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def temperature(self) -> float:
        """What logits are divided by to make probabilities honest; 1 unless the run was calibrated."""
        return self.semantic_task().temperature

    def semantic_task(self) -> SemanticSegmentation:
        """Return the task of a run that labels pixels.

        Raises:
            UserError: It is another kind of run.
        """
        if not isinstance(self.task, SemanticSegmentation):
            raise UserError(
                f"{self.directory} gives no class to each pixel: it is a run of {type(self.task).__name__}."
            )
        return self.task

    def predictor(
        self, device: str | torch.device | None = None, inference: Inferer | None = None
    ) -> Predictor:
        """Return the network of a run that labels pixels, with all that its predictions need.

        Args:
            device: Where to put the network; a GPU if there is one unless given.
            inference: The inference strategy; that of the run's configuration unless given.

        Raises:
            UserError: It is another kind of run.
        """
        task = self.semantic_task()
        return Predictor(
            task.network.to(_device(device)),
            self.data.class_names,
            self.data.palette,
            inference or task.inference,
            task.temperature,
            None if task.postprocess is None else task.postprocess.of_logits,
            self.data.pixels,
        )

    def make_trainer(self, *callbacks: Callback) -> Trainer:
        """Make a trainer that evaluates the run, and writes its test scores into the run directory.

        Args:
            *callbacks: Further callbacks.
        """
        return self._trainer(self.directory, *callbacks)

    def test_sets(self) -> dict[str, FurtherTest]:
        """Build the further test sets of its settings.

        Raises:
            UserError: One of them has no images, or none of the classes.
        """
        return make_test_sets(self.settings.test_sets, self.data)

    def score_test_sets(self, sets: Mapping[str, FurtherTest]) -> None:
        """Score the run on further test sets.

        Args:
            sets: See `test_sets`.
        """
        score_test_sets(sets, self.task, self.directory, str(self.checkpoint), self._trainer)

    def _trainer(self, folder: Path, *callbacks: Callback) -> Trainer:
        logger = RunLogger(folder, curves=False)
        return make_trainer(self._objects, [logger], [RunRecord(folder, self._text), *callbacks])

    @property
    def trainer_arguments(self) -> JsonObject:
        """What the trainer's `test`, `validate` and `predict` take."""
        return {
            "model": self.task,
            "datamodule": self.data,
            "ckpt_path": str(self.checkpoint),
            "weights_only": True,
        }


class _Finished(TaskAndData):
    """An experiment whose task gets the temperature of a run's calibration."""

    def __init__(self, run: Path, options: Sequence[str], written: str | None = None) -> None:
        self.run = run
        settings = read_settings(run / CONFIG) if written is None else yaml.safe_load(written)
        settings.pop("ckpt_path", None)  # what its training began with
        super().__init__([*_WHOLE, *options], settings=(run / CONFIG, settings))

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and its temperature."""
        self.checkpoint = Path(self.config.ckpt_path or self.run / BEST_CHECKPOINT)
        if not self.checkpoint.is_file():
            if self.config.ckpt_path:
                raise UserError(f"there is no file {self.checkpoint}, which --ckpt_path names.")
            if self.config.trainer.fast_dev_run:
                raise UserError(
                    f"no checkpoint {self.checkpoint}: the run was a trial of a few batches (trainer.fast_dev_run),"
                    " which keeps none; train without it."
                )
            last = self.run / LAST_CHECKPOINT
            other = f"{last} takes its last weights" if last.is_file() else "FILE takes another"
            raise UserError(
                f"no checkpoint {self.checkpoint}: no validation of the run has chosen one. If it was ended early,"
                f" {resume_command(self.run)} trains it to its end; --ckpt_path={other}."
            )
        if self.config.model.get("temperature") == 1:  # not chosen by hand
            self.config.model.temperature = temperature_of(self.run, self.checkpoint)


def load_run(run: str | Path, settings: Sequence[str] = ()) -> LoadedRun:
    """Build the objects of a run, its network as in the best checkpoint.

    Args:
        run: ``runs/<experiment>/<id>``, or ``runs/<experiment>`` for the latest; or a checkpoint, wherever it is.
        settings: Settings to change, ``--key=value``; ``--ckpt_path=FILE`` chooses another checkpoint.

    Raises:
        UserError: It is no run, has no checkpoint yet, or one that does not fit its settings.

    Examples:
        >>> loaded = load_run("runs/demo")
        >>> type(loaded.task.network).__name__, loaded.data.class_names[:2]
        ('UNet', ('background', 'circle'))
    """
    written = None
    if Path(run).is_file():
        settings = [f"--ckpt_path={run}", *settings]
        run, written = _run_of(Path(run))
    run = existing_run(run) if written is None else Path(run)
    with note_version_mismatch(run):
        built = _Finished(run, settings, written)
    prefix = "network."
    content = read(built.checkpoint)
    state = content["state_dict"]
    ours = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if isinstance(built.model, MultiLabelSegmentation) and "thresholds" in state:
        built.model.thresholds.copy_(state["thresholds"])
    try:
        built.model.network.load_state_dict(ours)
    except RuntimeError as error:
        raise UserError(does_not_fit(run, error)) from None
    built.model.on_load_checkpoint(content)
    return LoadedRun(
        run, built.checkpoint, built.model, built.datamodule, built.config, built.config_init, built.text
    )


def load(
    run: str | Path,
    device: str | torch.device | None = None,
    inference: Inferer | None = None,
    settings: Sequence[str] = (),
) -> Predictor | MultiLabelPredictor | ObjectPredictor | SegmentPredictor:
    """Load the best checkpoint of a run, or another one, to predict images.

    Args:
        run: ``runs/<experiment>/<id>``, or ``runs/<experiment>`` for the latest; or a checkpoint, wherever it is.
        device: Where to put the network; a GPU if there is one unless given.
        inference: The inference strategy; that of the run's configuration unless given.
        settings: Settings to change, as on the command line: ``--key=value``.

    Returns:
        What maps images to labels; for a run of overlapping classes what maps them to a mask for each class, for one
        of instance segmentation to objects, for one of mask classification to what its `output` says.

    Raises:
        UserError: It is no run, or has no checkpoint yet.

    Examples:
        >>> labels = load("runs/demo")("street.jpg")  # the latest run of that experiment
        >>> labels.shape, labels.dtype
        ((48, 64), dtype('uint8'))
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are their own
        loaded = load_run(run, ["--seed_everything=false", "--model.compile=false", *settings])
    task = loaded.task
    if isinstance(task, MultiLabelSegmentation):
        task.to(_device(device))
        return task.predictor(loaded.data.palette, inference)
    if isinstance(task, MaskClassification) and inference is None and task.gives != "classes":
        task.to(_device(device))
        return task.predictor(loaded.data.palette)
    if not isinstance(task, InstanceSegmentation):
        return loaded.predictor(device, inference)
    if inference is not None:
        raise UserError(f"{run} finds objects in whole images: it has no inference strategy.")
    network = task.network.to(_device(device))
    data = loaded.data
    return ObjectPredictor(network, data.class_names, data.palette, task.score_threshold, data.pixels)


def _device(given: str | torch.device | None) -> str | torch.device:
    return given or ("cuda" if torch.cuda.is_available() else "cpu")


def _run_of(checkpoint: Path) -> tuple[Path, str | None]:
    """Find the run of a checkpoint: the folder above, or, of a copy, the folder that it is in, with its settings."""
    folder = checkpoint.absolute().parent
    for place in (folder, folder.parent):
        if (place / CONFIG).is_file():
            return place, None
    settings = read(checkpoint).get("settings")
    if settings is None:
        raise UserError(
            f"{checkpoint} has no {CONFIG} beside it or in the folder above, which says what network it is of. Name a"
            f" run directory, or copy the run's {CONFIG} to the checkpoint."
        )
    return folder, settings


def read_data(args: Sequence[str]) -> SegmentationData:
    """Build the data module of an experiment, without its network; its other settings are checked all the same.

    Args:
        args: ``-c FILE [--key=value ...]``.
    """
    return ExperimentSettings(args).build_data()
