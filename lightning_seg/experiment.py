"""From a YAML file to a trained and tested run: configuration, run directory, loggers, trainer.

`Experiment` is LightningCLI with this project's task and data module: it reads the YAML, refuses what is wrong,
builds the objects and the trainer. The functions below it are the commands.
"""

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_seg.callbacks.pictures import Pictures
from lightning_seg.callbacks.progress import Progress
from lightning_seg.callbacks.record import Record
from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError
from lightning_seg.parser import Parser
from lightning_seg.runs.directory import (
    BEST_CHECKPOINT,
    CONFIG,
    LAST_CHECKPOINT,
    METRICS,
    PICTURES,
    existing_run,
    new_run,
)
from lightning_seg.runs.logger import RunLogger
from lightning_seg.runs.tracking import Tracking, finish, finishing
from lightning_seg.tasks.semantic import SemanticSegmentation

# Processes that Lightning starts for further devices find the run directory of the first process here.
_RUN_VARIABLE = "LIGHTNING_SEG_RUN"


class Experiment(LightningCLI):
    """The objects of one run, built from ``-c FILE`` and ``--key=value``.

    Args:
        args: Command-line arguments after the command.
        run: The directory of an existing run to continue or evaluate; a new one is made unless given.
        tracked: Whether the run is mirrored to W&B.
    """

    def __init__(self, args: list[str], run: Path | None = None, tracked: bool = True) -> None:
        self.run_directory = run
        self.tracked = tracked
        super().__init__(
            SemanticSegmentation,
            SegmentationData,
            args=args,
            run=False,
            parser_class=Parser,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"allow_abbrev": False},  # half a key is a misspelt key
            save_config_callback=None,  # `Record` writes it, into the run directory
            seed_everything_default=0,
            trainer_defaults={
                "use_distributed_sampler": False,  # the data module's own scores every image exactly once
                "num_sanity_val_steps": 1,
                "log_every_n_steps": 10,
                "enable_model_summary": False,  # `Record` says what matters in four lines
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what an experiment has besides model, data and trainer."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the experiment; the YAML's name."
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to start from or evaluate."
        )
        parser.add_class_arguments(Tracking, "wandb")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/miou",
                "checkpoint.mode": "max",
                "checkpoint.save_last": True,
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
        if self.config.name is None:
            files = [Path(str(file)) for file in self.config.config or []]
            self.config.name = files[0].stem if files else "unnamed"

    def instantiate_classes(self) -> None:
        """Build the objects; a user's error keeps its own words where the parser has wrapped it."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run directory, the loggers and the trainer; until here nothing was written."""
        if self.tracked and not self.datamodule.download:
            for split in (self.datamodule.train_split, self.datamodule.val_split):
                self.datamodule.samples(split)  # raises if it is not there
        self._make_run_directory()
        assert self.run_directory is not None
        text = self.parser.dump(self.config, skip_unset=False)
        loggers: list[Logger] = [RunLogger(self.run_directory)]
        if self.tracked and not self.config.trainer.fast_dev_run:
            tracking = self.config_init.wandb
            tracking.group = tracking.group or self.config.name
            mirror = tracking.start(self.run_directory, yaml.safe_load(text), self.model)
            loggers += [mirror] if mirror else []
        given = self.config_init.trainer.logger  # loggers of the user's own come on top
        loggers += given if isinstance(given, list) else [given] if isinstance(given, Logger) else []
        bar = self.config.trainer.enable_progress_bar is not False and sys.stderr.isatty()
        self.trainer_defaults["callbacks"] = [Record(self.run_directory, text), Progress()]
        return super().instantiate_trainer(
            logger=loggers, default_root_dir=str(self.run_directory), enable_progress_bar=bar, **kwargs
        )

    def _make_run_directory(self) -> None:
        if self.run_directory is not None:
            return
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            # Only the first process writes; others, if a launcher of its own started them, need no directory.
            inherited = os.environ.get(_RUN_VARIABLE)
            self.run_directory = Path(inherited or Path(self.config.runs, self.config.name, "first-process"))
            return
        self.run_directory = new_run(Path(self.config.runs), self.config.name)
        os.environ[_RUN_VARIABLE] = str(self.run_directory)


