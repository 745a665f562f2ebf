"""Trackers beside W&B: each is kept equal to a run directory, which stays the truth, by a thread of its own.

While a run trains and after it has ended, what a tracker gets is read from the run directory, by the same code.
"""

import csv
import math
import queue
import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from lightning_seg.runs.directory import METRICS, PICTURES
from lightning_seg.runs.records import Record, read
from lightning_seg.tracking.wandb_logger import one_line

Status = Literal["finished", "failed", "stopped"]
BEST = ("val/miou", "val/mask_ap", "val/pq")  # curves whose best value speaks for a run
_PATIENCE = {"finished": 120.0, "failed": 30.0, "stopped": 10.0}  # seconds that the end of a run may wait
_LONGEST = 100  # characters of an error
_ATTEMPTS = 3  # at the end
_STEADY = 0.1  # seconds within which a reader tries again, while a file is being replaced


@dataclass(frozen=True)
class Row:
    """A row of metrics.csv.

    Attributes:
        step: Optimizer step, counted from 0.
        values: What was logged, by name; the epoch is one of them.
    """

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Picture:
    """A picture of a run directory as it was at a step.

    Attributes:
        name: Its path below ``pictures``, without suffix.
        data: The file's bytes, PNG or JPEG.
        step: Optimizer step.
    """

    name: str
    data: bytes
    step: int


class Tracker(Protocol):
    """What keeps a copy of a run. Its methods may raise anything, and are then called again with the same or more.

    Attributes:
        name: As users write it.
        rewinds: Whether it can take rows back, so that those of steps which no checkpoint holds yet may be sent.
    """

    name: str
    rewinds: bool

    def begin(self, record: Record, rows: list[Row]) -> None:
        """Open the copy, or go on with it.

        Args:
            record: The run directory.
            rows: Those there are; what the copy has beyond them is no longer true.
        """

    def send(self, rows: list[Row], pictures: list[Picture]) -> None:
        """Bring the copy up to date.

        Args:
            rows: All rows so far.
            pictures: Those that may be new.
        """

    def end(self, record: Record, status: Status, scores: Mapping[str, float]) -> None:
        """Close the copy.

        Args:
            record: The run directory, complete.
            status: How the run ended.
            scores: What it scored, by the name of the curve.
        """


@dataclass(frozen=True)
class _Work:
    """What the thread is to do next; newer work takes in older that has failed."""

    before: float = 0.0
    pictures: dict[tuple[str, int], Picture] = field(default_factory=dict)
    end: Status | None = None


class TrackerSync:
    """Sends a run to a tracker while it trains, which never waits for that. A ``with`` block ends it.

    Args:
        tracker: The tracker.
        run: The run directory.
    """

    def __init__(self, tracker: Tracker, run: Path) -> None:
        self.tracker = tracker
        self.run = run
        self._seen: dict[str, tuple[int, int]] = {}  # time and size of each picture
        self._work: queue.Queue[_Work] = queue.Queue()
        self._thread = threading.Thread(target=self._go, daemon=True, name=f"sync-{tracker.name}")
        self._begun = self._done = False
        self._problem = ""
        self._updated = 0.0

    def __enter__(self) -> "TrackerSync":
        """Return the synchronization itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the copy, however the block is left."""
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        self.finish("finished" if error is None else "stopped" if stopped else "failed")

    def update(self, before: float, step: int) -> None:
        """Have the tracker brought up to date.

        Args:
            before: Send rows of steps before this one.
            step: The last optimizer step, to which pictures belong that have changed.
        """
        if not self._thread.is_alive() and not self._done:
            self._thread.start()
        self._updated = time.monotonic()
        pictures = {(p.name, p.step): p for p in self._changed(step)}
        self._work.put(_Work(before, pictures))

    def update_in_between(self, step: int, every: float = 15) -> None:
        """Bring a tracker up to date that can take rows back, if it has not been so for some seconds."""
        if self.tracker.rewinds and time.monotonic() - self._updated > every:
            self.update(float("inf"), step)

    def finish(self, status: Status) -> None:
        """End the copy. Waits for what is not sent yet, not for a server that does not answer, and never raises.

        Args:
            status: How the run ended.
        """
        if self._done or not self._thread.is_alive():
            return  # nothing was trained
        self._done = True
        before = float("inf") if status == "finished" or self.tracker.rewinds else 0.0
        self._work.put(_Work(before, {}, status))
        self._thread.join(_PATIENCE[status])
        problem = self._problem or ("it takes too long" if self._thread.is_alive() else "")
        if problem:
            print(
                f"{self.tracker.name}: not all is sent ({problem}). To send the rest:"
                f" {export_command(self.tracker.name, self.run)}",
                flush=True,
            )

    def _changed(self, step: int) -> Iterator[Picture]:
        for name, file in picture_files(self.run):
            found = file.stat()
            mark = found.st_mtime_ns, found.st_size
            if self._seen.get(name) != mark:
                self._seen[name] = mark
                yield Picture(name, file.read_bytes(), step)

    def _go(self) -> None:
        work, attempts = _Work(), 0
        while work.end is None or (self._problem and attempts < _ATTEMPTS):
            if work.end is None:
                work = _joined(work, self._work.get())
            else:
                time.sleep(1)
            while not self._work.empty():  # it was slow
                work = _joined(work, self._work.get())
            attempts += work.end is not None
            try:
                self._send(work)
                work, self._problem = replace(work, pictures={}), ""
            except Exception as error:  # whatever a server, a disk or a library does, the run goes on
                newest = {name: (name, step) for name, step in work.pictures}
                work = replace(work, pictures={key: work.pictures[key] for key in newest.values()})
                if not self._problem and work.end is None:
                    print(
                        f"{self.tracker.name}: off for now ({_short(error)}); all is in {self.run}",
                        flush=True,
                    )
                self._problem = _short(error)

    def _send(self, work: _Work) -> None:
        rows = [row for row in rows_of(self.run) if row.step < work.before]
        if not self._begun:
            self.tracker.begin(read(self.run), rows)
            self._begun = True
        self.tracker.send(rows, list(work.pictures.values()))
        if work.end is not None:
            record = read(self.run)
            self.tracker.end(record, work.end, scores_of(record, rows))


