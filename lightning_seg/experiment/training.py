"""Train an experiment, or continue a run, and test it: what the command line and SLURM jobs do."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lightning_seg.callbacks.checkpointing import Stopped
from lightning_seg.experiment.experiment import Experiment
from lightning_seg.experiment.failures import end_with_first_process, friendly_errors, note_version_mismatch
from lightning_seg.runs.directory import CONFIG
from lightning_seg.training.checkpoint_io import newest


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
    """
    if checkpoint := newest(run):
        args = ["--ckpt_path", str(checkpoint), *args]
    elif not rank_zero_only.rank:  # type: ignore[attr-defined]
        print(f"{run} has no checkpoint yet: it starts from the beginning.")
    train(["-c", str(run / CONFIG), *args], then_test=True, run=run)


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
