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
    return path if path.is_file() else existing_run(path, BEST_CHECKPOINT) / BEST_CHECKPOINT


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that whoever reads it, now or after a crash, sees all of the old or all of the new."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def existing_run(path: str | Path, holding: str = CONFIG) -> Path:
    """Find the run directory that a path stands for.

    Args:
        path: The directory of a run, or of an experiment, which stands for its latest run.
        holding: A file that the run must have; of an experiment's runs those without it are passed over.

    Raises:
        UserError: The path is neither, or no run has the file.
    """
    path = Path(path)
    runs = [path] if (path / CONFIG).is_file() else sorted(p.parent for p in path.glob(f"*/{CONFIG}"))
    complete = [run for run in runs if (run / holding).is_file()]
    if complete:
        return complete[-1]  # their names begin with the time
    if runs:
        raise UserError(f"{runs[-1]} has no {holding} yet: train it first, or choose another run.")
    raise UserError(f"{path} is no run directory: it has no {CONFIG}. Runs are in runs/<experiment>/<id>/.")