def export(tracker: Tracker, run: Path) -> str:
    """Send a run that has ended to a tracker, or what the tracker lacks of it.

    Args:
        tracker: The tracker.
        run: The run directory.

    Returns:
        What was sent, in words.
    """
    record, rows = read(run), rows_of(run)
    step = max((row.step for row in rows), default=0)
    pictures = [Picture(name, file.read_bytes(), step) for name, file in picture_files(run)]
    tracker.begin(record, rows)
    tracker.send(rows, pictures)
    status: Status = (
        "failed" if record.environment.get("failed") else "finished" if record.test else "stopped"
    )
    tracker.end(record, status, scores_of(record, rows))
    return f"{len(rows)} rows, {len(pictures)} pictures"


def export_command(name: str, run: Path) -> str:
    """Return the command that sends a run to a tracker."""
    path = Path(run).absolute()
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.join(["lightning-seg", "sync", "--to", name, str(path)])


def rows_of(run: Path) -> list[Row]:
    """Read the rows of metrics.csv that are written whole."""
    end = time.monotonic() + _STEADY
    while True:
        try:
            text = (run / METRICS).read_text()
            break
        except FileNotFoundError:
            return []
        except OSError:
            if time.monotonic() > end:
                raise
    lines = text.splitlines()[: None if text.endswith("\n") else -1]
    found = []
    for line in csv.DictReader(lines):
        values = {}
        for name, value in line.items():
            if name and name != "step" and value:
                values[name] = float(value)
        found.append(Row(int(float(line.get("step") or 0)), values))
    return found


def picture_files(run: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of each picture of a run."""
    folder = run / PICTURES
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".png", ".jpg", ".jpeg"):
            yield file.relative_to(folder).with_suffix("").as_posix(), file


def scores_of(record: Record, rows: list[Row]) -> dict[str, float]:
    """Return what a run scored: of its test what its curves do not end with, and its best validation."""
    last = {name: value for row in rows for name, value in row.values.items()}
    found: dict[str, float] = {}
    for name, value in record.test.get("scores", {}).items():
        if isinstance(value, int | float) and not math.isclose(
            last.get(f"test/{name}", math.nan), value, rel_tol=1e-5
        ):
            found[f"test/{name}"] = float(value)
    for name in BEST:
        values = [row.values[name] for row in rows if name in row.values]
        if values:
            found[f"best/{name}"] = max(values)
    return found


def _short(error: Exception) -> str:
    """Say what went wrong in less than a line: servers and their clients say it at length."""
    text = one_line(error)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _joined(old: _Work, new: _Work) -> _Work:
    return _Work(max(old.before, new.before), old.pictures | new.pictures, new.end or old.end)
