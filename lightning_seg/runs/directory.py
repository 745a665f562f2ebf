"""Where a run lives: ``runs/<experiment>/<id>/``, the one place everything about a run is read from."""

import secrets
import shlex
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lightning_seg.errors import UserError

_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{i}" for kind in ("COM", "LPT") for i in range(1, 10))}
_STAMP = "%Y%m%d-%H%M%S"

JsonObject = dict[str, Any]
"""What the files of a run hold, YAML as JSON: names, and plain values of whatever type a file may have."""

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.csv"
TEST_SCORES = "test.json"
TEST_IMAGES = "test_images.npz"
TEST_SETS = "test_sets"  # a folder for each further test set, laid out as a run directory is
SEARCHES = "searches/"  # in front of the name of a search, whose trials are not meant to be tested
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
        UserError: The name cannot be that of a folder below the root, or the root cannot be written.
    """
    check_name(experiment)
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


def check_name(experiment: str) -> None:
    """Check that the name of an experiment makes a folder within that of all runs, on any system.

    Raises:
        UserError: It is empty or absolute, leads out of the folder, or has characters that not every system allows.
    """
    if wrong := next((why for part in experiment.split("/") if (why := _fault_of(part))), ""):
        raise UserError(
            f"name: an experiment cannot be named {experiment!r}: {wrong}. Choose another with --name=NAME; a slash"
            " makes sub-folders."
        )


def _fault_of(part: str) -> str:
    """Say why a part of a name cannot be a folder; nothing if it can."""
    if part in ("", ".", ".."):
        return f"a part of it is {part!r}, which is no name of a folder"
    if bad := [letter for letter in part if not letter.isprintable() or letter in '<>:"\\|?*']:
        return f"{bad[0]!r} is not allowed in names of folders on every system"
    if part != part.strip() or part.endswith("."):
        return f"{part!r} begins or ends with a space, or ends with a dot"
    if part.partition(".")[0].upper() in _RESERVED:
        return f"{part!r} is a device on Windows"
    return f"{part[:20]!r}... is too long" if len(part.encode()) > 200 else ""


def best_checkpoint(place: str | Path) -> Path:
    """Find the best checkpoint of a run.

    Args:
        place: A run directory, the directory of an experiment (its latest run that has a best checkpoint), or a
            checkpoint file.

    Raises:
        UserError: There is none.
    """
    path = Path(place)
    return path if path.is_file() else existing_run(place, BEST_CHECKPOINT) / BEST_CHECKPOINT


def resume_command(run: str | Path, *arguments: str) -> str:
    """Return the command that continues a run, in quotes, as it can be typed."""
    words = ["lightning-seg", "resume", str(run), *arguments]
    command = shlex.join(words)
    return f"'{command}'" if command == " ".join(words) else command


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
    if not str(path).strip():  # which would be the current folder
        raise UserError("the name of a run is empty. Runs are in runs/<experiment>/<id>/.")
    path = Path(path)
    runs = [path] if (path / CONFIG).is_file() else sorted(p.parent for p in path.glob(f"*/{CONFIG}"))
    complete = [run for run in runs if (run / holding).is_file()]
    if complete:
        return complete[-1]  # their names begin with the time
    if runs:
        raise UserError(f"{runs[-1]} has no {holding} yet: train it first, or choose another run.")
    raise UserError(f"{path} is no run directory: it has no {CONFIG}. Runs are in runs/<experiment>/<id>/.")
