"""Finds what is wrong with a data set before a network trains on it for hours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lightning_seg.constants import IGNORE_INDEX
from lightning_seg.data.checks.examples import choose_examples
from lightning_seg.data.class_frequencies import balanced_weights
from lightning_seg.data.io import IMAGE_SUFFIXES, Unpaired
from lightning_seg.data.loading import in_parallel
from lightning_seg.errors import UserError

if TYPE_CHECKING:
    from lightning_seg.data.base import SegmentationData


@dataclass(frozen=True)
class Kind:
    """A kind of finding: its title, whether training must not start, and what to do about it."""

    title: str
    is_error: bool
    remedy: str


KINDS = {
    "split": Kind("no such split", True, "Make it, or choose another with --data.init_args.val_split."),
    "unpaired": Kind(
        "without a partner", True, "Add the mask or the image that is missing, or move the file away."
    ),
    "unreadable": Kind("cannot be read", True, "Replace the file, or take it off the list."),
    "size": Kind(
        "image and mask differ in size",
        True,
        "Export the mask again at the size of its image. If height and width are exchanged, the camera noted "
        "a rotation (EXIF) that the annotation tool ignored: store the image upright.",
    ),
    "labels": Kind(
        "labels that are no class",
        True,
        "Map them to classes, or to 255 (not counted), where the masks are read. Masks that were saved as "
        "JPEG are beyond repair: export them again as PNG.",
    ),
    "binary": Kind(
        "masks of 0 and 255",
        True,
        "255 means not counted, so there is a single class. Map 255 to class 1 where the masks are read.",
    ),
    "shifted": Kind(
        "labels begin at 1",
        True,
        "Subtract one where the masks are read, or add a class in front if 0 is a class that is rare.",
    ),
    "leak": Kind(
        "the same image in two splits", True, "Remove one: a score on what was trained on means nothing."
    ),
    "untested": Kind("no test split", False, "To score val, say so: --data.init_args.test_split=val."),
    "void": Kind("nothing to count", False, "These masks teach and score nothing. Annotate or remove them."),
    "plain": Kind("one colour only", False, "These images are probably damaged. Replace or remove them."),
    "double": Kind("the same image twice", False, "It counts twice. Remove one of each pair."),
    "absent": Kind(
        "never in the training split", False, "Check the class names, their number and their order."
    ),
    "unused": Kind("in no split", False, "Add these files to a list, or ignore this."),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: A key of `KINDS`.
        split: Name of the split.
        file: The file, or another name of the sample.
        detail: What was found.
    """

    kind: str
    split: str
    file: str
    detail: str = ""

    @property
    def is_error(self) -> bool:
        """Whether training must not start."""
        return KINDS[self.kind].is_error


