"""Making the runs of an ablation on this machine, some at a time; as jobs of SLURM: `lightning_seg.studies.slurm_jobs`.

Each run is a process of its own that writes into the log of its slot. Whoever starts it holds the slot's lock, and
looks again at how far the run is once the lock is taken: so several runners can work on one ablation.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import LAST_CHECKPOINT, TEST_SCORES, TEST_SETS
from lightning_seg.studies.slots import Slot

PROGRAM = [sys.executable, "-m", "lightning_seg"]  # a process of its own for each run
_ENDED = "--- ended after {:.1f} s"
_STOPPED = [signal.Signals[f"SIG{name}"] for name in ("HUP", "INT", "TERM", "KILL", "USR1", "USR2", "XCPU")]
POLL = 0.2  # seconds between two looks at the running processes
_LOOK = 2.0  # seconds between two looks at what a run has scored so far
_LIVES = 4  # of a run that gets nowhere


class Attempt:
    """A run that is being made or continued.

    Args:
        slot: What to run.
        log: The log of the slot, locked; `finish` closes it.
        share: Environment variables that confine it to its share of the machine.
    """

    def __init__(self, slot: Slot, log: IO[bytes], share: Mapping[str, str]) -> None:
        self.slot, self.log, self.share = slot, log, share
        run = slot.run()
        self.resumes = run is not None
        arguments = [slot.command, *slot.arguments] if run is None else slot.continuing(run)
        slot.fail("")
        # One run is one process with the devices it finds: it is no step of the job that started it.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        self.start = time.monotonic()
        self.given_up = ""
        self._look = self.start + _LOOK
        self.begin = log.seek(0, os.SEEK_END)
        log.write(
            f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} lightning-seg {' '.join(arguments)}\n".encode()
        )
        log.flush()
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,  # the process inherits the lock, too
            stderr=subprocess.STDOUT,
            env={**inherited, **share},
            start_new_session=True,  # Ctrl-C reaches it once, through `stop`
        )

    def ended(self) -> bool:
        """Whether the run has ended; one that has become hopeless is asked to."""
        if self.process.poll() is not None:
            return True
        if time.monotonic() > self._look:
            self._look = time.monotonic() + _LOOK
            if not self.given_up and (reason := self.slot.hopeless()):
                self.given_up = reason
                self.stop()
        return False

    def stop(self) -> None:
        """Ask the run to stop as after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> str:
        """Say in a line how it ended; a failure is also kept for later."""
        code = self.process.wait()
        took = duration(time.monotonic() - self.start)
        self.log.write(f"\n{_ENDED.format(time.monotonic() - self.start)}\n".encode())
        self.log.close()
        run = self.slot.run()
        if run is not None and self.slot.finished(run):
            return f"{self.slot.scored(run)}, {took}"
        if self.given_up:
            self.slot.give_up(self.given_up)
            return f"given up after {took}: {self.given_up}"
        number = -code if code < 0 else code - 128  # ended by a signal, or having obeyed it
        if code == 0 or number in _STOPPED:
            return f"stopped after {took}; the same command continues it"
        crash = f"it crashed ({signal.strsignal(number)})" if code < 0 else ""
        self.slot.fail(crash or reason_of_failure(self.slot.log, self.begin))
        return f"FAILED after {took}: {self.slot.failure} ({self.slot.log})"


def run_here(slots: Sequence[Slot], jobs: int, say: Callable[[str], None]) -> None:
    """Make runs on this machine.

    Args:
        slots: What to run.
        jobs: How many at a time; threads and GPUs are divided among them.
        say: Takes a line about each run that begins or ends.

    Raises:
        UserError: It was stopped by Ctrl-C or a signal, or a run shows that all are of no use; the others were stopped,
            too, and can be continued.
    """
    waiting = list(enumerate(slots, 1))
    active: dict[Attempt, str] = {}
    free = shares(jobs)
    with handled((signal.SIGTERM, signal.SIGHUP), _interrupt):
        try:
            while waiting or active:
                while waiting and free:
                    number, slot = waiting.pop(0)
                    place = f"[{number}/{len(slots)}] {slot.name}"
                    log = slot.lock()
                    if log is None or slot.settled():
                        say(f"{place}: another runner {'makes' if log is None else 'made'} it")
                        continue
                    attempt = Attempt(slot, log, free.pop(0))
                    active[attempt] = place
                    say(f"{place}: {'continues' if attempt.resumes else 'starts'}, log {slot.log}")
                time.sleep(POLL)
                for attempt in [a for a in active if a.ended()]:
                    ended = attempt.finish()
                    if reason := fail_if_stuck(attempt.slot):
                        ended = f"FAILED: {reason} ({attempt.slot.log}); --retry tries again"
                    say(f"{active.pop(attempt)}: {ended}")
                    free.append(attempt.share)
                    if reason := attempt.slot.unusable():
                        _stop(active, say)
                        raise UserError(reason)
        except KeyboardInterrupt:
            _stop(active, say)
            raise UserError("stopped; the same command continues") from None


