"""Choosing the settings of a variant by its validation scores: what is tried, what is best, what lies at an edge."""

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_seg.analysis.groups import short
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import JsonObject
from lightning_seg.studies.parameters import check_parameter, distribution
from lightning_seg.studies.search import FIRST_SEED

_KEYS = ("settings", "seeds", "by", "goal", "extend", "trials", "minutes", "early_stop")
_NOT_TUNED = {
    **dict.fromkeys(
        ("seed_everything", "name", "runs"), "it tells runs apart; seeds are listed under tune's seeds"
    ),
    **dict.fromkeys(
        (
            "data",
            "data.init_args",
            "data.class_path",
            "test_sets",
            *(f"data.init_args.{key}" for key in ("train_split", "val_split", "test_split", "split_ratios")),
            *(f"data.init_args.{key}" for key in ("fold", "folds", "root")),
        ),
        "it says which images are trained on, choose and are tested",
    ),
}
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # without a point YAML takes it for a text
_MOST = 512  # trials, where minutes decide how many there are


@dataclass(frozen=True)
class Tuning:
    """How the settings of a variant are chosen.

    Attributes:
        settings: For each setting the values to try, or a range as in `lightning_seg.studies.search`.
        seeds: With which each choice is tried; others than those that are reported.
        by: The curve whose best value counts, of the validation split; what chooses the checkpoint unless given.
        goal: ``minimize`` or ``maximize``, for a curve of which that is not known.
        extend: How often to go on beyond the edge of the grid while the best lies there.
        trials: How many choices to try, spread evenly over the ranges; all of a grid unless given.
        minutes: Choices are tried until so many minutes of training are spent.
        early_stop: Whether trials are given up that are hopeless beside the others, by Hyperband's rule.
    """

    settings: JsonObject
    seeds: tuple[int, ...] = (FIRST_SEED,)
    by: str = ""
    goal: str = ""
    extend: int = 0
    trials: int | None = None
    minutes: float | None = None
    early_stop: bool = False

    @property
    def is_grid(self) -> bool:
        """Whether every setting has a list of values, and all of them are tried."""
        lists = all(isinstance(values, list) for values in self.settings.values())
        return lists and self.trials is None and self.minutes is None


@dataclass(frozen=True)
class Point:
    """One choice of settings.

    Attributes:
        values: Setting and value.
        label: For names of files and for people, such as ``lr=0.001``.
    """

    values: tuple[tuple[str, Any], ...]
    label: str

    @property
    def overrides(self) -> list[str]:
        """The choice as arguments."""
        return [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.values
        ]