class DataOnly(Experiment):
    """An experiment of which only the data is wanted: nothing is written and no trainer made."""

    def instantiate_trainer(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Make none."""


def exp(args: list[str]) -> None:
    """Train, then test the best checkpoint, in one process."""
    _train(args, then_test=True)


def fit(args: list[str]) -> None:
    """Train only."""
    _train(args, then_test=False)


def folds(args: list[str]) -> None:
    """Cross-validate, ``NAME K [--key=value ...]``: one run for each fold, then the answer over all."""
    from lightning_seg.runs.folds import summarise

    config, (count, *rest) = args[:2], args[2:] or [""]
    if not count.isdigit() or int(count) < 2:
        raise UserError(f"how many folds? Type 'lightning-seg folds NAME 5'; got {count!r}.")
    runs = []
    for fold in range(int(count)):
        print(f"fold {fold} of {count}")
        chosen = [f"--data.init_args.folds={count}", f"--data.init_args.fold={fold}"]
        runs.append(_train([*config, *chosen, *rest], then_test=True))
    summary = summarise(runs)
    file = runs[-1].parent / f"{runs[0].name}-{count}-folds.txt"
    file.write_text("\n".join([summary, *map(str, runs)]) + "\n")
    print(f"\n{summary}\n{file}")


def resume(args: list[str]) -> None:
    """Continue a run from its last checkpoint, in its own directory and W&B run, then test."""
    run, args = _run_argument("resume", args)
    last = run / LAST_CHECKPOINT
    if last.exists():
        args = ["--ckpt_path", str(last), *args]
    else:
        print(f"{run} was stopped before its first checkpoint: it starts again from the beginning.")
    _train(["-c", str(run / CONFIG), *args], then_test=True, run=run)


def test(args: list[str]) -> None:
    """Test the best checkpoint of a run; the result replaces test.json in its directory."""
    experiment, options = _finished_run("test", args)
    experiment.trainer.test(**options, verbose=False)


def validate(args: list[str]) -> None:
    """Score the best checkpoint of a run on the validation split."""
    experiment, options = _finished_run("validate", args)
    experiment.trainer.validate(**options, verbose=False)


def predict(args: list[str]) -> None:
    """Write masks and overlays for a folder of images."""
    from lightning_seg.callbacks.predictions import Predictions

    run, args = _run_argument("predict", args)
    if not args or args[0].startswith("-"):
        raise UserError("which images? Type 'lightning-seg predict RUN FOLDER [--output DIR]'.")
    images, args = args[0], args[1:]
    output = Path("predictions") / run.parent.name / run.name
    if args[:1] == ["--output"] and len(args) > 1:
        output, args = Path(args[1]), args[2:]
    experiment, options = _finished_run(
        "predict", [str(run), f"--data.init_args.predict_folder={images}", *args]
    )
    experiment.trainer.callbacks.append(Predictions(output))  # type: ignore[attr-defined]
    experiment.trainer.predict(**options, return_predictions=False)


def check(args: list[str]) -> None:
    """Look at every file of a data set, ``NAME [--key=value ...]``, and report what is wrong."""
    from lightning_seg.data.check import check as check_data

    report = check_data(DataOnly(_quiet(args)).datamodule, progress=True)
    print(report.text(files=None))
    if not report.ok:
        raise SystemExit(1)


def preview(args: list[str]) -> None:
    """Draw augmented training samples, ``NAME [--output FILE] [--key=value ...]``."""
    from lightning_seg.data.preview import preview as preview_data

    output = Path("preview.png")
    if "--output" in args[:-1]:
        at = args.index("--output")
        output, args = Path(args[at + 1]), args[:at] + args[at + 2 :]
    preview_data(DataOnly(_quiet(args)).datamodule, output)
    print(f"augmented training samples: {output}")


def bench(args: list[str]) -> None:
    """Time the making of training samples beside other libraries, ``data NAME [--key=value ...]``."""
    from lightning_seg.cli import config_arguments
    from lightning_seg.data.bench import bench as bench_data
    from lightning_seg.data.bench import table

    if args[:1] != ["data"]:
        raise UserError("what should be timed? Type 'lightning-seg bench data NAME'.")
    print(table(bench_data(DataOnly(_quiet(config_arguments(args[1:]))).datamodule)))


def describe(args: list[str]) -> None:
    """Measure networks, ``NAME|RUN ... [--all] [--size HxW] [--html FILE] [--key=value ...]``."""
    from lightning_seg.describe import main as describe_networks

    describe_networks(_quiet(args))


def features(args: list[str]) -> None:
    """Draw the feature maps of an image, ``RUN IMAGE [--output FILE] [--key=value ...]``."""
    from lightning_seg.callbacks.feature_maps import draw_file

    run, args = _run_argument("features", args)
    if not args or args[0].startswith("-"):
        raise UserError("which image? Type 'lightning-seg features RUN IMAGE [--output FILE]'.")
    image, args = Path(args[0]), args[1:]
    output = run / PICTURES / f"features_{image.stem}.png"
    if args[:1] == ["--output"] and len(args) > 1:
        output, args = Path(args[1]), args[2:]
    output.parent.mkdir(parents=True, exist_ok=True)
    draw_file(trained(run, args).model.network, image, output)
    print(f"feature maps: {output}")


def trained(run: Path, args: list[str]) -> DataOnly:
    """Build a run's experiment, its network as in the best checkpoint.

    Args:
        run: The run directory.
        args: Settings to change, ``--key=value``.

    Raises:
        UserError: The run has no checkpoint yet.
    """
    experiment = DataOnly(_quiet(["-c", str(run / CONFIG), *args]))
    file = run / BEST_CHECKPOINT
    if not file.is_file():
        raise UserError(f"no checkpoint {file}: 'lightning-seg resume {run}' trains the run to its end.")
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    ours = {key: value for key, value in state.items() if key.startswith("network.")}
    experiment.model.network.load_state_dict({key.removeprefix("network."): ours[key] for key in ours})
    return experiment


def _train(args: list[str], then_test: bool, run: Path | None = None) -> Path:
    """Train, perhaps test, and return the run directory."""
    with finishing(), _nothing_left_of_what_never_began(new=run is None):
        experiment = Experiment(_quiet(args), run=run)
        trainer, model, data = experiment.trainer, experiment.model, experiment.datamodule
        trainer.fit(model, data, ckpt_path=experiment.config_init.ckpt_path, weights_only=True)
        if trainer.interrupted:
            finish(KeyboardInterrupt("stopped by the user"))
            print(f"stopped; 'lightning-seg resume {experiment.run_directory}' continues")
        elif then_test:
            callback = trainer.checkpoint_callback
            best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
            trainer.test(model, data, ckpt_path=best or None, verbose=False, weights_only=True)
    assert experiment.run_directory is not None
    return experiment.run_directory


@contextmanager
def _nothing_left_of_what_never_began(new: bool) -> Iterator[None]:
    """Remove the directory of a new run that ended in a user's error before it logged anything."""
    try:
        yield
    except UserError as error:
        made = os.environ.pop(_RUN_VARIABLE, None)
        if new and made and not Path(made, METRICS).exists() and not rank_zero_only.rank:  # type: ignore[attr-defined]
            finish(error)
            shutil.rmtree(made, ignore_errors=True)
        raise


def _run_argument(command: str, args: list[str]) -> tuple[Path, list[str]]:
    if not args or args[0].startswith("-"):
        raise UserError(f"which run? Type 'lightning-seg {command} runs/<experiment>/<id>'.")
    return existing_run(args[0]), args[1:]


def _finished_run(command: str, args: list[str]) -> tuple[Experiment, dict[str, Any]]:
    """Build the objects of a run to evaluate, ``RUN [--key=value ...]`` or ``-c FILE --ckpt_path FILE``.

    Returns:
        The experiment, and what the trainer's method needs.
    """
    if args and args[0].startswith("-"):
        experiment = Experiment(_quiet(args), tracked=False)
        resume_with = ""
    else:
        run, args = _run_argument(command, args)
        experiment = Experiment(_quiet(["-c", str(run / CONFIG), *args]), run=run, tracked=False)
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


def _quiet(args: list[str]) -> list[str]:
    """Silence what libraries say at every start and nobody can act on; errors and real warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data module has measured how many are worth it
        ".*sync_dist=True.*",  # the scores are those of all processes already
        ".*LeafSpec.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # that of the run which is resumed
    ):
        warnings.filterwarnings("ignore", message)
    return args
