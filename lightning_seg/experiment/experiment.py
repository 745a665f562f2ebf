"""From a YAML file to a trained and tested run: configuration, run directory, loggers, trainer.

`Experiment` is LightningCLI with this project's task and data module: it reads the YAML, refuses what is wrong,
builds the objects and the trainer. The commands that use it are in `lightning_seg.cli.commands` and elsewhere.
"""

import argparse
import logging
import os
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_seg.callbacks.checkpointing import Checkpointing, SeededSteps
from lightning_seg.callbacks.cudnn import CudnnBenchmark
from lightning_seg.callbacks.nonfinite import NonFinite
from lightning_seg.callbacks.overfitting import OverfittingMonitor
from lightning_seg.callbacks.pictures import Pictures
from lightning_seg.callbacks.progress import Progress
from lightning_seg.callbacks.run_record import RunRecord
from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError
from lightning_seg.experiment.class_paths import make_importable, resolve_class
from lightning_seg.experiment.failures import does_not_fit, note_version_mismatch
from lightning_seg.experiment.files import read_settings
from lightning_seg.experiment.parser import Parser
from lightning_seg.experiment.slurm_settings import Slurm
from lightning_seg.runs.csv_logger import RunLogger
from lightning_seg.runs.directory import (
    BEST_CHECKPOINT,
    CONFIG,
    existing_run,
    new_run,
)
from lightning_seg.tasks.base import SegmentationTask
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.tracking.wandb_run import WandbSettings
from lightning_seg.training.checkpoint_io import SafeCheckpointIO, read
from lightning_seg.training.precision import choose_precision

# Processes that Lightning starts for further devices find the run directory of the first process here.
RUN_VARIABLE = "LIGHTNING_SEG_RUN"
_PRECISION_VARIABLE = "LIGHTNING_SEG_PRECISION"  # and what it has chosen
# A finished run is scored on all images of a split, however few its training looked at.
WHOLE = ("--trainer.limit_val_batches=1.0", "--trainer.limit_test_batches=1.0")