def _stop(active: Mapping[Attempt, str], say: Callable[[str], None]) -> None:
    for attempt in active:
        attempt.stop()
    for attempt, place in active.items():
        say(f"{place}: {attempt.finish()}")


def shares(jobs: int) -> list[Mapping[str, str]]:
    """Divide threads and GPUs among jobs, as environment variables of each; a single job is left everything."""
    if jobs == 1:
        return [{}]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // jobs))
    gpus = _gpus()
    if not gpus:
        return [{"OMP_NUM_THREADS": threads}] * jobs
    ends = [len(gpus) * i // jobs for i in range(jobs + 1)]
    each = [gpus[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    if len(gpus) < jobs:  # some jobs share a GPU
        each = [[gpus[i % len(gpus)]] for i in range(jobs)]
    return [{"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ",".join(some)} for some in each]


def seconds_of(slot: Slot) -> float | None:
    """How long a run took, all its attempts that came to an end together; None if that is not known."""
    try:
        text = slot.log.read_text(errors="replace").rpartition(" lightning-seg exp ")[2]
    except OSError:
        return None
    ended = re.findall("^" + _ENDED.replace("{:.1f}", r"([\d.]+)"), text, re.MULTILINE)
    return sum(map(float, ended)) if ended else None


def starts_since_saved(slot: Slot) -> int:
    """Count how often a run was begun or continued, by its log, since it last got to a checkpoint or to scores."""
    run = slot.run()
    text = slot.log.read_text(errors="replace")
    found = re.findall(r"^--- (\S+ \S+) lightning-seg (.*)$", text, re.MULTILINE)
    # Without a run, only those with these settings.
    own = " ".join([slot.command, *slot.arguments])
    starts = [start for start, arguments in found if run is not None or arguments == own]
    files = (LAST_CHECKPOINT, TEST_SCORES, f"{TEST_SETS}/*/{TEST_SCORES}")
    found_files = [] if run is None else [file for pattern in files for file in run.path.glob(str(pattern))]
    saved = max((file.stat().st_mtime for file in found_files), default=0)
    return sum(time.mktime(time.strptime(start, "%Y-%m-%d %H:%M:%S")) >= saved for start in starts)


def fail_if_stuck(slot: Slot) -> str:
    """Note that a run failed which was ended several times before it had saved anything new, and say so.

    Args:
        slot: Whose attempt has just ended.

    Returns:
        The reason; nothing if it has ended well, has failed anyhow or may try again.
    """
    if slot.state() not in ("half done", "missing") or (lives := starts_since_saved(slot)) < _LIVES:
        return ""
    slot.fail(f"it was ended {lives} times before it had saved anything new")
    return slot.failure


def time_left(slots: Sequence[Slot], left: Sequence[Slot], jobs: int) -> float | None:
    """Estimate the seconds that runs will take, from finished ones of the same variant, or of any.

    Args:
        slots: All runs of an ablation.
        left: Those that are to be made.
        jobs: How many at a time.
    """
    known = {
        slot: seconds for slot in slots if slot not in left and (seconds := seconds_of(slot)) is not None
    }
    if not known:
        return None
    each = []
    for slot in left:
        same = [seconds for other, seconds in known.items() if other.variant == slot.variant]
        each.append(statistics.median(same or list(known.values())))
    return max(sum(each) / jobs, max(each, default=0))


def reason_of_failure(log: Path, begin: int = 0) -> str:
    """Find the line of a log that says why the run ended: the program's own error, or the last exception."""
    text = log.read_bytes()[begin:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("--- ")]
    for pattern in (r"error: ", r"[\w.]+(Error|Exception|Exit)\b"):
        for line in reversed(lines):
            if re.match(pattern, line):
                return line.removeprefix("error: ")
    return lines[-1] if lines else "it printed nothing"


def duration(seconds: float) -> str:
    """Write a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt


@contextmanager
def handled(signals: Iterable[signal.Signals], handle: Callable[[int], None]) -> Iterator[None]:
    """Within the block signals are handled by a function of their number, unless they are ignored, as by nohup."""
    before = {number: signal.getsignal(number) for number in signals}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, lambda number, _: handle(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
