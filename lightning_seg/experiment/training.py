"""Train an experiment, or continue a run, and test it: what the command line and SLURM jobs do."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lightning_seg.callbacks.checkpointing import Stopped
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import Experiment, ExperimentSettings
from lightning_seg.experiment.failures import end_with_first_process, friendly_errors, note_version_mismatch
from lightning_seg.runs.directory import CONFIG
from lightning_seg.runs.records import flatten
from lightning_seg.training.checkpoint_io import newest

# What a checkpoint has decided (its optimizer, schedule and weights silently win), or what the run has already seen.
_DECIDED = (
    "task",
    "model.network",
    "model.optimizer",
    "model.lr_scheduler",
    "model.lr_scaling",
    "model.finetune",
    "data",
)
_STILL_FREE = (
    "root",
    "batch_size",  # in the middle of an epoch the data module refuses another
    "eval_batch_size",
    "crop_size",
    "num_workers",
    "seed",
    "cache",
    "predict_folder",
    "skip_unreadable",
)


def train(args: Sequence[str], then_test: bool, run: Path | None = None) -> Path:
    """Train, perhaps test, and return the run directory.

    Args:
        args: ``-c FILE [--key=value ...]``.
        then_test: Test the best checkpoint.
        run: The directory of an existing run to continue; a new one is made unless given.
    """
    end_with_first_process()
    with note_version_mismatch(run):
        experiment = Experiment(args, run=run)
    trainer, model, data = experiment.trainer, experiment.model, experiment.datamodule
    errors = friendly_errors(trainer, data, lambda: experiment.run_directory)
    with experiment, errors, print_resume_hint(experiment):
        trainer.fit(model, data, ckpt_path=experiment.config_init.ckpt_path, weights_only=True)
        if then_test:
            callback = trainer.checkpoint_callback
            best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
            if not best and trainer.is_global_zero:
                print("no validation has chosen a checkpoint: the last weights are tested")
            trainer.test(model, data, ckpt_path=best or None, verbose=False, weights_only=True)
    return experiment.run_directory


def resume(run: Path, args: list[str]) -> None:
    """Continue a run from its newest whole checkpoint, or from the beginning if it has none, then test.

    Args:
        run: The run directory.
        args: Settings to change, ``--key=value``.

    Raises:
        UserError: They change what the checkpoint has decided, such as the learning rate or the classes.
    """
    if checkpoint := newest(run):
        with note_version_mismatch(run):
            _refuse_decided(run, args)
        args = ["--ckpt_path", str(checkpoint), *args]
    elif not rank_zero_only.rank:  # type: ignore[attr-defined]
        print(f"{run} has no checkpoint yet: it starts from the beginning.")
    train(["-c", str(run / CONFIG), *args], then_test=True, run=run)


def _refuse_decided(run: Path, args: list[str]) -> None:
    if not args:
        return
    file = ["-c", str(run / CONFIG)]
    old, new = (dict(flatten(yaml.safe_load(ExperimentSettings([*file, *more]).text))) for more in ([], args))
    free = {f"data.init_args.{name}" for name in _STILL_FREE}
    for name in [*new, *old]:
        decided = any(name == part or name.startswith(f"{part}.") for part in _DECIDED)
        if not decided or ".".join(name.split(".")[:3]) in free or old.get(name) == new.get(name):
            continue
        again = f"lightning-seg exp {run / CONFIG} {' '.join(args)}"
        remedy = f"a new run: {again}"
        if not name.startswith(("task", "model.network")):
            remedy = f"a new run from these weights: {again} --model.network.init_args.weights=run:{run}"
        raise UserError(
            f"{name} was {old.get(name)} and would be {new.get(name)}: a run that has a checkpoint cannot change it,"
            f" only {remedy}"
        )


@contextmanager
def print_resume_hint(experiment: Experiment) -> Iterator[None]:
    """Say how to continue a run that a signal ends."""
    try:
        yield
    except SystemExit as stop:
        if experiment.trainer.is_global_zero:
            print(
                f"\n{stop if isinstance(stop, Stopped) else 'stopped'} after step {experiment.trainer.global_step};"
                f" 'lightning-seg resume {experiment.run_directory}' continues",
                flush=True,
            )
        if stop.code is None:  # Lightning's, between two batches of the test
            raise Stopped(signal.SIGTERM, experiment.trainer.is_global_zero) from None
        raise