class Experiment(LightningCLI):
    """The objects of one run, built from ``-c FILE`` and ``--key=value``; a ``with`` block ends its W&B run.

    Args:
        args: Command-line arguments after the command.
        run: The directory of an existing run to continue or evaluate; a new one is made unless given.
        tracked: Whether the run is logged to W&B.
    """

    def __init__(self, args: list[str], run: Path | None = None, tracked: bool = True) -> None:
        self.run_directory = run
        self.tracked = tracked
        self.task = _task_class(args)
        with ExitStack() as self._opened:  # if anything fails, the W&B run ends as failed
            super().__init__(
                self.task,
                SegmentationData,
                args=args,
                run=False,
                parser_class=Parser,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs={"allow_abbrev": False},  # half a key is a misspelt key
                save_config_callback=None,  # `RunRecord` writes it, into the run directory
                seed_everything_default=0,
                trainer_defaults={
                    "use_distributed_sampler": False,  # the data module's own scores every image exactly once
                    "num_sanity_val_steps": 1,
                    "log_every_n_steps": 10,
                    "enable_model_summary": False,  # `RunRecord` says what matters in four lines
                },
            )
            self._opened = self._opened.pop_all()

    def __enter__(self) -> "Experiment":
        """Return the experiment itself."""
        return self

    def __exit__(self, *details: Any) -> None:
        """End the W&B run, as failed if the block was left by an error."""
        self._opened.__exit__(*details)

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
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to start from or evaluate."
        )
        parser.add_argument(
            "--compile", type=bool, default=False, help="Compile the network with torch.compile."
        )
        parser.add_argument(
            "--gradient_checkpointing",
            type=bool,
            default=False,
            help="Keep fewer of the backbone's activations and compute them again: less memory, slower.",
        )
        parser.add_argument(
            "--lr_scaling",
            type=Literal["none", "linear", "sqrt"],
            default="none",
            help="Multiply the learning rate by the number of batches that a step gathers, devices x accumulated,"
            " or by its root.",
        )
        parser.add_class_arguments(WandbSettings, "wandb")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(OverfittingMonitor, "overfitting")
        parser.add_lightning_class_args(NonFinite, "nonfinite")
        parser.add_lightning_class_args(Checkpointing, "checkpointing")
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
        parser.link_arguments(
            "data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate"
        )
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; the name of the first YAML file names the experiment."""
        self.config: Namespace = parser.parse_args(args)
        self.config.data.init_args.instances = self.task.instances
        if self.config.name is None:
            files = [Path(str(file)) for file in self.config.config or []]
            self.config.name = files[0].stem if files else "unnamed"

    @property
    def text(self) -> str:
        """The resolved settings as YAML, defaults included."""
        return self.parser.dump(self.config, skip_unset=False)

    def instantiate_classes(self) -> None:
        """Build the objects; a user's error keeps its own words where the parser has wrapped it."""
        try:
            super().instantiate_classes()
            # A wrong argument of the optimizer shows now, not when the data is read and the weights are loaded.
            self.model.optimizer([torch.nn.Parameter(torch.zeros(2, 2))])
        except UserError:
            raise
        except Exception as error:  # classes of users and libraries refuse their arguments in any way
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            reason = f"{type(error).__name__}: {error}"
            hint = "LIGHTNING_SEG_TRACEBACK=1 shows where"
            raise UserError(f"these settings cannot be built: {reason}\n{hint}.") from error
        self.model.lr_scaling = self.config.lr_scaling
        network = self.model.network
        network.to(memory_format=torch.channels_last)  # as the images are: convolutions need no conversion
        if self.config.gradient_checkpointing:
            network.backbone.checkpoint_gradients()
        if self.config.compile:
            network.compile()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run directory, the loggers and the trainer; until here nothing was written."""
        if self.tracked and not self.datamodule.download:
            for split in (self.datamodule.train_split, self.datamodule.val_split):
                self.datamodule.samples(split)  # raises if it is not there
        self._make_run_directory()
        assert self.run_directory is not None
        self._choose_precision()
        text = self.text
        loggers: list[Logger] = [RunLogger(self.run_directory, curves=self.tracked)]
        if self.tracked and not self.config.trainer.fast_dev_run:
            wandb_run = self.config_init.wandb.start(self.run_directory, yaml.safe_load(text), self.model)
            loggers += [self._opened.enter_context(wandb_run).logger] if wandb_run else []
        given = self.config_init.trainer.logger  # loggers of the user's own come on top
        loggers += given if isinstance(given, list) else [given] if isinstance(given, Logger) else []
        folders = [Path(str(file)).parent for file in self.config.config or []]
        bar = self.config.trainer.enable_progress_bar is not False and sys.stderr.isatty()
        self.trainer_defaults["callbacks"] = [
            RunRecord(self.run_directory, text, folders),
            Progress(),
            SeededSteps(),
        ]
        if self.config.trainer.benchmark is None and not self.config.trainer.deterministic:
            self.trainer_defaults["callbacks"].append(CudnnBenchmark())
        plugins = self.config_init.trainer.plugins or []
        try:
            trainer = super().instantiate_trainer(
                logger=loggers,
                plugins=[SafeCheckpointIO(), *(plugins if isinstance(plugins, list) else [plugins])],
                default_root_dir=str(self.run_directory),
                enable_progress_bar=bar,
                **kwargs,
            )
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(f"trainer: {error}") from error
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if self.config.trainer.sync_batchnorm and on_cpu and trainer.world_size > 1:
            raise UserError(
                "trainer.sync_batchnorm: PyTorch has it on GPUs only; several processes on CPUs need =false."
            )
        return trainer

    def _choose_precision(self) -> None:
        """Settle what the experiment leaves open, and write it down: a run and its evaluation agree."""
        given = self.config.trainer
        if given.precision is not None or given.plugins or not self.tracked:
            return
        if rank_zero_only.rank and _PRECISION_VARIABLE in os.environ:  # type: ignore[attr-defined]
            precision = os.environ[_PRECISION_VARIABLE]
        else:  # where a launcher has started all processes they must agree without trying
            alone = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) == 1
            choice = choose_precision(self.model.network, device_of(given.accelerator), probe=alone)
            precision = os.environ[_PRECISION_VARIABLE] = choice.precision
            rank_zero_info(f"precision {precision}: {choice.reason}; --trainer.precision decides otherwise")
        for config in (self.config, self.config_init):
            config.trainer.precision = precision

    def _make_run_directory(self) -> None:
        if self.run_directory is not None:
            return
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            # Only the first process writes; others, if a launcher of its own started them, need no directory.
            inherited = os.environ.get(RUN_VARIABLE)
            self.run_directory = Path(inherited or Path(self.config.runs, self.config.name, "first-process"))
            return
        self.run_directory = new_run(Path(self.config.runs), self.config.name)
        os.environ[RUN_VARIABLE] = str(self.run_directory)


class DataOnly(Experiment):
    """An experiment of which only the data is wanted: nothing is written and no trainer made."""

    def instantiate_trainer(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Make none."""


