"""Making the runs of an ablation: some at a time on this machine, or as jobs of SLURM.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from lightning_seg.errors import UserError
from lightning_seg.runs.plan import Slot

_ENDED = "--- ended after {:.0f} s"
_POLL = 0.2  # seconds between two looks at the running processes


class Attempt:
    """A run that is being made or continued.

    Args:
        slot: What to run.
        log: The log of the slot, locked.
        cores: The processor cores that it may use; all unless given.
        gpus: The GPUs that it may use; all unless given.
    """

    def __init__(
        self, slot: Slot, log: IO[bytes], cores: Sequence[int] = (), gpus: Sequence[str] = ()
    ) -> None:
        self.slot, self.log = slot, log
        self.start = time.monotonic()
        run = slot.run()
        arguments = ["exp", *slot.arguments] if run is None else ["resume", str(run.path)]
        self.resumed = run is not None
        slot.failure = ""
        # One run is one process with the devices it finds: it is no step of the job that started it.
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "LIGHTNING_SEG_RUN"))}
        if cores:
            ours.setdefault("OMP_NUM_THREADS", str(len(cores)))
        if gpus:
            ours["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        head = f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} lightning-seg {' '.join(arguments)}\n"
        self.attempt_begin = log.seek(0, os.SEEK_END)
        log.write(head.encode())
        log.flush()
        with _affinity(cores):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lightning_seg", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,  # the process inherits the lock, too
                stderr=subprocess.STDOUT,
                env=ours,
                start_new_session=True,  # Ctrl-C reaches it once, through `stop`
            )

    def stop(self) -> None:
        """Ask the run to stop as after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> str:
        """Say in a line how it ended; a failure is also kept for later."""
        code = self.process.wait()
        seconds = time.monotonic() - self.start
        self.log.write(f"\n{_ENDED.format(seconds)}\n".encode())
        self.log.flush()
        run = self.slot.run()
        if run is not None and run.test:
            return f"mIoU {100 * run.score('miou'):.1f}, {duration(seconds)}"
        if code <= 0 or code > 128:  # by a signal, which it may have handled; 0 where it was asked to stop
            by = f" by {signal.Signals(abs(code) % 128).name}" if code else ""
            return f"stopped{by} after {duration(seconds)}; the next start continues it"
        reason = reason_of_failure(self.slot.log, self.attempt_begin)
        self.slot.failure = reason
        return f"FAILED after {duration(seconds)}: {reason} ({self.slot.log})"


def run_here(slots: Sequence[Slot], jobs: int, say: Callable[[str], None]) -> None:
    """Make runs on this machine.

    Args:
        slots: What to run.
        jobs: How many at a time; cores and GPUs are divided among them.
        say: Takes a line about each run that begins or ends.

    Raises:
        UserError: It was stopped by Ctrl-C or a signal; so were the runs, which can be continued.
    """
    waiting = list(enumerate(slots, 1))
    active: dict[Attempt, tuple[str, int, ExitStack]] = {}
    free = list(range(jobs))
    with ExitStack() as locks, _signals_interrupt():
        try:
            while waiting or active:
                while waiting and free:
                    number, slot = waiting.pop(0)
                    place = f"[{number}/{len(slots)}] {slot.name}"
                    lock = ExitStack()
                    log = lock.enter_context(slot.lock())
                    locks.push(lock)
                    if log is None or slot.state() == "done":
                        say(
                            f"{place}: {'another runner makes it' if log is None else 'another runner made it'}"
                        )
                        lock.close()
                        continue
                    share = free.pop(0)
                    attempt = Attempt(slot, log, *shares(jobs)[share])
                    say(f"{place}: {'continues' if attempt.resumed else 'starts'}, log {slot.log}")
                    active[attempt] = place, share, lock
                time.sleep(_POLL)
                for attempt in [a for a in active if a.process.poll() is not None]:
                    place, share, lock = active.pop(attempt)
                    say(f"{place}: {attempt.finish()}")
                    lock.close()
                    free.append(share)
        except KeyboardInterrupt:
            for attempt in active:
                attempt.stop()
            for attempt, (place, _, _) in active.items():
                say(f"{place}: {attempt.finish()}")
            raise UserError("stopped; the same command continues") from None


