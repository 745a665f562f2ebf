"""What is wrong with samples of a data set, found by looking at them: a few before training, all for a report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lightning_seg.constants import IGNORE_INDEX
from lightning_seg.data.io import Unpaired
from lightning_seg.data.loading import in_parallel
from lightning_seg.data.protocol import DataSet
from lightning_seg.errors import UserError


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
        "Map them to classes, or to 255 (ignore_index), where the masks are read. Masks that were saved as "
        "JPEG are beyond repair: export them again as PNG.",
    ),
    "binary": Kind(
        "masks of 0 and 255",
        True,
        "255 is ignore_index, so there is a single class. Map 255 to class 1 where the masks are read.",
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
    "plain": Kind("one color only", False, "These images are probably damaged. Replace or remove them."),
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


def describe(findings: Sequence[Finding], files: int | None = 10) -> list[str]:
    """Render findings for people, one paragraph for each kind.

    Args:
        findings: The findings.
        files: How many files to name for each kind; None names all.
    """
    parts = []
    for key, kind in KINDS.items():
        found = [finding for finding in findings if finding.kind == key]
        if not found:
            continue
        lines = [f"{'ERROR' if kind.is_error else 'WARNING'}: {kind.title} ({len(found)})"]
        lines += [f"  {f.split}: {f.file}" + (f": {f.detail}" if f.detail else "") for f in found[:files]]
        if files is not None and len(found) > files:
            lines.append(f"  ... and {len(found) - files} more")
        parts.append("\n".join([*lines, f"  -> {kind.remedy}"]))
    return parts


@dataclass
class Inspection:
    """What one sample told: findings, pixels of each label (256,), a small grey copy of it (16, 17)."""

    findings: list[Finding]
    labels: np.ndarray
    thumbnail: np.ndarray | None = None


def inspect(data: DataSet, split: str, sample: Any) -> Inspection:
    """Look at one sample.

    Args:
        data: The data set.
        split: Name of the split.
        sample: One of its samples.
    """
    labels = np.zeros(256, np.int64)
    image_file, mask_file = files_of(data, sample)
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


@dataclass
class Examination:
    """What the samples of the three splits told.

    Args:
        samples: The samples looked at, by split.
        lengths: Number of samples of each split.
        inspections: What each of them told.
        findings: Everything that is wrong.
    """

    samples: dict[str, Sequence[Any]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    inspections: dict[str, list[Inspection]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def labels(self, split: str) -> np.ndarray:
        """Pixels of each label in each sample of a split (N, 256)."""
        return np.array([found.labels for found in self.inspections[split]]).reshape(-1, 256)


def examine(data: DataSet, limit: int | None = None, progress: bool = False) -> Examination:
    """Look at the samples of the three splits, in parallel.

    Args:
        data: The data set.
        limit: At most this many samples of each split, evenly spread; None looks at all.
        progress: Show a progress bar.

    Raises:
        UserError: If there is no data set.
    """
    found = Examination()
    for split in dict.fromkeys((data.train_split, data.val_split, data.test_split)):
        try:
            samples = data.samples(split)
        except Unpaired as error:
            known = {finding.file for finding in found.findings}
            found.findings += [
                Finding("unpaired", split, file, lack)
                for file, lack in error.files.items()
                if file not in known
            ]
            continue
        except UserError as error:
            if split == data.train_split:
                raise
            kind = "untested" if split == data.test_split else "split"
            found.findings.append(Finding(kind, split, split, str(error).splitlines()[0]))
            continue
        found.lengths[split] = len(samples)
        if not len(samples):
            found.findings.append(Finding("split", split, split, "the split is empty"))
        if limit is not None and len(samples) > limit:
            samples = [samples[i] for i in np.linspace(0, len(samples) - 1, limit).astype(int)]
        results = in_parallel(partial(inspect, data, split), samples)
        found.samples[split] = samples
        found.inspections[split] = list(_track(results, split, len(samples)) if progress else results)
        found.findings += [finding for one in found.inspections[split] for finding in one.findings]
    found.findings += _systematic(data, found)
    return found


def refuse_faulty(data: DataSet, samples: int = 16) -> None:
    """Look at a few samples of each split before training.

    Args:
        data: The data set.
        samples: How many of each split.

    Raises:
        UserError: With all that is wrong, if any of them has an error.
    """
    found = examine(data, limit=samples)
    errors = [finding for finding in found.findings + shared(data, found.lengths) if finding.is_error]
    if errors:
        lines = "\n\n".join(describe(errors))
        raise UserError(f"The data set has faults that would spoil the training.\n{lines}")


def files_of(data: DataSet, sample: Any) -> tuple[str, str]:
    """Name the image and the mask of a sample."""
    paths = [str(part) for part in sample if isinstance(part, Path)] if isinstance(sample, tuple) else []
    return (paths[0], paths[-1]) if paths else (data.name_of(sample), data.name_of(sample))


def _track(results: Iterable[Inspection], split: str, total: int) -> Iterable[Inspection]:
    from rich.progress import track

    return track(results, f"Checking {split}", total)


def _systematic(data: DataSet, examination: Examination) -> list[Finding]:
    """See what only the whole split shows."""
    found = []
    for split in examination.inspections:
        images = (examination.labels(split) > 0).sum(0)
        present = set(np.flatnonzero(images).tolist())
        if present == {0, 255} and images[255] > images[0] / 2:
            found.append(Finding("binary", split, split, "no other label occurs"))
        if 0 not in present and max(present - {255}, default=0) == data.num_classes:
            found.append(Finding("shifted", split, split, f"labels go from 1 to {data.num_classes}"))
        if split == data.train_split and len(present) > 1:
            absent = [name for label, name in enumerate(data.class_names) if label not in present]
            found += [Finding("absent", split, name) for name in absent]
    return found


def shared(data: DataSet, splits: Iterable[str]) -> list[Finding]:
    """Find samples of the training split that are in another one, too."""
    if data.train_split not in splits:
        return []
    train = {repr(sample) for sample in data.samples(data.train_split)}
    return [
        Finding("leak", data.train_split, files_of(data, sample)[0], f"is also {split}")
        for split in splits
        if split != data.train_split
        for sample in data.samples(split)
        if repr(sample) in train
    ]