class SettingsOnly(Experiment):
    """An experiment whose settings are checked, and no more."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


def device_of(accelerator: Any) -> torch.device:
    """Say on what kind of device the trainer will run."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _task_class(args: list[str]) -> type[SegmentationTask]:
    """Find the class of the task first: it decides what the rest of the settings may be."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("-c", "--config", action="append", default=[])
    early.add_argument("--task")
    given, _ = early.parse_known_args(args)
    make_importable(map(Path, given.config))
    names = [given.task]
    for file in reversed(given.config):
        settings = read_settings(Path(file))
        names.append(settings.get("task") if isinstance(settings, dict) else None)
    name = next(filter(None, names), None)
    if name is None:
        return SemanticSegmentation
    task = resolve_class(name, "task")
    if not (isinstance(task, type) and issubclass(task, SegmentationTask)):
        raise UserError(
            f"task: expected a subclass of lightning_seg.tasks.base.SegmentationTask, got {name!r}."
        )
    return task


def trained(run: Path, args: list[str]) -> DataOnly:
    """Build a run's experiment, its network as in the best checkpoint.

    Args:
        run: The run directory.
        args: Settings to change, ``--key=value``.

    Raises:
        UserError: The run has no checkpoint yet.
    """
    with note_version_mismatch(run):
        experiment = DataOnly(quiet(["-c", str(run / CONFIG), *args]))
    file = run / BEST_CHECKPOINT
    if not file.is_file():
        raise UserError(f"no checkpoint {file}: 'lightning-seg resume {run}' trains the run to its end.")
    state = read(file)["state_dict"]
    ours = {key: value for key, value in state.items() if key.startswith("network.")}
    try:
        experiment.model.network.load_state_dict({key.removeprefix("network."): ours[key] for key in ours})
    except RuntimeError as error:
        raise UserError(does_not_fit(run, error)) from None
    return experiment


def run_argument(command: str, args: list[str]) -> tuple[Path, list[str]]:
    """Split a command's arguments into the run directory, which comes first, and the rest."""
    if not args or args[0].startswith("-"):
        raise UserError(f"which run? Type 'lightning-seg {command} runs/<experiment>/<id>'.")
    return existing_run(args[0]), args[1:]


def finished_run(command: str, args: list[str]) -> tuple[Experiment, dict[str, Any]]:
    """Build the objects of a run to evaluate, ``RUN [--key=value ...]`` or ``-c FILE --ckpt_path FILE``.

    Returns:
        The experiment, and what the trainer's method needs.
    """
    if args and args[0].startswith("-"):
        experiment = Experiment(quiet(args), tracked=False)
        resume_with = ""
    else:
        run, args = run_argument(command, args)
        with note_version_mismatch(run):
            experiment = Experiment(quiet(["-c", str(run / CONFIG), *WHOLE, *args]), run=run, tracked=False)
        experiment.config_init.ckpt_path = experiment.config_init.ckpt_path or str(run / BEST_CHECKPOINT)
        resume_with = f" 'lightning-seg resume {run}' trains the run to its end."
    path = experiment.config_init.ckpt_path
    if path is None or not Path(path).is_file():
        raise UserError(f"expected a checkpoint, found none at {path}; say --ckpt_path=FILE.{resume_with}")
    return experiment, {
        "model": experiment.model,
        "datamodule": experiment.datamodule,
        "ckpt_path": path,
        "weights_only": True,
    }


def quiet(args: list[str]) -> list[str]:
    """Silence what libraries say at every start and nobody can act on; errors and real warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data module has measured how many are worth it
        ".*sync_dist=True.*",  # the scores are those of all processes already
        ".*LeafSpec.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # that of the run which is resumed
        ".*The dirpath has changed.*",  # a run may be moved and copied
        ".*srun.* command is available.*",  # a run on a cluster's login node is no mistake
    ):
        warnings.filterwarnings("ignore", message)
    return args
