"""From a YAML file to a trainer: settings, their objects, the run directory.

`ExperimentSettings` reads and checks the settings; `TaskAndData` builds the task and the data module of them;
`Experiment` makes the run directory, the loggers and the trainer, too. Each is a LightningCLI.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_seg.callbacks.run_record import RunRecord
from lightning_seg.callbacks.tracker_updates import TrackerUpdates
from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError
from lightning_seg.experiment import limits
from lightning_seg.experiment.class_paths import folders_of_modules, make_importable
from lightning_seg.experiment.failures import (
    end_with_first_process,
    errors_of_settings,
    friendly_errors,
    print_resume_hint,
)
from lightning_seg.experiment.files import experiment_file, read_files, that_differ
from lightning_seg.experiment.lightning_parts import refuse_parts
from lightning_seg.experiment.overrides import options_of, plain
from lightning_seg.experiment.parser import Parser, in_memory
from lightning_seg.experiment.renamed import refuse_old_names
from lightning_seg.experiment.slurm_settings import Slurm
from lightning_seg.experiment.task_class import task_class
from lightning_seg.experiment.test_sets import check_test_sets, make_test_sets, score_test_sets
from lightning_seg.experiment.trainer import CALLBACKS, device_of, make_trainer, silence_libraries
from lightning_seg.runs.csv_logger import RunLogger
from lightning_seg.runs.directory import METRICS, JsonObject, new_run
from lightning_seg.runs.records import failure
from lightning_seg.tasks.base import SegmentationTask
from lightning_seg.tasks.mask_classification import MaskClassification
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.tracking.mlflow import MLflowSettings
from lightning_seg.tracking.trackers import Name, open_trackers
from lightning_seg.tracking.wandb_run import WandbSettings
from lightning_seg.training.precision import choose_precision


class ExperimentSettings(LightningCLI):
    """The settings of an experiment, read and checked; nothing is built.

    Args:
        args: Command-line arguments after the command: ``-c FILE [--key=value ...]``.
        settings: Those of a file that the arguments do not name, already read; the arguments override them.

    Attributes:
        config: The resolved settings.
        task: The class of the task.
    """

    def __init__(self, args: Sequence[str], settings: tuple[Path, JsonObject] | None = None) -> None:
        silence_libraries()
        self._args = list(args)
        self._files = read_files(args)
        if settings:
            self._files = {settings[0]: settings[1], **self._files}
            file = settings[0]
            args = ["-c", str(file) if file.is_file() else in_memory(file), *args]
        make_importable(self._files, args)
        refuse_old_names(self._files, args)
        self.task = task_class(self._files, args)
        super().__init__(
            self.task,
            SegmentationData,
            args=list(args),
            run=False,
            parser_class=Parser,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"files": self._files, "allow_abbrev": False},  # half a key is a misspelt key
            save_config_callback=None,  # `RunRecord` writes it, into the run directory
            seed_everything_default=0,
            trainer_defaults={
                "use_distributed_sampler": False,  # the data module's own scores every image exactly once
                "num_sanity_val_steps": 1,
                "log_every_n_steps": 10,
                "enable_model_summary": False,  # `RunRecord` says what matters in four lines
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what an experiment has besides model, data and trainer."""
        parser.add_argument(
            "--task", type=type[SegmentationTask], default=SemanticSegmentation, help="Class of the task."
        )
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the experiment; the YAML's name."
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--test_sets",
            type=dict[str, dict[str, Any]],
            default={},
            help="What is also tested: NAME: {corruption: noise, severity: 3}, or NAME: {class_path: DATA SET, ...}.",
        )
        parser.add_argument(
            "--modules",
            type=list[str],
            default=[],
            help="Folders of modules that class paths name, beside the current one, experiments/ and the YAML's.",
        )
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to start from or evaluate."
        )
        parser.add_argument(
            "--tracking",
            type=list[Name],
            default=["wandb"],
            help="Where runs are shown; the run directory has everything, whatever stands here.",
        )
        parser.add_class_arguments(WandbSettings, "wandb")
        parser.add_class_arguments(MLflowSettings, "mlflow")
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.add_class_arguments(Slurm, "slurm")
        parser.set_defaults(
            {
                "checkpoint.monitor": self.task.monitor,
                "checkpoint.mode": "max",
                "checkpoint.save_last": False,  # `Checkpointing` saves it, after every validation
                "checkpoint.save_on_train_epoch_end": False,  # before `Checkpointing`, which keeps what was the best
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("task", "data.init_args.instances", compute_fn=lambda _: self.task.instances)
        parser.link_arguments("task", "data.init_args.segments", compute_fn=lambda _: self.task.segments)
        parser.link_arguments(
            "task", "data.init_args.overlapping", compute_fn=lambda _: self.task.overlapping
        )
        parser.link_arguments(
            "data.num_outputs", "model.network.init_args.num_classes", apply_on="instantiate"
        )
        parser.link_arguments(
            "data.num_channels", "model.network.init_args.in_channels", apply_on="instantiate"
        )
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        if issubclass(self.task, MaskClassification):
            parser.link_arguments("data.things", "model.things", apply_on="instantiate")
        parser.link_arguments("data.pixels", "model.pixels", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; the name of the first YAML file names the experiment."""
        assert isinstance(args, list)  # as `__init__` gives them
        self.config: Namespace = parser.parse_args(args)
        limits.check_seed(self.config.seed_everything)
        check_test_sets(self.config.test_sets)
        if not self.config.runs.strip():
            raise UserError("runs is empty. Name the folder of all runs, such as --runs=runs.")
        self.config.modules = list(dict.fromkeys([*self.config.modules, *folders_of_modules()]))
        if self.config.name is None:
            self.config.name = next((file.stem for file in self._files), "unnamed")

    def instantiate_classes(self) -> None:
        """Build nothing."""

    @property
    def text(self) -> str:
        """The resolved settings as YAML, defaults included."""
        return self.parser.dump(self.config, skip_unset=False)

    def build_data(self) -> SegmentationData:
        """Build the data module alone, without a network."""
        parser = Parser()
        parser.add_subclass_arguments(SegmentationData, "data")
        with errors_of_settings():
            return parser.instantiate_classes(Namespace(data=self.config.data)).data


class TaskAndData(ExperimentSettings):
    """The task, network included, and the data module of an experiment; nothing is written and no trainer made.

    Attributes:
        model: The task.
        datamodule: The data module.
    """

    model: SegmentationTask
    datamodule: SegmentationData

    def instantiate_classes(self) -> None:
        """Build the objects; a user's error keeps its own words where the parser has wrapped it."""
        with errors_of_settings():
            LightningCLI.instantiate_classes(self)

    def instantiate_trainer(self, **kwargs: object) -> Trainer | None:  # type: ignore[override]
        """Make no trainer, but check the optimizer.

        A wrong argument of it shows now, not when the data is read and the weights are loaded.
        """
        limits.refuse_useless_rate(self.model.optimizer([torch.nn.Parameter(torch.zeros(2, 2))]))
        return None


class Experiment(TaskAndData):
    """The objects of one run, its directory, its loggers and its trainer.

    `train` does all that ``lightning-seg exp`` does. Whoever calls the trainer's own methods does so in a ``with``
    block, which ends the run for its trackers.

    Args:
        args: Command-line arguments after the command.
        settings: Those of a file that the arguments do not name, already read; the arguments override them.
        run: The directory of an existing run to continue; a new one is made unless given.
        tracked: Whether curves are written, and mirrored to W&B.

    Examples:
        >>> few = {"train_images": 8, "val_images": 4, "test_images": 4, "batch_size": 4}
        >>> short = {"data": {"init_args": few}, "trainer": {"max_epochs": 1}}
        >>> run = Experiment.from_yaml("quickstart", name="demo", **short).train()  # trains and tests
    """

    def __init__(
        self,
        args: Sequence[str],
        settings: tuple[Path, JsonObject] | None = None,
        run: Path | None = None,
        tracked: bool = True,
    ) -> None:
        self._given_run = run
        self.tracked = tracked
        super().__init__(args, settings)

    @classmethod
    def from_yaml(cls, path: str | Path, /, **overrides: object) -> Self:
        """Make a run of an experiment file.

        Args:
            path: The file, or the name of an experiment in ``experiments/``.
            **overrides: Settings to change, as on the command line: nested (``trainer={"max_epochs": 3}``) or by keys
                with dots (``**{"model.optimizer.init_args.lr": 1e-3}``). A class, or a `functools.partial` of it with
                its arguments, stands for a part (``model={"network": partial(UNet, backbone="resnet18")}``).

        Raises:
            UserError: As on the command line.
        """
        end_with_first_process()
        return cls(["-c", str(experiment_file(str(path))), *options_of(overrides)])

    @classmethod
    def from_settings(cls, name: str, /, **settings: object) -> Self:
        """Make a run without a file.

        Args:
            name: Of the experiment.
            **settings: What the file would hold; see `from_yaml`.

        Raises:
            UserError: As on the command line.
        """
        end_with_first_process()
        written = plain({**settings, "name": name})
        return cls([], settings=(Path(f"{Path(name).name}.yaml"), cast(JsonObject, written)))

    def train(self, then_test: bool = True) -> Path:
        """Train, test the best checkpoint, end the run, and return its directory.

        Args:
            then_test: Whether to test.

        Raises:
            UserError: Something is wrong with the data, the machine or the settings.
        """
        errors = friendly_errors(self.trainer, self.datamodule, lambda: self.run_directory)
        hint = print_resume_hint(self.trainer, lambda: self.run_directory)
        with self, errors, hint:
            if then_test:
                limits.refuse_unscored(self.config)
            self.trainer.fit(
                self.model, self.datamodule, ckpt_path=self.config_init.ckpt_path, weights_only=True
            )
            if then_test:
                self._test()
        return self.run_directory

    def _test(self) -> None:
        callback = self.trainer.checkpoint_callback
        best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
        if not best and self.trainer.is_global_zero:
            print("no validation has chosen a checkpoint: the last weights are tested")
        self.trainer.test(
            self.model, self.datamodule, ckpt_path=best or None, verbose=False, weights_only=True
        )
        score_test_sets(self._test_sets, self.model, self.run_directory, best or None, self._tester)

    def _tester(self, folder: Path) -> Trainer:
        """Make a trainer whose scores are written into a folder."""
        record = RunRecord(folder, self._text, runs=Path(self.config.runs))
        logger = RunLogger(folder, curves=False)
        return make_trainer(self.config_init, [logger], [record], precision=self._given_precision)

    @property
    def run_directory(self) -> Path:
        """The run directory; all processes know that of the first as soon as the trainer has begun."""
        return self._record.run

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Make the run directory, the loggers and the trainer; until here nothing was written."""
        super().instantiate_trainer()
        if self.tracked and not self.datamodule.download:
            for split in (self.datamodule.train_split, self.datamodule.val_split):
                self.datamodule.samples(split)  # raises if it is not there
        limits.refuse_useless(self.config)
        refuse_parts(dict(**self.config_init.trainer), self.config_init.checkpoint)
        if self.config.ckpt_path is None:
            limits.check_weights(self.model.network, self.config)
        settings = self.config.clone()
        settings.trainer.precision = self._precision()
        if self._given_run is not None:  # the checkpoint that it continues from is none of its settings
            settings.ckpt_path = next((content.get("ckpt_path") for content in self._files.values()), None)
        self._test_sets = make_test_sets(self.config.test_sets, self.datamodule)
        self._text = text = self.parser.dump(settings, skip_unset=False)
        self._given_precision = settings.trainer.precision
        run = self._given_run or self._new_run()
        overrides = that_differ(self._args, self._files)
        folders = [file.parent for file in self._files]
        self._record = RunRecord(run, text, folders, overrides, Path(self.config.runs))
        loggers: list[Logger] = [RunLogger(run, curves=self.tracked)]
        with (
            ExitStack() as opened
        ):  # if anything fails, the W&B run ends as failed and an empty directory goes
            if self._given_run is None:
                opened.push(partial(_remove_on_error, run))
            wanted = self.config.tracking if self.tracked and not self.config.trainer.fast_dev_run else []
            if "wandb" in wanted:
                wandb_run = self.config_init.wandb.start(run, yaml.safe_load(text), self.model, overrides)
                loggers += [opened.enter_context(wandb_run).logger] if wandb_run else []
            trackers = open_trackers(run, wanted, self.config_init.mlflow)
            trackers = [opened.enter_context(tracker) for tracker in trackers]
            callbacks = [self._record, TrackerUpdates(trackers)]
            trainer = make_trainer(self.config_init, loggers, callbacks, settings.trainer.precision)
            self._opened = opened.pop_all()
        return trainer

    def __enter__(self) -> Self:
        """Return the experiment itself."""
        return self

    def __exit__(self, *details: Any) -> None:
        """End the W&B run, as failed if the block was left by an error, and remove a new run that logged nothing."""
        self._opened.__exit__(*details)

    def _precision(self) -> str | int | None:
        """Settle what the experiment leaves open; it is written down, so that a run and its evaluation agree."""
        given = self.config.trainer
        if given.precision is not None or given.plugins or not self.tracked:
            return given.precision
        # Several processes have to agree on what their trainers are made with, and cannot talk before these are made.
        alone = str(given.devices) in ("auto", "1") and given.num_nodes == 1
        alone &= int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) == 1
        choice = choose_precision(self.model.network, device_of(given.accelerator), probe=alone)
        rank_zero_info(
            f"precision {choice.precision}: {choice.reason}; --trainer.precision decides otherwise"
        )
        return choice.precision

    def _new_run(self) -> Path:
        """Make the directory in the first process; the others learn of it when the trainer begins."""
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return Path(self.config.runs, self.config.name, "first-process")
        return new_run(Path(self.config.runs), self.config.name)


def _remove_on_error(run: Path, kind: type[BaseException] | None, *_: object) -> None:
    """Remove the directory of a new run that ended in a user's error before its training began."""
    first = not rank_zero_only.rank  # type: ignore[attr-defined]
    if (
        first
        and kind is not None
        and issubclass(kind, UserError)
        and not ((run / METRICS).exists() or failure(run))
    ):
        shutil.rmtree(run, ignore_errors=True)
        with suppress(OSError):  # other runs are in it
            run.parent.rmdir()
