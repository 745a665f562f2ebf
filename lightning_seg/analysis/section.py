"""Groups of runs that were tested under one protocol: how they compare, and what is certain about it."""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from lightning_seg.analysis.groups import TRUTH, Group, other_differences
from lightning_seg.analysis.metrics import MIOU, Measure
from lightning_seg.analysis.settings import MISSING, varied_settings
from lightning_seg.runs.directory import JsonObject
from lightning_seg.runs.records import Record
from lightning_seg.statistics.blocks import image_blocks
from lightning_seg.statistics.paired import (
    Differences,
    Estimate,
    GroupScores,
    RunScores,
    Sample,
    score_interval,
)
from lightning_seg.statistics.verdicts import difference_sentence, one_seed_sentence

REFERENCE, BETTER, WORSE = "reference", "better", "worse"
SAME, ONE_SEED = "not distinguishable", "differs on these images; another seed may change it"
SAME_IMAGES = "not distinguishable on these images"
_SAID = 5  # groups whose runs differ in what they should not: of more only the names


class Section:
    """Groups that were tested under one protocol, best first, and how they compare.

    Args:
        protocol: What all their tests have in common.
        groups: The groups.
        baseline: Name of the group that the others are compared with; the best one if it is not among them.
        block: Neighboring test images that are left out together; chosen by the data set unless given.
        measure: The score.
        top: How many of the best groups `rows` shows; all are compared.
        suffix: What its title says beside the protocol.

    Attributes:
        title: The protocol in a line.
        sample: Their scores and how these vary, in the order of `groups`.
        reference: Place of the group that the others are compared with.
        settings: In which settings the groups differ, the most important first.
        shown: Places of the groups that tables show.
    """

    def __init__(
        self,
        protocol: JsonObject,
        groups: Sequence[Group],
        baseline: str | None = None,
        block: int | None = None,
        measure: Measure = MIOU,
        top: int | None = None,
        suffix: str = "",
    ) -> None:
        self.protocol = protocol
        self.title = title_of(protocol) + suffix
        self.measure = measure
        scores = {g.name: [measure.value(record) for record in g.records] for g in groups}
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        self.groups = sorted(groups, key=lambda g: -np.nan_to_num(measure.best * means[g.name], nan=-np.inf))
        self.sample: GroupScores
        records = [record for group in groups for record in group.records]
        scored = _scored(protocol, records)
        if measure.of_counts is None:
            left_out = _left_out(self.groups) if measure.name == "mask_ap" else None
            values = [scores[g.name] for g in self.groups]
            self.sample = RunScores(values, measure.percent, left_out, len(scored))
        else:
            known = next((r.image_groups for r in records if r.image_groups is not None), None)
            sequence = any(record.sequence for record in records)
            shown = [records[0].image_names[i] for i in scored]
            blocks = image_blocks(shown, sequence, block, None if known is None else known[scored])
            counts = [[measure.counts(record)[scored] for record in group.records] for group in self.groups]
            self.sample = Sample(counts, blocks, measure.of_counts)
        names = [group.name for group in self.groups]
        self.has_baseline = baseline in names
        self.reference = names.index(baseline) if baseline in names else 0
        self.settings = varied_settings([group.settings for group in self.groups])
        self.shown = [i for i in range(len(names)) if top is None or i < top or i == self.reference]

    @property
    def judged(self) -> bool:
        """Whether there are verdicts: not where hardly a group has several runs, as another seed may turn each."""
        return self.sample.seeds_known

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The comparisons (M,) that are judged together: those with the baseline, or else all pairs."""
        n = len(self.groups)
        if self.has_baseline:
            others = np.array([i for i in range(n) if i != self.reference], dtype=int)
            return others, np.full(len(others), self.reference)
        first, second = np.triu_indices(n, 1)
        return second, first

    @cached_property
    def _verdicts(self) -> Differences:
        return self.sample.compare(*self._pairs)

    @property
    def comparisons(self) -> int:
        """How many comparisons are judged together: with a baseline those with it, else all pairs."""
        return len(self._pairs[0])

    @cached_property
    def ranks(self) -> list[int | None]:
        """1 + the number of groups that are distinguishably better; None without verdicts, or against a baseline."""
        if not self.judged or self.has_baseline:
            return [None] * len(self.groups)
        if not self.comparisons:
            return [1]
        (a, b), found = self._pairs, self._verdicts
        worse = np.where(self.measure.best * found.value > 0, b, a)[found.certain]
        return [1 + int(n) for n in np.bincount(worse, minlength=len(self.groups))]

    @cached_property
    def differences(self) -> dict[int, Differences]:
        """For each group but the reference its difference from it, best group first."""
        if not self.comparisons:
            return {}
        a, b = self._pairs
        return {int(a[k]): self._verdicts[k] for k in np.flatnonzero(b == self.reference)}

    def class_difference(self, i: int) -> tuple[Estimate, np.ndarray, np.ndarray]:
        """Return how group ``i`` differs from the reference in each class.

        Returns:
            The differences (C,), half the widths of their intervals, corrected for all classes and comparisons together
            (Bonferroni), and whether they are certain.
        """
        found = self.sample.difference(i, self.reference)[1:]
        half = found.half_width(1 - 0.05 / max(self.comparisons * len(found.value), 1))
        certain = np.abs(found.value) > np.where(np.isfinite(half), half, np.inf)
        return found, half, certain & self.judged

    @cached_property
    def contenders(self) -> list[int]:
        """The groups that are not distinguishable from the best one, itself included."""
        return [0, *(i for i, d in self.differences.items() if not d.certain)] if self.reference == 0 else []

    @property
    def summary(self) -> str:
        """Say what else differs, and name the contenders for the best, or why none are named."""
        return " ".join(filter(None, [other_differences(self.groups), self._contenders_in_words]))

    @property
    def _contenders_in_words(self) -> str:
        n = len(self.groups)
        if n < 2:
            return ""
        if not self.judged:
            runs = "Only one group has a second run" if (self.sample.seeds > 1).any() else "One run a group"
            return (
                f"{runs}: no ranking, as another seed may change the order"
                f" (the standard deviation of {self.measure.label} between seeds is often 0.5 to 1). Three seeds"
                " of one group, or two of two, give verdicts, three of each give good ones."
            )
        if self.has_baseline:
            return ""
        names = [self.groups[i].name for i in self.contenders]
        if len(names) == 1:
            return f"{names[0]} is the best: every other group is distinguishably worse."
        left = n - len(names)
        others = "other one is" if left == 1 else f"other {left} are"
        rest = f"; the {others} distinguishably worse" * (left > 0)
        shown = ", ".join(names[1:9]) + f" and {len(names) - 9} more" * (len(names) > 9)
        return f"Contenders for the best: {names[0]}, and not distinguishable from it {shown}{rest}."

    def sentence(self, i: int) -> str:
        """Say how group ``i`` compares with the reference."""
        d, scale = self.differences[i], self.measure.scale
        names = self.groups[i].name, self.groups[self.reference].name
        shown = scale * float(d.value), scale * float(d.low), scale * float(d.high)
        many = f", corrected for {self.comparisons} comparisons" * (self.comparisons > 1)
        if not self.judged:
            variance = float(self.sample.difference(i, self.reference).images[0])
            return one_seed_sentence(
                *names, shown, variance, self.measure.label, f"{self.sample.images}{many}"
            )
        basis = ", ".join(filter(None, [self._seeds(i), self.sample.images])) + many
        certain = bool(d.certain)
        if self.measure.best < 0 and certain:
            shown = (-shown[0], -shown[2], -shown[1])
        return difference_sentence(*names, shown, certain, self.measure.label, basis)

    def _seeds(self, i: int) -> str:
        mine, other = self.groups[i], self.groups[self.reference]
        what = "run" if mine.mixed or other.mixed else "seed"
        counts = (len(mine.records), len(other.records)) if what == "run" else (mine.seeds, other.seeds)
        numbers = f"{counts[0]}" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]}"
        return f"{numbers} {what}{'s' * (max(counts) > 1)}"

    def class_sentence(self, i: int, most: int = 6) -> str:
        """Say in which classes group ``i`` certainly differs from the reference.

        Args:
            i: The group.
            most: How many of them to list, those that differ most.
        """
        if not self.judged or len(self.sample.value[0]) < 2:
            return ""
        difference, half, certain = self.class_difference(i)
        order = [c for c in np.argsort(-np.abs(np.nan_to_num(difference.value))) if certain[c]]
        if not order:
            return "No class differs with certainty." * bool(self.differences[i].certain)
        names, value = self.protocol["classes"], 100 * difference.value
        texts = [f"{names[c]} {value[c]:+.1f} ± {100 * half[c]:.1f}" for c in order[:most]]
        more = f" and {len(order) - most} more" if len(order) > most else ""
        rest = f"; the other {len(names) - len(order)} are not distinguishable" * (len(order) < len(names))
        return f"By class: {', '.join(texts)}{more}{rest}."

    @property
    def remark(self) -> str:
        """What was held equal, what the intervals leave out or take from elsewhere, what sets groups apart."""
        about_several = [self._held_equal, self._few_seeds] if len(self.groups) > 1 else []
        own = [f"{group.remark}." for group in self.groups if group.remark]
        own = [text[0].upper() + text[1:] for text in own]
        if len(own) > _SAID:
            others = ", ".join(group.name for group in [g for g in self.groups if g.remark][_SAID:])
            own[_SAID:] = [f"So do runs within {others}, in the same or other things."]
        return " ".join(
            filter(
                None,
                [*about_several, self._numbers_of_classes, self._no_images, self._average_precision, *own],
            )
        )

    @property
    def _average_precision(self) -> str:
        texts = []
        for group in self.groups:
            mask, box = (
                100 * np.mean([record.score(name) for record in group.records])
                for name in ("mask_ap", "box_ap")
            )
            if np.isfinite(mask):
                texts.append(f"{group.name} {mask:.1f}" + f" / {box:.1f}" * bool(np.isfinite(box)))
        boxes = " / box AP" * any("/" in text.rpartition(" ")[0] for text in texts)
        return f"Mask AP{boxes} of objects, in %: {', '.join(texts)}." * bool(texts)

    @property
    def _no_images(self) -> str:
        if self.sample.images:
            return ""
        return f"Intervals of {self.measure.label} cover other seeds only: no test image has a share of its own in it."

    @property
    def _numbers_of_classes(self) -> str:
        """Say so if means are over different numbers of classes, as where only some predict a class that is nowhere."""
        if self.sample.value.shape[1] < 2:
            return ""
        found = [
            sorted({int((self.measure.counts(r).sum(0)[:, 1:].sum(1) > 0).sum()) for r in group.records})
            for group in self.groups
        ]
        if len({n for numbers in found for n in numbers}) < 2:
            return ""
        shown = (" / ".join(map(str, numbers)) for numbers in found)
        texts = ", ".join(f"{group.name} {n}" for group, n in zip(self.groups, shown, strict=True))
        return f"The means are over different numbers of classes, so they are not quite comparable: {texts}."

    @property
    def _few_seeds(self) -> str:
        if self.judged and (self.sample.seeds == 1).any():
            return "Groups of one run are assumed to vary between seeds as the others do."
        return ""

    @property
    def _held_equal(self) -> str:
        """Say whether all runs trained on as many images, or as long."""
        images, _, seconds = np.array([r.training for g in self.groups for r in g.records]).T
        if not np.isfinite(seconds).all():
            return ""
        minutes = (
            f"training time, {_span(seconds)} s"
            if seconds.max() < 90
            else f"training time, {_span(seconds / 60)} min"
        )
        number = f"training images, {_span(images)}"
        if _alike(images, 0.001):
            return (
                f"Held equal: {number}; not {minutes}."
                if not _alike(seconds, 0.1)
                else f"Held equal: {number}, and {minutes}."
            )
        if _alike(seconds, 0.1):
            return f"Held equal: {minutes}; not {number}."
        return f"Held equal: neither {number}, nor {minutes}."

    def rows(self) -> list[JsonObject]:
        """Return one row a group: scores as they are shown, NaN where there is none."""
        own, scale = self.sample.group(np.arange(len(self.groups)))[:, 0], self.measure.scale
        low, high = (
            score_interval(own)
            if self.measure.percent
            else (own.value - own.half_width(), own.value + own.half_width())
        )
        known = np.isfinite(own.half_width())
        names = self.protocol.get("classes", ())
        rows = []
        for i, group in enumerate(self.groups):
            d = self.differences.get(i)
            value, ends = (
                (float(d.value), (float(d.low), float(d.high))) if d else (math.nan, (math.nan, math.nan))
            )
            images, steps, seconds = (
                float(v) for v in np.median([r.training for r in group.records], axis=0)
            )
            classes = self.sample.value[i, 1:]
            apart = classes - self.sample.value[self.reference, 1:] if d else np.full(len(classes), np.nan)
            rows.append(
                {
                    "rank": self.ranks[i],
                    "experiment": group.name,
                    "runs": len(group.records),
                    "seeds": group.seeds,
                    "score": scale * float(own.value[i]),
                    "low": scale * float(low[i]) if known[i] else math.nan,
                    "high": scale * float(high[i]) if known[i] else math.nan,
                    "interval_covers": self._covers(i),
                    "std": scale * float(self.sample.std[i, 0]),
                    "difference": scale * value,
                    "difference_low": scale * ends[0],
                    "difference_high": scale * ends[1],
                    "p": float(d.p) if d and self.judged else math.nan,
                    "verdict": REFERENCE if i == self.reference else self._verdict(d),
                    "train_minutes": seconds / 60,
                    "train_steps": steps,
                    "images_per_second": images / seconds if seconds else math.nan,
                    "settings": {key: group.settings.get(key, MISSING) for key in self.settings},
                    "classes": {n: 100 * float(v) for n, v in zip(names, classes, strict=False)},
                    "class_difference": {n: 100 * float(v) for n, v in zip(names, apart, strict=False)},
                }
            )
        return rows

    def _covers(self, i: int) -> str:
        if not self.judged:
            return "images"
        runs = "runs" if any(group.mixed for group in self.groups) else "seeds"
        return f"images and {runs}" if self.sample.images else runs

    def _verdict(self, d: Differences | None) -> str:
        if d is None:
            return ""
        if not self.judged:
            return ONE_SEED if d.certain else SAME_IMAGES if np.isfinite(d.low) else ""
        return SAME if not d.certain else BETTER if self.measure.best * d.value > 0 else WORSE


def _scored(protocol: JsonObject, records: Sequence[Record]) -> np.ndarray:
    """Return the places of the images that were scored; `limit_test_batches` leaves the others out."""
    places = np.arange(len(records[0].image_names))
    if protocol.get("images", len(places)) >= len(places):
        return places
    return np.flatnonzero(np.sum([record.counts.sum((1, 2)) for record in records], axis=0))


def title_of(protocol: JsonObject) -> str:
    """Put a protocol into a line."""
    p = protocol
    named = ("data", "split", "images", "classes", "things", "ignore_index", "aggregation", TRUTH)
    head = f"{p.get('data')} {p.get('split')}: {p.get('images')} images, {len(p.get('classes', ()))} classes"
    rest = (f"{k.replace('_', ' ')} {'none' if v is None else v}" for k, v in p.items() if k not in named)
    return ", ".join([head, *rest])


def _alike(values: np.ndarray, tolerance: float) -> bool:
    return bool(values.max() <= (1 + tolerance) * values.min())


def _span(values: np.ndarray) -> str:
    low, high = (f"{v:.0f}" if v > 100 or v % 1 == 0 else f"{v:.1f}" for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _left_out(groups: Sequence[Group]) -> list[list[np.ndarray]] | None:
    """Return the average precision without each block of images of all runs, if all have recorded it."""
    found = [[record.mask_ap_left_out for record in group.records] for group in groups]
    known = [[run for run in runs if run is not None] for runs in found]
    complete = all(len(a) == len(b) for a, b in zip(found, known, strict=True))
    return known if complete and len({len(run) for runs in known for run in runs}) == 1 else None
