"""Where a run lives: ``runs/<experiment>/<id>/``, the one place everything about a run is read from."""

import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from lightning_seg.errors import UserError

_STAMP = "%Y%m%d-%H%M%S"

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.csv"
TEST_SCORES = "test.json"
TEST_IMAGES = "test_images.npz"
PICTURES = "pictures"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
LAST_CHECKPOINT = "checkpoints/last.ckpt"
PREVIOUS_CHECKPOINT = "checkpoints/previous.ckpt"  # the last but one


def new_run(root: Path, experiment: str) -> Path:
    """Create the directory of a new run; two runs started in the same second get two directories.

    Its name is later than those of all runs before, even if the clock was put back.

    Args:
        root: The folder of all runs.
        experiment: Name of the experiment.

    Raises:
        UserError: The folder cannot be written.
    """
    folder = root / experiment
    time = datetime.now()
    for earlier in folder.glob("*-*-*"):
        with suppress(ValueError):  # not a run
            time = max(time, datetime.strptime(earlier.name[:-5], _STAMP) + timedelta(seconds=1))
    run = folder / f"{time.strftime(_STAMP)}-{secrets.token_hex(2)}"
    try:
        run.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"cannot create the run directory {run}: {error.strerror}; choose another with --runs"
        ) from error
    return run


def best_checkpoint(place: str | Path) -> Path:
    """Find the best checkpoint of a run.

    Args:
        place: A run directory, the directory of an experiment (its latest run that has a best checkpoint), or a
            checkpoint file.

    Raises:
        UserError: There is none.
    """
    path = Path(place)
    for file in (path, path / BEST_CHECKPOINT, *sorted(path.glob(f"*/{BEST_CHECKPOINT}"), reverse=True)):
        if file.is_file():
            return file
    raise UserError(
        f"{existing_run(path)} has no {BEST_CHECKPOINT} yet: train it first, or choose another run or checkpoint."
    )


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that whoever reads it, now or after a crash, sees all of the old or all of the new."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def existing_run(path: str | Path) -> Path:
    """Check that a path is a run directory.

    Args:
        path: The directory of a run, or of an experiment, which stands for its latest run.

    Raises:
        UserError: Neither.
    """
    path = Path(path)
    if (path / CONFIG).is_file():
        return path
    runs = sorted(p.parent for p in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
    if runs:
        return runs[-1]
    raise UserError(f"{path} is no run directory: it has no {CONFIG}. Runs are in runs/<experiment>/<id>/.")
