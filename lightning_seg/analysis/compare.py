"""Which experiment is better, and is it certain?"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg.analysis.groups import TRUTH, Group, difference_of_protocols, group_runs, protocol
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG
from lightning_seg.runs.records import Record, find, read
from lightning_seg.statistics.paired import Estimate, Sample, holm, sentence


class Section:
    """Groups that were tested under one protocol, best first, and how they compare.

    Args:
        protocol: What all their tests have in common.
        groups: The groups.
        baseline: Name of the group that the others are compared with; the best one if it is not among them.
        block: Neighbouring test images that are resampled together.

    Attributes:
        title: The protocol in a line.
        sample: Their scores and how these vary, in the order of `groups`.
        reference: Place of the group that the others are compared with.
    """

    def __init__(
        self, protocol: dict[str, Any], groups: Sequence[Group], baseline: str | None = None, block: int = 1
    ) -> None:
        self.protocol = protocol
        self.title = _title(protocol)
        self.groups = sorted(groups, key=lambda g: -np.mean([r.score("miou") for r in g.records]))
        counts = [[record.counts for record in group.records] for group in self.groups]
        self.sample = Sample(counts, block=block)
        names = [group.name for group in self.groups]
        self.has_baseline = baseline in names
        self.reference = names.index(baseline) if baseline in names else 0

    @cached_property
    def ranks(self) -> list[int]:
        """1 + the number of groups that are distinguishably better, for each group."""
        a, b = np.triu_indices(len(self.groups), 1)
        if not len(a):
            return [1] * len(self.groups)
        difference = self.sample.difference(a, b)[:, 0]
        certain = holm(difference.p()) < 0.05
        worse = np.where(difference.value > 0, b, a)[certain]
        return [1 + int(n) for n in np.bincount(worse, minlength=len(self.groups))]

    @cached_property
    def differences(self) -> dict[int, tuple[Estimate, float]]:
        """For each group but the reference: its difference (1 + C), and the mIoU's corrected p; certain ones first."""
        others = np.array([i for i in range(len(self.groups)) if i != self.reference])
        if not len(others):
            return {}
        p = holm(self._family(others)[:, 0].p())
        found = self.sample.difference(others, np.full(len(others), self.reference))
        return {int(others[k]): (found[k], float(p[k])) for k in np.argsort(p[: len(others)], kind="stable")}

    @property
    def comparisons(self) -> int:
        """For how many comparisons p-values are corrected: with a baseline those with it, else all pairs."""
        n = len(self.groups)
        return n - 1 if self.has_baseline else n * (n - 1) // 2

    def _family(self, others: np.ndarray) -> Estimate:
        """Return the differences (M, 1 + C) that are corrected together; those with the reference first."""
        a, b = others, np.full(len(others), self.reference)
        if not self.has_baseline:  # the best was chosen by its score, as any other might have been
            i, j = np.triu_indices(len(self.groups), 1)
            rest = (i != self.reference) & (j != self.reference)
            a, b = np.concatenate([a, i[rest]]), np.concatenate([b, j[rest]])
        return self.sample.difference(a, b)

    def sentence(self, i: int) -> str:
        """Say how group ``i`` compares with the reference."""
        difference, p = self.differences[i]
        seeds = int(self.sample.seeds[i]), int(self.sample.seeds[self.reference])
        return sentence(
            self.groups[i].name,
            self.groups[self.reference].name,
            difference[0],
            p,
            self.comparisons,
            seeds,
            self.sample.images,
            self.sample.seeds_known,
        )

    @cached_property
    def class_differences(self) -> dict[int, np.ndarray]:
        """For each group but the reference the p-value of each class's difference, corrected for all of them."""
        others = np.array([i for i in range(len(self.groups)) if i != self.reference])
        if not len(others):
            return {}
        p = self._family(others)[:, 1:].p()
        corrected = holm(p.ravel()).reshape(p.shape)
        return {int(i): corrected[k] for k, i in enumerate(others)}

    def class_sentence(self, i: int, most: int = 6) -> str:
        """Say in which classes group ``i`` certainly differs from the reference.

        Args:
            i: The group.
            most: How many of them to list, those that differ most.
        """
        difference, certain = self.differences[i][0][1:], self.class_differences[i] < 0.05
        order = [c for c in np.argsort(-np.abs(np.nan_to_num(difference.value))) if certain[c]]
        if not order:
            return "No class differs with certainty."
        names, value, half = self.protocol["classes"], 100 * difference.value, 100 * difference.half_width()
        texts = [f"{names[c]} {value[c]:+.1f} ± {half[c]:.1f}" for c in order[:most]]
        more = f" and {len(order) - most} more" if len(order) > most else ""
        rest = f"; the other {len(names) - len(order)} are not distinguishable" * (len(order) < len(names))
        return f"By class: {', '.join(texts)}{more}{rest}."

    @property
    def remark(self) -> str:
        """What was held equal, what the intervals leave out or take from elsewhere, how well objects are found."""
        about_several = [self._held_equal, self._few_seeds] if len(self.groups) > 1 else []
        return " ".join(filter(None, [*about_several, self._average_precision]))

    @property
    def _average_precision(self) -> str:
        means = [
            [100 * float(np.mean([r.score(name) for r in group.records])) for name in ("mask_ap", "box_ap")]
            for group in self.groups
        ]
        texts = [
            f"{group.name} {mask:.1f} / {box:.1f}"
            for group, (mask, box) in zip(self.groups, means, strict=True)
            if np.isfinite(mask)
        ]
        return f"Mask AP / box AP of objects, in % and without interval: {', '.join(texts)}." * bool(texts)

    @property
    def _few_seeds(self) -> str:
        if not self.sample.seeds_known:
            return (
                "One run each: the intervals do not cover other seeds, which often change mIoU by 0.5 to 1."
            )
        if (self.sample.seeds == 1).any():
            return "Experiments of one run are given the variation between seeds that the others show."
        return ""

    @property
    def _held_equal(self) -> str:
        """Say whether all trained on as many images, or as long."""
        images, _, seconds = self._training.T
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

    @cached_property
    def _training(self) -> np.ndarray:
        """Images, steps and seconds of each group's training (G, 3), the median of its runs."""
        return np.array([np.median([r.training for r in g.records], axis=0) for g in self.groups])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a group: numbers in percent, NaN where there is none."""
        own = self.sample.group(np.arange(len(self.groups)))[:, 0]
        half = own.half_width()
        names = self.protocol.get("classes", ())
        rows = []
        for i, group in enumerate(self.groups):
            difference, p = self.differences.get(i, (None, float("nan")))
            value = 100 * float(difference.value[0]) if difference else float("nan")
            width = 100 * float(difference[0].half_width()) if difference else float("nan")
            images, steps, seconds = map(float, self._training[i])
            apart = 100 * difference.value[1:] if difference else np.full(len(names), np.nan)
            rows.append(
                {
                    "rank": self.ranks[i],
                    "experiment": group.name,
                    "runs": len(group.records),
                    "miou": 100 * float(own.value[i]),
                    "low": 100 * float(own.value[i] - half[i]),
                    "high": 100 * float(own.value[i] + half[i]),
                    "std": 100 * float(self.sample.std[i, 0]),
                    "difference": value,
                    "difference_low": value - width,
                    "difference_high": value + width,
                    "p": p,
                    "verdict": "reference" if i == self.reference else _verdict(value, p),
                    "train_minutes": seconds / 60,
                    "train_steps": steps,
                    "images_per_second": images / seconds if seconds else float("nan"),
                    "iou": {n: 100 * float(v) for n, v in zip(names, self.sample.value[i, 1:], strict=True)},
                    "iou_difference": dict(zip(names, map(float, apart), strict=True)),
                }
            )
        return rows


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        sections: One for each protocol, that with most runs first.
        records: All runs, also those that are in no section.
        remarks: What was left out, and why.
    """

    sections: list[Section]
    records: list[Record]
    remarks: list[str]


