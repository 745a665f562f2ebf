"""How long a command takes to answer, beside the imports that nobody can avoid."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lightning_seg.bench.timing import take_turns
from lightning_seg.plotting.tables import text_table

HELP, NAME, IMPORT, ERROR, STEP = (
    "--help",
    "unknown experiment",
    "import lightning.pytorch.cli",
    "misspelt setting",
    "quickstart, first training step",
)
GOALS = {HELP: ("s", 1.0), NAME: ("s", 1.0), ERROR: ("x", 1.2), STEP: ("x", 1.6)}


def measure(rounds: int) -> dict[str, list[float]]:
    """Time the start of commands, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        return take_turns(ways(Path(folder)), rounds)


def table(times: dict[str, list[float]]) -> str:
    """Lay out the medians, and whether the goals are reached."""
    base = statistics.median(times[IMPORT])
    rows = []
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        unit, most = GOALS.get(name, ("", 0.0))
        value = middle if unit == "s" else middle / base
        goal = f"<= {most:g} {unit}: {'reached' if value <= most else 'missed'}" if unit else ""
        rows.append([name, f"{middle:.2f}", f"{middle / base:.2f}x", goal])
    text = text_table(["", "seconds", "of the import", "goal"], rows, left=(0, 3))
    remark = "medians; the last is the whole process, writing a checkpoint included"
    return f"{text}\n{len(times[IMPORT])} rounds of turns, {remark}"


def ways(folder: Path) -> dict[str, Callable[[], float]]:
    """Return the starts, each of which returns its seconds; runs are written into a folder."""
    ours = [sys.executable, "-m", "lightning_seg"]
    one_step = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--wandb.mode=disabled"]
    return {
        HELP: _process([*ours, "--help"]),
        NAME: _process([*ours, "exp", "quickstrat"]),
        IMPORT: _process([sys.executable, "-c", "import lightning.pytorch.cli"]),
        ERROR: _process([*ours, "exp", "quickstart", "--trainer.max_epoch=1"]),
        STEP: _process([*ours, "fit", "-c", "experiments/quickstart.yaml", f"--runs={folder}", *one_step]),
    }


def _process(command: list[str]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        subprocess.run(command, capture_output=True)
        return time.perf_counter() - start

    return run