def read_tuning(content: object, where: str, reported: Sequence[int]) -> Tuning | None:
    """Read ``tune`` of an ablation or a variant.

    Args:
        content: A grid ``{setting: [value, ...]}``, or ``{settings: ..., seeds: ...}``; nothing for no tuning.
        where: The file and the part of it, for messages.
        reported: The seeds of the runs that are reported.

    Raises:
        UserError: Something in it is wrong.
    """
    if content is None or content is False:
        return None
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{where} must be {{SETTING: [VALUE, ...]}} or {{settings: ..., ...}}, got {content!r}"
        )
    given = content if "settings" in content else {"settings": content}
    if unknown := [key for key in given if key not in _KEYS]:
        raise UserError(f"{where}: there is no {unknown[0]!r}; expected some of {', '.join(_KEYS)}")
    settings: Any = given["settings"]
    trials: Any = given.get("trials")
    minutes: Any = given.get("minutes")
    if not isinstance(settings, dict) or not settings:
        raise UserError(f"{where}: settings must be {{SETTING: [VALUE, ...]}}, got {settings!r}")
    for key in settings:
        if key in _NOT_TUNED:
            raise UserError(f"{where}: {key} cannot be tuned: {_NOT_TUNED[key]}")
        if key in _KEYS:
            raise UserError(
                f"{where}: beside {key} the settings stand under their own key: {{settings: {{SETTING: [VALUE, ...]}},"
                f" {key}: ...}}"
            )
    settings = {key: _checked(key, values, where) for key, values in settings.items()}
    for key, values in settings.items():
        if isinstance(values, dict) and trials is None and minutes is None:
            raise UserError(f"{where}: {key} is a range: say how many trials, as in trials: 12, or minutes")
    seeds, extend = given.get("seeds", 1), given.get("extend", 0)
    numbers = (
        seeds if isinstance(seeds, list) else range(FIRST_SEED, FIRST_SEED + _whole(seeds, where, "seeds"))
    )
    own = tuple(_whole(seed, where, "seeds") for seed in numbers)
    if shared := sorted({*own} & {*reported}):
        raise UserError(
            f"{where}: seed {shared[0]} would both choose settings and be reported; tune with other seeds, such as"
            f" {FIRST_SEED}"
        )
    by, goal, stop = str(given.get("by") or ""), given.get("goal") or "", given.get("early_stop")
    if goal not in ("", "minimize", "maximize"):
        raise UserError(f"{where}: goal must be minimize or maximize, got {goal!r}")
    if by and not by.startswith("val/"):
        raise UserError(
            f"{where}: settings are chosen by a score of the validation split, such as val/miou, not {by}"
        )
    if stop not in (None, False, "hyperband"):
        raise UserError(f"{where}: early_stop must be hyperband, or left away; got {stop!r}")
    if not own or (trials is not None and _whole(trials, where, "trials") < 1):
        raise UserError(f"{where}: seeds and trials must be at least 1")
    if minutes is not None and not (_number(minutes) and minutes > 0):
        raise UserError(f"{where}: minutes must be a number above 0, got {minutes!r}")
    if len({*own}) < len(own):
        raise UserError(f"{where}: each seed counts once, got {list(own)}")
    if trials is not None and all(isinstance(values, list) for values in settings.values()):
        trials = None if trials >= math.prod(map(len, settings.values())) else trials  # the whole grid
    tuning = Tuning(settings, own, by, goal, _whole(extend, where, "extend"), trials, minutes, bool(stop))
    if tuning.extend and not tuning.is_grid:
        raise UserError(
            f"{where}: extend goes beyond the edge of a whole grid; with trials, widen the ranges instead"
        )
    return tuning


def _checked(key: str, values: Any, where: str) -> Any:
    """Check what is tried of a setting; YAML takes 1e-4 for a text, which is a number here."""
    if isinstance(values, list) and values:
        return [as_number(value) for value in values]
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: {key} needs a list of values, or a range such as {{min: 1, max: 9}}; got {values!r}"
        )
    values = {name: as_number(value) for name, value in values.items()}
    check_parameter(where, key, values)
    if "min" not in values:
        raise UserError(f"{where}: {key} needs a list of values, or min and max; got {values!r}")
    low, high = values["min"], values["max"]
    if not (_number(low) and _number(high) and low < high):
        raise UserError(f"{where}: {key}: min must be below max, got {low!r} and {high!r}")
    if low <= 0 and distribution(values) == "log_uniform_values":
        raise UserError(f"{where}: {key} has a logarithmic range, whose min must be above 0; got {low}")
    return values


