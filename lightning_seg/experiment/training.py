"""Train an experiment, or continue a run, and test it: what the command line and SLURM jobs do."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml
from lightning.pytorch.utilities import rank_zero_only

from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import Experiment, ExperimentSettings
from lightning_seg.experiment.failures import end_with_first_process, note_version_mismatch
from lightning_seg.runs.directory import CONFIG
from lightning_seg.runs.records import flatten
from lightning_seg.training.checkpoint_io import newest

# What a checkpoint has decided (its optimizer, schedule and weights silently win), or what the run has already seen.
_DECIDED = (
    "task",
    "seed_everything",
    "model.network",
    "model.optimizer",
    "model.lr_scheduler",
    "model.lr_scaling",
    "model.finetune",
    "model.no_decay",
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
    return experiment.train(then_test)


def resume(run: str | Path, args: Sequence[str] = (), then_test: bool = True) -> Path:
    """Continue a run from its newest whole checkpoint, or from the beginning if it has none, perhaps test.

    Args:
        run: The run directory.
        args: Settings to change, ``--key=value``.
        then_test: Test the best checkpoint.

    Returns:
        The run directory.

    Raises:
        UserError: They change what the checkpoint has decided, such as the learning rate or the classes.

    Examples:
        >>> run = max(Path("runs/demo").iterdir())
        >>> run = resume(run, ["--trainer.max_epochs=2"])
    """
    run = Path(run)
    if checkpoint := newest(run):
        with note_version_mismatch(run):
            changes = _changes(run, args)
        if not rank_zero_only.rank:  # type: ignore[attr-defined]
            print("".join(f"changes  {change}\n" for change in changes), end="", flush=True)
        args = ["--ckpt_path", str(checkpoint), *args]
    elif not rank_zero_only.rank:  # type: ignore[attr-defined]
        print(f"{run} has no checkpoint yet: it starts from the beginning.")
    return train(["-c", str(run / CONFIG), *args], then_test=then_test, run=run)


def _changes(run: Path, args: Sequence[str]) -> list[str]:
    """List what settings change of a run that has a checkpoint, and refuse what that has decided."""
    if not args:
        return []
    file = ["-c", str(run / CONFIG)]
    old, new = (dict(flatten(yaml.safe_load(ExperimentSettings([*file, *more]).text))) for more in ([], args))
    free = {f"data.init_args.{name}" for name in _STILL_FREE}
    if new.get("trainer.fast_dev_run"):
        tried = shlex.join(["lightning-seg", "exp", str(run / CONFIG), *args])
        raise UserError(f"trainer.fast_dev_run tries a new run, and cannot continue one: {tried}")
    for name in [*new, *old]:
        decided = any(name == part or name.startswith(f"{part}.") for part in _DECIDED)
        if not decided or ".".join(name.split(".")[:3]) in free or old.get(name) == new.get(name):
            continue
        again = shlex.join(["lightning-seg", "exp", str(run / CONFIG), *args])
        remedy = f"a new run: {again}"
        if not name.startswith(("task", "model.network")):
            weights = shlex.quote(f"--model.network.init_args.weights=run:{run}")
            remedy = f"a new run from these weights: {again} {weights}"
        raise UserError(
            f"{name} was {old.get(name)} and would be {new.get(name)}: a run that has a checkpoint cannot change it,"
            f" only {remedy}"
        )
    return [f"{key} {old[key]} -> {new[key]}" for key in new if key in old and old[key] != new[key]]