def compare(
    paths: Sequence[Path],
    group_by: str | None = None,
    baseline: str | None = None,
    across: Collection[str] = (),
    block: int = 1,
) -> Comparison:
    """Compare runs: those of one protocol with each other.

    Args:
        paths: Run directories, or folders of them.
        group_by: A setting by which to group runs; unless given, runs that differ by the seed alone.
        baseline: Name of the group with which to compare the others, or an unmistakable part of it.
        across: Fields of the protocol that may differ.
        block: Neighbouring test images that are resampled together, as frames of a video should be.

    Raises:
        UserError: There is nothing to compare, the runs named were tested under different protocols, or no group
            has the name of the baseline.
    """
    records = [read(path) for path in find(paths)]
    usable: list[tuple[dict[str, Any], Record]] = []
    remarks = []
    for record in records:
        try:
            if record.problem or not record.test:
                remarks.append(
                    f"{record.path} is {record.status}" + f": {record.problem}" * bool(record.problem)
                )
            else:
                usable.append((protocol(record, across), record))
        except UserError as error:
            remarks.append(str(error))
    if not usable:
        raise UserError(
            "\n  ".join(["no tested run to compare: 'lightning-seg test RUN' tests one", *remarks])
        )
    protocols: list[tuple[dict[str, Any], list[Record]]] = []
    for fields, record in usable:
        same = next((runs for known, runs in protocols if known == fields), None)
        if same is None:
            protocols.append((fields, [record]))
        else:
            same.append(record)
    protocols.sort(key=lambda p: -len(p[1]))
    if len(protocols) > 1:
        differ = difference_of_protocols([fields for fields, _ in protocols])
        if all((path / CONFIG).is_file() for path in paths):
            raise UserError(
                f"these runs cannot be compared, because their protocols differ in {differ}. Test them alike, name"
                " runs of one protocol, or give a folder to get a table for each"
            )
        remarks.append(
            f"{len(protocols)} protocols are not comparable with each other: they differ in {differ}"
        )
    grouped = []
    for fields, runs in protocols:
        groups, repeated = group_runs(runs, group_by)
        grouped.append((fields, groups))
        remarks += repeated
    if baseline is not None:
        baseline = _find_baseline(baseline, [group.name for _, groups in grouped for group in groups])
    sections = [Section(fields, groups, baseline, block) for fields, groups in grouped]
    titles = [section.title for section in sections]
    for section in sections:
        if titles.count(section.title) > 1:  # the same files with other masks
            section.title += f", {TRUTH} {section.protocol[TRUTH]}"
    return Comparison(sections, records, remarks)


def _title(protocol: dict[str, Any]) -> str:
    p = protocol
    named = ("data", "split", "images", "classes", "ignore_index", "aggregation", TRUTH)
    head = f"{p.get('data')} {p.get('split')}: {p.get('images')} images, {len(p.get('classes', ()))} classes"
    rest = (f"{k.replace('_', ' ')} {'none' if v is None else v}" for k, v in p.items() if k not in named)
    return ", ".join([head, *rest])


def _alike(values: np.ndarray, tolerance: float) -> bool:
    return bool(values.max() <= (1 + tolerance) * values.min())


def _span(values: np.ndarray) -> str:
    low, high = (f"{v:.0f}" if v > 100 or v % 1 == 0 else f"{v:.1f}" for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _verdict(value: float, p: float) -> str:
    return "not distinguishable" if p >= 0.05 else "better" if value > 0 else "worse"


def _find_baseline(wanted: str, names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    found = [name for name in names if name == wanted] or [name for name in names if wanted in name]
    if len(found) != 1:
        which = "several are called that" if found else "nothing is called that"
        raise UserError(f"--baseline {wanted}: {which}; choose one of {', '.join(found or names)}")
    return found[0]
