"""Fair timing: the ways take turns, the median counts, and a ratio is what can be believed."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lightning_seg.plotting.tables import text_table


class Goal(NamedTuple):
    """A ratio of two ways that has to be reached: how many times faster `ours` has to be than `other`."""

    ours: str
    other: str
    least: float


def take_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Time each way once a round, in the order given; a first round warms up and is thrown away.

    Args:
        ways: Functions that do the work once and return the seconds it took.
        rounds: How often each way is timed.

    Returns:
        The seconds of each way, one for each round.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            seconds = way()
            if turn:
                times[name].append(seconds)
    return times


def ratio(times: Mapping[str, Sequence[float]], ours: str, other: str) -> float:
    """Return how many times faster `ours` is: the median over the rounds, whose two halves ran side by side."""
    return statistics.median(b / a for a, b in zip(times[ours], times[other], strict=True))


def table(times: Mapping[str, Sequence[float]], base: str, goals: Sequence[Goal] = (), unit: int = 1) -> str:
    """Render the medians, the speed of each way relative to `base`, and whether the goals are reached.

    Args:
        times: Seconds, as `take_turns` gives them.
        base: The way whose speed is 1.
        goals: Goals on pairs of ways; those whose ways were not timed are left out.
        unit: Images in what was timed; times are given for one.
    """
    rows = []
    for name, seconds in times.items():
        middle = statistics.median(seconds) / unit * 1000
        rows.append([name, f"{middle:.3f}", f"{ratio(times, name, base):.2f}x"])
    lines = [text_table(["", "ms/image", "speed"], rows)]
    lines.append("")
    for goal in goals:
        if goal.ours in times and goal.other in times:
            speed = ratio(times, goal.ours, goal.other)
            verdict = "reached" if speed >= goal.least else "missed"
            lines.append(f"{goal.ours} / {goal.other}: {speed:.2f}x, goal {goal.least:g}x {verdict}")
    load = os.getloadavg()[0]
    lines.append(
        f"{len(next(iter(times.values())))} rounds of turns, medians; load of the machine {load:.1f}"
    )
    return "\n".join(lines)
