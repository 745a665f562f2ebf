"""Looking after run directories: how large they are, which are at work, what may be deleted."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import BEST_CHECKPOINT, CONFIG, METRICS, existing_run
from lightning_seg.runs.records import RUN_ID, Record, find, read

PARTS = ("checkpoints", "pictures", "wandb")  # of a run directory, those that grow
_BUSY = 600  # seconds since its last line for which an untested run may still be running


def exact_run(path: Path) -> Record:
    """Read exactly this run directory; unlike `existing_run` this does not guess which run was meant.

    Raises:
        UserError: It is none; the message says so if it is an experiment's.
    """
    if runs := _runs_of_experiment(path):
        raise UserError(
            f"{path} is the folder of an experiment, not a run directory, and which of its runs is meant is not"
            f" guessed: it has {len(runs)}. Name the run, such as {runs[-1]}; {path}/* is all of them"
        )
    if path.is_symlink() or not path.is_dir():
        raise UserError(
            f"no run directory {path}: expected runs/<experiment>/<id>; 'lightning-seg runs' lists them"
        )
    if not ((path / CONFIG).is_file() or RUN_ID.fullmatch(path.absolute().name)):
        raise UserError(f"{path} is no run directory: it has no {CONFIG}; 'lightning-seg runs' lists them")
    return read(path)


def exact_or_latest_run(path: Path) -> Record:
    """Read this run directory, or of an experiment's the latest run in it.

    Raises:
        UserError: It is neither.
    """
    return read(existing_run(path)) if _runs_of_experiment(path) else exact_run(path)


def _runs_of_experiment(path: Path) -> list[Path]:
    """List the runs in the directory of an experiment, the latest last; a run directory has none."""
    return [] if (path / CONFIG).is_file() else sorted(file.parent for file in path.glob(f"*/{CONFIG}"))


def is_busy(record: Record) -> bool:
    """Whether a run may still be training: it is neither tested, failed nor broken, and wrote curves lately."""
    try:
        return record.status == "not tested" and time.time() - (record.path / METRICS).stat().st_mtime < _BUSY
    except OSError:
        return False


def delete(record: Record) -> None:
    """Delete a run, and the folder of its experiment with the last one.

    Raises:
        UserError: A file or folder in it cannot be deleted.
    """
    try:
        shutil.rmtree(record.path)
    except OSError as error:
        raise UserError(
            f"{record.path} cannot be deleted, or only in part: {error.filename}: {error.strerror}. Make the folder and"
            " what is in it writable, then delete the run again."
        ) from error
    if not any(record.path.parent.iterdir()):
        record.path.parent.rmdir()


def superseded_checkpoints(folders: Sequence[Path], days: float) -> list[Path]:
    """List the checkpoints beside the best one of tested runs.

    Args:
        folders: Run directories, or folders of them.
        days: Age from which a checkpoint is listed.
    """
    old: list[Path] = []
    for path in find(folders):
        # Without the best one the others are all there is; without a test the run may still go on.
        best = path / BEST_CHECKPOINT
        if read(path).status == "tested" and best.is_file():
            others = (f for f in best.parent.iterdir() if f.is_file() and f != best)
            old += [f for f in others if time.time() - f.stat().st_mtime > days * 86400]
    return old


def disk_usage(folders: Sequence[Path]) -> dict[str, list[int]]:
    """Add up what the runs of each experiment take.

    Returns:
        For each experiment, largest first: its runs, the bytes of each of `PARTS`, of all else, and of everything.
    """
    by_experiment: dict[str, list[int]] = {}
    for path in find(folders):
        sizes = [size_of(path / part) for part in PARTS]
        total = size_of(path)
        sums = by_experiment.setdefault(str(path.parent), [0] * (len(PARTS) + 3))
        for i, value in enumerate((1, *sizes, total - sum(sizes), total)):
            sums[i] += value
    return dict(sorted(by_experiment.items(), key=lambda item: -item[1][-1]))


def size_of(path: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())