@dataclass
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
    """

    name: str
    class_names: Sequence[str]
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    around: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    examples: dict[int, list[int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

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
        if self.pixels:
            parts.append(self._class_table())
            first = next(iter(self.pixels))
            parts.append(f"class weights that balance {first}: {self.class_weights(first)}")
        for key, kind in KINDS.items():
            found = [finding for finding in self.findings if finding.kind == key]
            if not found:
                continue
            lines = [f"{'ERROR' if kind.is_error else 'WARNING'}: {kind.title} ({len(found)})"]
            lines += [f"  {f.split}: {f.file}" + (f": {f.detail}" if f.detail else "") for f in found[:files]]
            if files is not None and len(found) > files:
                lines.append(f"  ... and {len(found) - files} more")
            parts.append("\n".join([*lines, f"  -> {kind.remedy}"]))
        errors = sum(finding.is_error for finding in self.findings)
        parts.append(f"{errors} errors, {len(self.findings) - errors} warnings")
        return "\n\n".join(parts)

    def _class_table(self) -> str:
        width = max(len(name) for name in (*self.class_names, "not counted"))
        rows = [
            "class".ljust(width) + "".join(f"{split + ' pixels':>16}{'images':>8}" for split in self.pixels)
        ]
        for label, name in [*enumerate(self.class_names), (IGNORE_INDEX, "not counted")]:
            row = name.ljust(width)
            for split, pixels in self.pixels.items():
                row += f"{pixels[label] / max(1, pixels.sum()):>15.2%} {self.images[split][label]:>7}"
            rows.append(row)
        return "\n".join(rows)


@dataclass
class Inspection:
    """What one sample told: findings, pixels of each label (256,), a small grey copy of it (16, 17)."""

    findings: list[Finding]
    labels: np.ndarray
    thumbnail: np.ndarray | None = None


def inspect(data: SegmentationData, split: str, sample: Any) -> Inspection:
    """Look at one sample.

    Args:
        data: The data set.
        split: Name of the split.
        sample: One of its samples.
    """
    labels = np.zeros(256, np.int64)
    image_file, mask_file = _files(data, sample)
    try:
        image, mask = data.read(sample)
    except UserError as error:
        file = mask_file if mask_file in str(error) else image_file
        return Inspection([Finding("unreadable", split, file, str(error))], labels)
    findings = []
    if image.shape[:2] != mask.shape:
        sizes = (
            f"image {image.shape[0]}x{image.shape[1]}, mask {mask.shape[0]}x{mask.shape[1]} (height x width)"
        )
        findings.append(Finding("size", split, mask_file, sizes))
    labels = np.bincount(mask.ravel(), minlength=256)
    strange = [label for label in np.flatnonzero(labels) if data.num_classes <= label != IGNORE_INDEX]
    if strange:
        shown = ", ".join(map(str, strange[:8])) + (", ..." if len(strange) > 8 else "")
        findings.append(
            Finding("labels", split, mask_file, f"{shown}; classes are 0 to {data.num_classes - 1}")
        )
    if labels[IGNORE_INDEX] == mask.size:
        findings.append(Finding("void", split, mask_file))
    thumbnail = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (17, 16), interpolation=cv2.INTER_AREA)
    if image.min() == image.max():
        findings.append(Finding("plain", split, image_file, f"all pixels are {image.min()}"))
    return Inspection(findings, labels, thumbnail)


def check(data: SegmentationData, limit: int | None = None, progress: bool = False) -> Report:
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
    report = Report(type(data).__name__, data.class_names)
    inspections: dict[str, list[Inspection]] = {}
    names: dict[str, list[str]] = {}
    for split in dict.fromkeys((data.train_split, data.val_split, data.test_split)):
        try:
            samples = data.samples(split)
        except Unpaired as error:
            known = {finding.file for finding in report.findings}
            report.findings += [
                Finding("unpaired", split, file, lack)
                for file, lack in error.files.items()
                if file not in known
            ]
            continue
        except UserError as error:
            if split == data.train_split:
                raise
            kind = "untested" if split == data.test_split else "split"
            report.findings.append(Finding(kind, split, split, str(error).splitlines()[0]))
            continue
        report.lengths[split] = len(samples)
        if not len(samples):
            report.findings.append(Finding("split", split, split, "the split is empty"))
        if limit is not None and len(samples) > limit:
            samples = [samples[i] for i in np.linspace(0, len(samples) - 1, limit).astype(int)]
        results = in_parallel(partial(inspect, data, split), samples)
        inspections[split] = list(_track(results, split, len(samples)) if progress else results)
        names[split] = [_files(data, sample)[0] for sample in samples]
        report.findings += [finding for found in inspections[split] for finding in found.findings]
        labels = np.array([found.labels for found in inspections[split]]).reshape(-1, 256)
        report.pixels[split], report.images[split] = labels.sum(0), (labels > 0).sum(0)
        if split == data.train_split and limit is None:
            report.examples = choose_examples(labels[:, : data.num_classes])
        report.around[split] = ((labels > 0) * labels.sum(1, keepdims=True)).sum(0)
    report.findings += _systematic(data, report)
    if limit is not None:
        report.findings += _shared(data, report.lengths)
    else:
        report.findings += _duplicates(inspections, names)
        report.findings += _unused(data, report.lengths)
    return report


def check_quickly(data: SegmentationData, samples: int = 16) -> None:
    """Look at a few samples of each split before training.

    Args:
        data: The data set.
        samples: How many of each split.

    Raises:
        UserError: With the report, if any of them has an error.
    """
    report = check(data, limit=samples)
    report.findings = [finding for finding in report.findings if finding.is_error]
    report.pixels.clear()  # the shares of a few samples say little
    if not report.ok:
        raise UserError(f"The data set has faults that would spoil the training.\n{report.text()}")


def _files(data: SegmentationData, sample: Any) -> tuple[str, str]:
    """Name the image and the mask of a sample."""
    paths = [str(part) for part in sample if isinstance(part, Path)] if isinstance(sample, tuple) else []
    return (paths[0], paths[-1]) if paths else (data.name_of(sample), data.name_of(sample))


def _track(results: Iterable[Inspection], split: str, total: int) -> Iterable[Inspection]:
    from rich.progress import track

    return track(results, f"Checking {split}", total)


def _systematic(data: SegmentationData, report: Report) -> list[Finding]:
    """See what only the whole split shows."""
    found = []
    for split, images in report.images.items():
        present = set(np.flatnonzero(images).tolist())
        if present == {0, 255} and images[255] > images[0] / 2:
            found.append(Finding("binary", split, split, "no other label occurs"))
        if 0 not in present and max(present - {255}, default=0) == data.num_classes:
            found.append(Finding("shifted", split, split, f"labels go from 1 to {data.num_classes}"))
        if split == data.train_split and len(present) > 1:
            absent = [name for label, name in enumerate(data.class_names) if label not in present]
            found += [Finding("absent", split, name) for name in absent]
    return found


def _shared(data: SegmentationData, splits: Iterable[str]) -> list[Finding]:
    """Find samples of the training split that are in another one, too."""
    if data.train_split not in splits:
        return []
    train = {repr(sample) for sample in data.samples(data.train_split)}
    return [
        Finding("leak", data.train_split, _files(data, sample)[0], f"is also {split}")
        for split in splits
        if split != data.train_split
        for sample in data.samples(split)
        if repr(sample) in train
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


def _unused(data: SegmentationData, splits: Iterable[str]) -> list[Finding]:
    """Find masks without an image in a list, and images of folders that are otherwise used."""
    used = {
        part.resolve()
        for split in splits
        for sample in data.samples(split)
        if isinstance(sample, tuple)
        for part in sample
        if isinstance(part, Path)
    }
    found = []
    for folder in sorted({path.parent for path in used}):
        there = (
            {path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
            if folder.is_dir()
            else set()
        )
        unused = sorted(there - used)
        if len(unused) < len(there) / 2:  # otherwise the folder is a store for several purposes
            found += [Finding("unused", folder.name, str(path)) for path in unused]
    return found
