"""Finds what is wrong with a data set before a network trains on it for hours."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.class_frequencies import balanced_weights
from lightning_seg.data.examination import Examination, Inspection, examine, files_of, shared
from lightning_seg.data.files import is_hidden, is_image, natural_order
from lightning_seg.data.findings import Finding, describe
from lightning_seg.data.pixels import RGB
from lightning_seg.data.protocol import DataSet
from lightning_seg.data.volumes import file_of, parts_of
from lightning_seg.plotting.tables import text_table


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Args:
        name: Name of the data set.
        class_names: Names of the classes.
        pixels: Pixels of each label (256,) for each split.
        images: Number of images in which each label occurs (256,) for each split.
        around: Pixels of the images in which each label occurs (256,) for each split.
        lengths: Number of samples of each split.
        examples: Samples of the training split that show each class, from most to fewest pixels of it.
        findings: Everything that is wrong.
        bands: Of each band its name, type, lowest and highest value and mean in the training split; empty for RGB.
        overlapping: Whether a pixel may have several classes.
    """

    name: str
    class_names: Sequence[str]
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    around: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    examples: dict[int, list[int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    bands: list[list[str]] = field(default_factory=list)
    overlapping: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing but warnings was found."""
        return not any(finding.is_error for finding in self.findings)

    def class_weights(self, split: str) -> list[float]:
        """Weights for a loss that balance the classes by median frequency (see `balanced_weights`)."""
        count = len(self.class_names)
        pixels, around = self.pixels[split][:count], self.around[split][:count]
        return [round(w, 4) for w in balanced_weights("median_frequency", pixels, around).tolist()]

    def text(self, files: int | None = 10) -> str:
        """Render for people.

        Args:
            files: How many files to name for each kind of finding; None names all.
        """
        parts = [
            f"{self.name}: "
            + ", ".join(f"{count} {split}" for split, count in self.lengths.items())
            + " images"
        ]
        if self.bands:
            parts.append(text_table(["band", "type", "lowest", "highest", "mean"], self.bands))
        if self.pixels:
            parts.append(self._class_table())
            first = next(iter(self.pixels))
            if not self.overlapping:  # whose losses have weights of another kind
                parts.append(f"class weights that balance {first}: {self.class_weights(first)}")
        parts += describe(self.findings, files)
        errors = sum(finding.is_error for finding in self.findings)
        parts.append(f"{errors} errors, {len(self.findings) - errors} warnings")
        return "\n\n".join(parts)

    def _class_table(self) -> str:
        header = ["class", *(title for split in self.pixels for title in (f"{split} pixels", "images"))]
        rows = []
        for label, name in [*enumerate(self.class_names), (IGNORE_INDEX, "ignored")]:
            row = [name]
            for split, pixels in self.pixels.items():
                row += [f"{pixels[label] / max(1, pixels.sum()):.2%}", str(self.images[split][label])]
            rows.append(row)
        return text_table(header, rows)


def _choose_examples(pixels: np.ndarray, count: int = 4) -> dict[int, list[int]]:
    """Choose samples that show each class, evenly from most to fewest pixels of it.

    Args:
        pixels: Pixels of each class in each sample (N, C).
        count: At most this many for a class.
    """
    chosen = {}
    for label, column in enumerate(pixels.T):
        order = np.argsort(-column, kind="stable")[: np.count_nonzero(column)]
        if order.size:
            places = np.unique(np.linspace(0, order.size - 1, count).round().astype(int))
            chosen[label] = order[places].tolist()
    return chosen


def check(data: DataSet, limit: int | None = None, progress: bool = False) -> Report:
    """Check the three splits of a data set, in parallel.

    Args:
        data: The data set.
        limit: At most this many samples of each split, evenly spread; None checks all.
        progress: Show a progress bar.

    Returns:
        The report; it names every file with an error.

    Raises:
        UserError: If there is no data set.
    """
    found = examine(data, limit, progress)
    labels = {split: found.labels(split) for split in found.inspections}
    findings, examples = [*found.findings], {}
    train = found.lengths.get(data.train_split, 0) * data.samples_per_image
    if 0 < train < data.batch_size:
        why = f"{train} images, and a step on one device needs batch_size {data.batch_size}"
        findings.append(Finding("few", data.train_split, data.train_split, why))
    if limit is not None:
        findings += shared(data, found.lengths)
    else:
        if data.train_split in labels:
            examples = _choose_examples(labels[data.train_split][:, : data.num_classes])
        names = {split: [files_of(data, s)[0] for s in samples] for split, samples in found.samples.items()}
        findings += _duplicates(found.inspections, names)
        findings += _unused(data, found.lengths)
        findings += _neighbours(data, found)
    return Report(
        name=type(data).__name__,
        class_names=data.class_names,
        pixels={split: each.sum(0) for split, each in labels.items()},
        images={split: (each > 0).sum(0) for split, each in labels.items()},
        around={split: ((each > 0) * each.sum(1, keepdims=True)).sum(0) for split, each in labels.items()},
        lengths=found.lengths,
        examples=examples,
        findings=findings,
        bands=_bands(data, found.inspections.get(data.train_split, [])),
        overlapping=data.overlapping,
    )


def _bands(data: DataSet, inspections: Sequence[Inspection]) -> list[list[str]]:
    """Say what values the bands have, where they are not those of photographs."""
    values = np.array([one.bands for one in inspections if one.bands is not None])  # (N, 3, C)
    if data.pixels == RGB or not len(values):
        return []
    types = ", ".join(sorted({one.dtype for one in inspections if one.dtype}))
    facts = zip(values[:, 0].min(0), values[:, 1].max(0), values[:, 2].mean(0), strict=True)
    return [
        [name, types, *(f"{v:.5g}" for v in row)] for name, row in zip(data.pixels.names, facts, strict=True)
    ]


def _duplicates(inspections: dict[str, list[Inspection]], names: dict[str, list[str]]) -> list[Finding]:
    """Compare all images by a perceptual hash: at 256 places, whether it gets brighter to the right."""
    known = {
        split: [(i, found.thumbnail) for i, found in enumerate(all_found) if found.thumbnail is not None]
        for split, all_found in inspections.items()
    }
    places = {split: np.array([i for i, _ in pairs], int) for split, pairs in known.items()}
    small = {
        split: np.array([t for _, t in pairs], np.int16).reshape(-1, 16, 17) for split, pairs in known.items()
    }
    hashes = {
        split: np.packbits(thumbs[:, :, 1:] > thumbs[:, :, :-1]).reshape(-1, 32).view(np.uint64)
        for split, thumbs in small.items()
    }
    found = []
    for one, two in [*combinations(known, 2), *((split, split) for split in known)]:
        for first in range(len(places[one])):
            distance = np.bitwise_count(hashes[one][first] ^ hashes[two]).sum(1)
            for second in np.flatnonzero(distance <= 12):
                if one == two and second <= first:
                    continue
                if np.abs(small[one][first] - small[two][second]).mean() < 2:
                    files = names[one][places[one][first]], names[two][places[two][second]]
                    kind = "double" if one == two else "leak"
                    found.append(Finding(kind, one, files[0], f"is also {two}: {files[1]}"))
    return found


def _unused(data: DataSet, splits: Iterable[str]) -> list[Finding]:
    """Find masks without an image in a list, and images of folders that are otherwise used."""
    used = {
        file.resolve()
        for split in splits
        for sample in data.samples(split)
        for part in parts_of(sample)
        if (file := file_of(part)) is not None
    }
    found = []
    for folder in sorted({path.parent for path in used}):
        there = (
            {path for path in folder.iterdir() if is_image(path) and not is_hidden(path.name)}
            if folder.is_dir()
            else set()
        )
        unused = sorted(there - used)
        if len(unused) < len(there) / 2:  # otherwise the folder is a store for several purposes
            found += [Finding("unused", folder.name, str(path)) for path in unused]
    return found


def _neighbours(data: DataSet, found: Examination) -> list[Finding]:
    """Find splits whose images follow one another in names with those of training, and look alike."""
    named = sorted(
        (natural_order(data.name_of(sample)), split, i)
        for split, samples in found.samples.items()
        for i, sample in enumerate(samples)
        if found.inspections[split][i].thumbnail is not None
    )
    series = [[part for part in key[:-2]] for key, _, _ in named]  # the name without its last number
    findings = []
    for split in sorted(found.samples.keys() - {data.train_split}):
        pairs = [
            (i, j)
            for i, (_, own, _) in enumerate(named)
            for j in (i - 1, i + 1)
            if own == split
            and 0 <= j < len(named)
            and named[j][1] == data.train_split
            and series[i] == series[j]
        ]
        held_out, total = {i for i, _ in pairs}, sum(own == split for _, own, _ in named)
        if len(held_out) < max(3, total / 5):
            continue
        near = np.median([_difference(found, named[i], named[j]) for i, j in pairs])
        rng = np.random.default_rng(0)
        others = [rng.integers(len(named), size=2) for _ in range(200)]
        far = np.median([_difference(found, named[i], named[j]) for i, j in others if abs(i - j) > 2])
        if near < far / 2:
            first, second = (data.name_of(found.samples[named[k][1]][named[k][2]]) for k in pairs[0])
            findings.append(
                Finding(
                    "neighbours", split, split, f"{len(held_out)} of {total} images follow one of "
                    f"{data.train_split} or come before it, and look alike: {first}, {second}",
                )
            )  # fmt: skip
    return findings


def _difference(found: Examination, *places: tuple[object, str, int]) -> float:
    """Mean difference of two thumbnails, in gray levels."""
    one, two = (found.inspections[split][i].thumbnail for _, split, i in places)
    assert one is not None and two is not None
    return float(np.abs(one.astype(int) - two.astype(int)).mean())