def as_number(value: Any) -> Any:
    """Turn a text such as 1e-4, which YAML takes for no number, into one."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _whole(value: object, where: str, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"{where}: {name} must be a whole number, got {value!r}")
    return value


def points(tuning: Tuning) -> list[Point]:
    """List what is tried at first; of trials with a limit of minutes as many as there could be.

    Trials are spread evenly by a scrambled Halton sequence (the same for every variant), which neither chance nor
    the results change: so they can be made in any order, anywhere, and continued.
    """
    keys, values = list(tuning.settings), list(tuning.settings.values())
    if all(isinstance(v, list) for v in values):
        chosen = list(itertools.product(*values))
        if not tuning.is_grid:
            order = np.random.default_rng(0).permutation(len(chosen))
            chosen = [chosen[i] for i in order[: tuning.trials]]
    else:
        from scipy.stats import qmc

        sequence = qmc.Halton(len(keys), rng=0).random(tuning.trials or _MOST)
        chosen = [tuple(map(_at, values, place)) for place in sequence.tolist()]
    found: dict[str, Point] = {}
    for choice in chosen:
        one = point(keys, choice)
        if one.label in found and one.values != found[one.label].values:
            one = Point(one.values, f"{one.label}-{len(found)}")  # two lists, or classes of one name
        found.setdefault(one.label, one)
    return list(found.values())


def point(keys: Sequence[str], choice: Sequence[Any]) -> Point:
    """Name a choice of settings."""
    words = (f"{name}={word(value)}" for name, value in zip(short(keys), choice, strict=True))
    return Point(tuple(zip(keys, choice, strict=True)), "-".join(words)[:150])


def word(value: object) -> str:
    """Make a value part of a name: a class by its last name."""
    text = str(value.get("class_path", value) if isinstance(value, dict) else value)
    text = text.rsplit(".", 1)[-1] if text[:1].isalpha() else text
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")


def edges(tuning: Tuning, tried: Sequence[Point], best: Point) -> dict[str, bool]:
    """Find the settings whose best value is the smallest or the largest one tried.

    Args:
        tuning: What was tried at first.
        tried: All that was tried.
        best: The best of it.

    Returns:
        For each such setting whether it is the largest. What is no number has no edge, nor has 0.
    """
    found = {}
    for key, value in best.values:
        values = sorted({dict(p.values)[key] for p in tried if _number(dict(p.values)[key])})
        if len(values) < 2 or not all(_number(dict(p.values)[key]) for p in tried):
            continue
        if value in (values[0], values[-1]) and value != 0:
            found[key] = value == values[-1]
    return found


def beyond(tuning: Tuning, tried: Sequence[Point], best: Point) -> list[Point]:
    """List what comes next beyond the edges at which the best lies, one choice for each of them.

    The next value is as far away as the last two are from each other: by their ratio, or by their difference where all
    differences are equal.
    """
    found = []
    for key, largest in edges(tuning, tried, best).items():
        values = sorted({dict(p.values)[key] for p in tried}, reverse=not largest)
        last, before = values[-1], values[-2]
        steps = np.diff(values)
        even = len(values) > 2 and np.allclose(steps, steps[0])
        value = last * last / before if min(last, before) > 0 and not even else 2 * last - before
        value = round(value) if isinstance(last, int) else float(f"{value:.4g}")
        if value not in values and (value >= 0 or min(values) < 0):
            choice = {**dict(best.values), key: value}
            found.append(point(list(choice), list(choice.values())))
    return found


def brackets(count: int, validations: int) -> list[int]:
    """Give each of some trials its bracket of Hyperband (arXiv:1603.06560).

    Args:
        count: How many trials.
        validations: How many validations a whole trial has.

    Returns:
        For each trial the power of 3 of validations after which it is first compared with others.
    """
    highest = max(0, math.floor(math.log(max(validations, 1), 3) + 1e-9))
    sizes = [math.ceil((highest + 1) / (s + 1) * 3**s) for s in range(highest, -1, -1)]
    given = [0] * len(sizes)
    found = []
    for i in range(count):
        lacks = [size * (i + 1) / sum(sizes) - n for size, n in zip(sizes, given, strict=True)]
        found.append(lacks.index(max(lacks)))
        given[found[-1]] += 1
    return found


def rank_at_rung(curve: Sequence[float], others: Sequence[Sequence[float]], bracket: int) -> str:
    """Say that a trial is not among the best third of its bracket, at the last rung that it has reached.

    Args:
        curve: Its validation scores so far, more is better.
        others: Those of the other trials of the bracket.
        bracket: See `brackets`.

    Returns:
        Its rank in words, or nothing if it should go on.
    """
    rung = 3**bracket
    if len(curve) < rung:
        return ""
    while 3 * rung <= len(curve):
        rung *= 3
    own = max(curve[:rung])
    reached = [max(other[:rung]) for other in others if len(other) >= rung]
    rank = 1 + sum(value > own for value in reached)
    if rank <= max(1, (len(reached) + 1) // 3):
        return ""
    return f"{rank}. of {len(reached) + 1} after {rung} validation{'s' * (rung > 1)}"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at(values: Any, place: float) -> Any:
    """Return the value at a place from 0 to 1 of a range or a list."""
    if isinstance(values, list):
        return values[min(int(place * len(values)), len(values) - 1)]
    low, high, kind = float(values["min"]), float(values["max"]), distribution(values)
    if kind == "log_uniform_values":
        return float(f"{math.exp(math.log(low) + place * (math.log(high) - math.log(low))):.3g}")
    if kind == "int_uniform":
        return min(int(low + place * (high - low + 1)), int(high))
    value = low + place * (high - low)
    if kind == "q_uniform":
        step = float(values.get("q", 1))
        value = low + step * round((value - low) / step)
    return float(f"{value:.4g}")
