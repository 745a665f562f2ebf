"""How the settings of an ablation's variants were chosen, for its answer: tables, warnings, curves."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_seg.analysis.blocks import Block
from lightning_seg.analysis.groups import short
from lightning_seg.analysis.settings import provenance, value_text
from lightning_seg.plotting.charts import Panel, draw_lines
from lightning_seg.runs.records import Record
from lightning_seg.studies.slots import Slot
from lightning_seg.studies.study import Study
from lightning_seg.studies.variant_tuning import Chosen, Tried

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FAR = 3  # times the best variant's validation score, by which one is thought not to have trained at all


def tuning_blocks(study: Study, planned: Sequence[Slot]) -> list[Block]:
    """Say what was chosen for each variant, by what, at what cost, and what it costs to train.

    Args:
        study: The ablation's runs.
        planned: Those that are reported.
    """
    chosen = study.chosen()
    if not study.tunings:
        return []
    tested = {
        variant: [run for slot in planned if slot.variant == variant and (run := slot.run()) and run.test]
        for variant in study.ablation.variants
    }
    return [
        Block(
            "How each variant was tuned",
            [*_rules(study, chosen), *_warnings(study, chosen), *_remarks(study, chosen, planned)],
            ["variant", "chosen", "validation", "tried", "tuning runs", "min", "reported runs", "min"],
            [_row(variant, chosen.get(variant), tested[variant]) for variant in study.ablation.variants],
            left=(0, 1),
        ),
        Block(
            "What each variant costs",
            [_memory_note([run for runs in tested.values() for run in runs])],
            ["variant", "parameters", "trainable", "peak memory GB", "ms a step"],
            [[variant, *_costs(tested[variant])] for variant in study.ablation.variants],
        ),
        Block(
            "All that was tried",
            [],
            ["variant", "choice", "by", "mean", "seeds", ""],
            [_tried(one, t) for one in chosen.values() for t in one.tried],
            left=(0, 1, 2, 5),
            figure=_chart(chosen),
            name="tuning",
            folded=True,
        ),
    ]


def _row(variant: str, one: Chosen | None, tested: Sequence[Record]) -> list[str]:
    minutes = f"{sum(run.training[2] for run in tested) / 60:.1f}" if tested else "–"
    final = [str(len(tested)), minutes.replace("nan", "–")]
    if one is None:
        return [variant, "not tuned", "", "", "0", "0", *final]
    best = next(t for t in one.tried if t.point == one.best)
    further = len(one.tried) - one.base
    tried = f"{one.base} + {further} beyond" if further else str(one.base)
    spent = f"{one.seconds / 60:.1f}".replace("nan", "–")
    return [variant, _words(best), f"{one.by} {best.mean:.4f}", tried, str(one.runs), spent, *final]


def _words(tried: Tried) -> str:
    keys = [key for key, _ in tried.point.values]
    return ", ".join(
        f"{name} {value_text(value)}"
        for name, (_, value) in zip(short(keys), tried.point.values, strict=True)
    )


def _rules(study: Study, chosen: Mapping[str, Chosen]) -> list[str]:
    """Say by what settings were chosen and whether the budgets were equal."""
    found = []
    kinds = dict.fromkeys((one.by, one.tuning.seeds) for one in chosen.values())
    for by, seeds in kinds:
        numbers, fresh = ", ".join(map(str, seeds)), ", ".join(map(str, study.ablation.seeds))
        found.append(
            f"Settings were chosen by the best {by} of validation images, mean over seed {numbers}; runs with the fresh"
            f" seeds {fresh} were then trained with them and tested once. The test images chose nothing."
        )
    runs = {one.runs for one in chosen.values()}
    limits = {one.tuning.minutes for one in chosen.values()}
    if len(chosen) < len(study.ablation.variants):
        left = [variant for variant in study.ablation.variants if variant not in chosen]
        found.append(f"Budgets are not equal: {', '.join(left)} was not tuned.")
    elif len(limits) == 1 and None not in limits:
        spent = ", ".join(f"{name} {one.seconds / 60:.1f}" for name, one in chosen.items())
        found.append(
            f"Equal limit of tuning: {_minutes(limits)} of training for each variant; spent: {spent}."
        )
    elif len(runs) == 1:
        found.append(f"Equal tuning budget: {runs.pop()} runs for each variant.")
    elif runs:
        listed = ", ".join(f"{name} {one.runs}" for name, one in chosen.items())
        found.append(f"Tuning budgets are not equal, in runs: {listed}.")
    return found


def _minutes(limits: Collection[float | None]) -> str:
    (limit,) = limits
    return f"{limit:g} minute{'s' * (limit != 1)}"


def _warnings(study: Study, chosen: Mapping[str, Chosen]) -> list[str]:
    found = [f"{text}." for text in study.untunable().values()]
    reached = {
        name: one.sign * max(one.sign * tried.mean for tried in one.tried if tried.scores)
        for name, one in chosen.items()
    }
    for name, one in chosen.items():
        alike = {other: reached[other] for other, its in chosen.items() if its.by == one.by}
        top = max(alike, key=lambda other: one.sign * alike[other])
        if one.sign > 0 and alike[top] > _FAR * max(alike[name], 0):
            found.append(
                f"Warning: at its best {name} has {one.by} {alike[name]:.4g}, and {top} {alike[top]:.4g}: among what"
                " was tried it hardly trains. Before it is called worse, give it a tune of its own, with other values."
            )
        values = dict(one.best.values)
        for key in one.at_edge:
            place = f"{short([key])[0]} {value_text(values[key])}"
            found.append(
                f"Warning: {name} is best at the edge of what was tried, {place}; it may be better beyond it."
                f" {_remedy(one)}"
            )
        if one.refused:
            found.append(f"Beyond the edge of {name} there is no further choice: {one.refused}.")
        for state, words in (("failed", "failed and counted as worst"), ("given up", "were given up early")):
            if count := sum(tried.state == state for tried in one.tried):
                found.append(f"{name}: {count} of {len(one.tried)} choices {words}.")
    return found


def _remarks(study: Study, chosen: Mapping[str, Chosen], planned: Sequence[Slot]) -> list[str]:
    """Say what makes a choice less blind, or its runs less comparable, than they should be."""
    found = []
    for variant in chosen:
        own = [slot for slot in planned if slot.variant == variant]
        counted = {run.path for slot in own if (run := slot.run())}
        before = {r.path for slot in own for r in slot.records() if r.test} - counted
        if before:
            found.append(
                f"{variant}: {len(before)} run{'s' * (len(before) != 1)} with other settings had been tested before:"
                " whoever chose anew after that may have seen their scores."
            )
    made = [run for slot in study.tuning_slots() if slot.variant in chosen and (run := slot.run())]
    if differing := provenance(made):
        found.append(f"The runs that chose differ in {differing}.")
    return found


def _remedy(one: Chosen) -> str:
    if one.tuning.is_grid:
        return f"A larger extend (now {one.tuning.extend}) or a wider grid tells."
    return "A wider range tells."


def _costs(tested: Sequence[Record]) -> list[str]:
    """Return parameters, trainable ones, peak memory and milliseconds a step, of the runs that are reported."""
    if not tested:
        return ["–"] * 4
    facts = [record.environment for record in tested]
    counts = [_count(facts[0].get(name)) for name in ("parameters", "trainable_parameters")]
    memory = [fact["peak_memory_bytes"] for fact in facts if fact.get("peak_memory_bytes")]
    steps = [
        1000 * seconds / steps for _, steps, seconds in (record.training for record in tested) if steps > 0
    ]
    return [
        *counts,
        f"{max(memory) / 1e9:.2f}" if memory else "–",
        f"{np.median(steps):.1f}" if steps else "–",
    ]


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _memory_note(tested: Sequence[Record]) -> str:
    on_gpu = any("CUDA" in str(record.environment.get("accelerator")) for record in tested)
    of = (
        "of the GPU, what PyTorch has allocated at most"
        if on_gpu
        else "of the whole process, libraries included"
    )
    return f"Of the reported runs. Peak memory is that {of}; a step's time is without validation."


def _tried(one: Chosen, tried: Tried) -> list[str]:
    spread = ", ".join(f"{score:.4f}" for score in tried.scores) if len(tried.scores) > 1 else ""
    note = "chosen" if tried.point == one.best else "" if tried.state == "done" else tried.state
    mean = f"{tried.mean:.4f}" if tried.scores else "–"
    return [one.variant, _words(tried), one.by, mean, spread, note]


def _chart(chosen: Mapping[str, Chosen]) -> "Figure | None":
    """Draw the score over each setting that is a number: of the other settings what is best there."""
    lines: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    points: dict[str, dict[str, tuple[float, float]]] = {}
    titles: dict[str, str] = {}
    for name, one in chosen.items():
        for key, _ in one.best.values:
            best: dict[float, float] = {}
            for tried in one.tried:
                value = dict(tried.point.values)[key]
                if isinstance(value, bool) or not isinstance(value, int | float) or not tried.scores:
                    continue
                values = [*([best[value]] if value in best else []), tried.mean]
                best[value] = min(values) if one.sign < 0 else max(values)
            if len(best) < 2:
                continue
            titles.setdefault(key, f"{one.by} over {short([key])[0]}")
            x = np.array(sorted(best))
            lines.setdefault(key, {})[name] = x, np.array([best[v] for v in x])
            at = float(dict(one.best.values)[key])
            points.setdefault(key, {})[name] = at, best[at]
    panels = [
        Panel(
            title,
            key,
            lines[key],
            log_x=all((x > 0).all() for x, _ in lines[key].values()),
            points=points[key],
        )
        for key, title in titles.items()
    ]
    return draw_lines(panels) if panels else None
