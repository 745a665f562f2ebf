"""Upload what runs logged offline, or could not upload, to Weights & Biases."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_seg.errors import UserError
from lightning_seg.runs.records import find
from lightning_seg.tracking.transaction_log import has_files, mend, read_log

_BUSY = 600  # seconds without a line after which a run without an end is taken for dead
_PATIENCE = 10  # seconds the server has to show what it was sent


@dataclass(frozen=True)
class Log:
    """What the logs of a run hold, all parts of a resumed one together.

    Attributes:
        run: Path of the W&B run, ``entity/project/id``; the entity may be missing.
        id: The last part of that.
        rows: Number of rows of the history.
        files: Names of the files it logged.
        artifacts: Digests of its artifacts whose files are there, the inputs not among them.
    """

    run: str = ""
    id: str = ""
    rows: int = 0
    files: frozenset[str] = frozenset()
    artifacts: frozenset[str] = frozenset()


def logs_to_upload(folders: Sequence[Path], again: bool = False) -> tuple[dict[Path, list[Path]], list[Path]]:
    """Find the logs that the server does not have in full.

    Args:
        folders: Run directories, or folders of them.
        again: Whether to take also what was uploaded before.

    Returns:
        The logs of each run, oldest first, and the runs that are left alone because they may still be running.
    """
    waiting: dict[Path, list[Path]] = {}
    busy: list[Path] = []
    for run_dir in find(folders):
        parts = [part for part in _parts(run_dir) if again or not _is_uploaded(part)]
        if parts and _is_busy(parts[-1]):
            busy.append(run_dir)
        elif parts:
            waiting[run_dir] = parts
    return waiting, busy


def upload(api: Any, waiting: Mapping[Path, list[Path]]) -> dict[Path, str]:
    """Upload runs, ask the server what it has got, and print that.

    Args:
        api: A ``wandb.Api``.
        waiting: The logs to upload of each run directory, oldest first.

    Returns:
        For each run what did not arrive; an empty string if nothing is missing.
    """
    lost = {
        run: [name for part in parts for name in mend(part, run.absolute())] for run, parts in waiting.items()
    }
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", "--include-synced", "--yes"]
    with tempfile.TemporaryDirectory() as cache:  # for its logs and a copy of every checkpoint
        done = subprocess.run(
            [*command, *(str(part) for parts in waiting.values() for part in parts)],
            env=os.environ
            | {
                "WANDB_DIR": cache,
                "WANDB_CACHE_DIR": cache,
                "WANDB_ERROR_REPORTING": "false",
                "WANDB_SILENT": "false",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    errors = [line.partition("ERROR")[2].strip() for line in done.stdout.splitlines() if "ERROR" in line]
    found = {}
    for run_dir, parts in waiting.items():
        log = _summarise(_parts(run_dir))
        # Neither its exit status nor its messages tell of all that the server did not take.
        missing = _missing(api, log)
        if missing:
            missing += [error for error in errors if log.id in error]
            for part in parts:
                _mark(part).unlink(missing_ok=True)
        print(f"{run_dir}: {'; '.join(missing) or _success(api, log)}", flush=True)
        for name in lost[run_dir]:
            print(f"  left out, for its file is gone or has changed: {name}")
        found[run_dir] = "; ".join(missing)
    return found


def _missing(api: Any, log: Log) -> list[str]:
    """Ask the server what it lacks of a run; it may need a moment to show what it was sent."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            run = api.run(_path(api, log))
            rows = run.lastHistoryStep + 1
            files = log.files - {file.name for file in run.files()}
            artifacts = log.artifacts - {artifact.digest for artifact in run.logged_artifacts()}
        except Exception as error:  # whatever the server answers
            return [f"the server cannot be asked what arrived ({str(error).splitlines()[0]})"]
        missing = [f"{rows} of {log.rows} rows arrived"] * (rows < log.rows)
        missing += [f"{len(files)} of {len(log.files)} files are missing"] * bool(files)
        missing += [f"{len(artifacts)} of {len(log.artifacts)} artifacts are missing"] * bool(artifacts)
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(1)
        api.flush()


def account() -> Any:
    """Return a ``wandb.Api`` of the account known here.

    Raises:
        UserError: There is none, or its server does not answer.
    """
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    if not wandb.login(prompt=False, verify=False):
        raise UserError("no W&B account known: type 'wandb login' once, or set WANDB_API_KEY")
    try:
        api = wandb.Api()
        if not api.default_entity:
            raise UserError("the W&B server does not know this key: type 'wandb login --relogin'")
    except UserError:
        raise
    except Exception as error:  # whatever it is that wandb met
        raise UserError(f"the W&B server cannot be reached: {str(error).splitlines()[0]}") from None
    return api


def _parts(run_dir: Path) -> list[Path]:
    """List the logs of a run, oldest first; their folders are named by the time they were begun."""
    return sorted(
        run_dir.glob("wandb/*run-*/*.wandb"), key=lambda file: file.parent.name.partition("run-")[2]
    )


def _mark(part: Path) -> Path:
    """Return the file by which ``wandb sync`` remembers that it has uploaded a log."""
    return part.with_name(f"{part.name}.synced")


def _is_uploaded(part: Path) -> bool:
    """Tell whether all of a log is on the server: uploaded later, or while it was written and without an error."""
    if _mark(part).exists() or part.parent.name.startswith("offline-"):
        return _mark(part).exists()
    with suppress(OSError, ValueError):
        entries = [
            json.loads(line)
            for line in (part.parent / "logs" / "debug-internal.log").read_text().splitlines()
        ]
        refused = any(entry["level"].startswith("ERROR") for entry in entries)
        return not refused and entries[-1]["msg"] == "stream: all finished"
    return False


def _is_busy(part: Path) -> bool:
    """Tell whether a run may still be writing to its last log: it has no end, and a line of late."""
    ended = any(record.WhichOneof("record_type") == "exit" for record in read_log(part))
    return not ended and time.time() - part.stat().st_mtime < _BUSY


def _summarise(parts: list[Path]) -> Log:
    name, number, rows, files, artifacts = "", "", 0, set(), set()
    for part in parts:
        for record in read_log(part):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
                number = run.run_id
                name = "/".join(filter(None, (run.entity, run.project, run.run_id)))
            elif kind == "history":
                rows += 1
            elif kind == "files":
                files |= {
                    file.path for file in record.files.files if (part.parent / "files" / file.path).exists()
                }
            elif kind == "artifact" and record.artifact.type != "dataset" and has_files(record.artifact):
                artifacts.add(record.artifact.digest)
    return Log(name, number, rows, frozenset(files), frozenset(artifacts))


def _path(api: Any, log: Log) -> str:
    return log.run if log.run.count("/") > 1 else f"{api.default_entity}/{log.run}"


def _success(api: Any, log: Log) -> str:
    url = api.run(_path(api, log)).url
    return f"rows {log.rows}, files {len(log.files)}, artifacts {len(log.artifacts)}: all arrived, {url}"