def run_one(slot: Slot) -> str:
    """Make one run with all of this machine that it finds, unless somebody else does, and say how it ended."""
    with slot.lock() as log:
        if log is None:
            return "another runner makes it"
        if slot.state() == "done":
            return "done before"
        return Attempt(slot, log).finish()


class Job:
    """A run as a SLURM job: submitit calls it, and puts it into the queue again when its time is up.

    Args:
        slot: What to run.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def __call__(self) -> str:
        """Make the run, or continue it."""
        return run_one(self.slot)

    def checkpoint(self) -> Any:
        """Say what to do after a timeout or preemption: the same again, which continues the run."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    slots: Sequence[Slot], folder: Path, jobs: int, parameters: Mapping[str, Any], cluster: str = "slurm"
) -> list[str]:
    """Submit runs as one array of SLURM jobs.

    Args:
        slots: What to run.
        folder: Where the jobs are described and log; the cluster's machines must see it.
        jobs: How many may run at a time.
        parameters: Of a job, as `submitit.AutoExecutor.update_parameters` takes them.
        cluster: ``slurm``; submitit also has ``local``.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: submitit is not installed, there is no SLURM, or it refuses the parameters.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "SLURM jobs need the package submitit: .venv/bin/uv pip install --python .venv/bin/python submitit"
        ) from None
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        array = {"slurm_array_parallelism": jobs} if cluster == "slurm" else {}
        executor.update_parameters(name=folder.parent.name, **array, **parameters)
        submitted = executor.map_array(Job.__call__, [Job(slot) for slot in slots])
    except (NameError, RuntimeError, TypeError, ValueError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"the jobs could not be submitted: {error}") from None
    return [str(job.job_id) for job in submitted]


def shares(jobs: int) -> list[tuple[list[int], list[str]]]:
    """Divide the cores and GPUs that this process may use among jobs; a single job is left everything.

    Returns:
        For each job its cores and GPUs; nothing where it may take what it likes.
    """
    if jobs == 1:
        return [([], [])]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return list(zip(_divide(cores, jobs), _divide(_gpus(), jobs), strict=True))


def seconds_of(slot: Slot) -> float | None:
    """How long a run took, all its attempts that came to an end together; None if that is not known."""
    try:
        text = slot.log.read_text(errors="replace").rpartition(" lightning-seg exp ")[2]
    except OSError:
        return None
    ended = re.findall("^" + _ENDED.replace("{:.0f}", r"(\d+)"), text, re.MULTILINE)
    return float(sum(map(int, ended))) or None


def time_left(slots: Sequence[Slot], left: Sequence[Slot], jobs: int) -> float | None:
    """Estimate the seconds that runs will take, from finished ones of the same variant, or of any.

    Args:
        slots: All runs of an ablation.
        left: Those that are to be made.
        jobs: How many at a time.
    """
    known = {slot: seconds for slot in slots if slot not in left and (seconds := seconds_of(slot))}
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

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return names if torch.cuda.device_count() else []


def _divide(things: list, parts: int) -> list[list]:
    """Give each part its share; if there are fewer things than parts, parts have to share one."""
    if len(things) < parts:
        return [things[i % len(things) :][:1] if things else [] for i in range(parts)]
    ends = [len(things) * i // parts for i in range(parts + 1)]
    return [things[a:b] for a, b in zip(ends, ends[1:], strict=False)]


@contextmanager
def _affinity(cores: Sequence[int]) -> Iterator[None]:
    """Within the block new processes are confined to these cores, if any are given."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Within the block a request to end, or a lost terminal, is what Ctrl-C is."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    names = (signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.getsignal(name) for name in names}
    try:
        for name in names:
            if before[name] is not signal.SIG_IGN:  # as nohup wants it
                signal.signal(name, interrupt)
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
