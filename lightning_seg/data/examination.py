"""What is wrong with samples of a data set, found by looking at them: a few before training, all for a report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.bands import WideRange
from lightning_seg.data.classes import palette_of
from lightning_seg.data.files import Unpaired
from lightning_seg.data.findings import EARLY, Finding, describe
from lightning_seg.data.io import header_of
from lightning_seg.data.loading import in_parallel
from lightning_seg.data.overlapping import pixels_of_labels
from lightning_seg.data.pixels import DTYPES
from lightning_seg.data.protocol import DataSet
from lightning_seg.data.volumes import file_of, parts_of
from lightning_seg.errors import UserError

_BLANK = "nothing is left of the image"


@dataclass
class Inspection:
    """What one sample told.

    Args:
        findings: What is wrong with it.
        labels: Pixels of each label (256,).
        thumbnail: A small gray copy of it (16, 17).
        palette: Color of each label, where the mask is a palette file that is read by its numbers.
        values: Lowest and highest value of an image of more than 8 bits that could not be read.
        bands: Lowest value, highest value and mean of each band (3, C), and
        dtype: the type of the values, of an image that was read.
    """

    findings: list[Finding]
    labels: np.ndarray
    thumbnail: np.ndarray | None = None
    palette: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    values: tuple[float, float] | None = None
    bands: np.ndarray | None = None
    dtype: str = ""


def inspect(data: DataSet, split: str, sample: object) -> Inspection:
    """Look at one sample.

    Args:
        data: The data set.
        split: Name of the split.
        sample: One of its samples.
    """
    labels = np.zeros(256, np.int64)
    image_file, mask_file = files_of(data, sample)
    try:
        image, mask = data.read_labels(sample)
        if data.instances:
            data.read_instances(sample)
    except WideRange as error:
        return Inspection([], labels, values=error.values)
    except UserError as error:
        file = mask_file if mask_file in str(error) else image_file
        return Inspection([Finding("unreadable", split, file, str(error))], labels)
    findings = []
    if image.shape[:2] != mask.shape[:2]:
        sizes = (
            f"image {image.shape[0]}x{image.shape[1]}, mask {mask.shape[0]}x{mask.shape[1]} (height x width)"
        )
        findings.append(Finding("size", split, mask_file, sizes))
    labels = pixels_of_labels(mask)
    strange = [label for label in np.flatnonzero(labels) if data.num_classes <= label != IGNORE_INDEX]
    if strange:
        shown = ", ".join(map(str, strange[:8])) + (", ..." if len(strange) > 8 else "")
        findings.append(
            Finding("labels", split, mask_file, f"{shown}; classes are 0 to {data.num_classes - 1}")
        )
    if (mask == IGNORE_INDEX).all():
        findings.append(Finding("void", split, mask_file))
    if image.shape[2] != data.pixels.count or image.dtype.name not in DTYPES:
        what = f"{image.shape[2]} of {image.dtype}, and {data.pixels.count} are expected"
        return Inspection([*findings, Finding("bands", split, image_file, what)], labels)
    if data.pixels.value_range is not None and (lost := _lost(image, data.pixels.value_range)):
        findings.append(Finding("clipped", split, image_file, lost))
    grey = cv2.cvtColor(data.pixels.picture(image), cv2.COLOR_RGB2GRAY)
    thumbnail: np.ndarray | None = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA)
    if data.pixels.value_range is not None and _is_lost(image, data.pixels.value_range):
        thumbnail = None  # not a copy of others that are as black
    elif image.min() == image.max():
        findings.append(Finding("plain", split, image_file, f"all pixels are {image.min()}"))
    elif len(constant := np.flatnonzero(image.min((0, 1)) == image.max((0, 1)))):
        named = ", ".join(data.pixels.names[band] for band in constant)
        findings.append(Finding("flat", split, image_file, named))
    bands = np.array([image.min((0, 1)), image.max((0, 1)), image.mean((0, 1))], np.float64)
    palette = {} if data.overlapping else palette_of(mask_file, mask, data.table)
    return Inspection(findings, labels, thumbnail, palette, bands=bands, dtype=image.dtype.name)


def _is_lost(image: np.ndarray, value_range: tuple[float, float]) -> bool:
    """Whether all pixels are about the same once they are clipped to a range: closer than 8 bits can tell."""
    low, high = value_range
    least, most = np.clip((image.min(), image.max()), low, high)
    return bool(most - least < (high - low) / 256)


def _lost(image: np.ndarray, value_range: tuple[float, float]) -> str:
    """What a range of values costs an image."""
    low, high = value_range
    if _is_lost(image, value_range):
        return f"{_BLANK}: its values go from {image.min():g} to {image.max():g}"
    ends = ((image <= low) | (image >= high)).mean()
    if ends > 0.25:
        return f"{ends:.0%} of the values are clipped to black or white"
    used = (min(float(image.max()), high) - max(float(image.min()), low)) / (high - low)
    return f"the values use {used:.0%} of the range" if used < 48 / 256 else ""


@dataclass(frozen=True)
class Examination:
    """What the samples of the three splits told.

    Args:
        samples: The samples looked at, by split.
        lengths: Number of samples of each split.
        inspections: What each of them told.
        findings: Everything that is wrong.
    """

    samples: dict[str, Sequence[object]] = field(default_factory=dict)
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
        limit: About this many samples of each split, evenly spread, and some whose files look unlike the others';
            None looks at all.
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
            lacking = [(file, lack) for file, lack in error.files.items() if file not in known]
            found.findings.extend(Finding("unpaired", split, file, lack) for file, lack in lacking)
            continue
        except UserError as error:
            if split == data.train_split:
                raise
            kind, why = "split", str(error).splitlines()[0]
            if split == data.test_split:
                kind = "untested"
                why += f" To score {data.val_split}, say so: --data.init_args.test_split={data.val_split}."
            found.findings.append(Finding(kind, split, split, why))
            continue
        found.lengths[split] = len(samples)
        if not len(samples):
            found.findings.append(Finding("split", split, split, "the split is empty"))
        if limit is not None and len(samples) > limit:
            samples = [samples[i] for i in _choose(data, samples, limit)]
        results = in_parallel(partial(inspect, data, split), samples)
        found.samples[split] = samples
        found.inspections[split] = list(_track(results, split, len(samples)) if progress else results)
        found.findings.extend(finding for one in found.inspections[split] for finding in one.findings)
    found.findings.extend(_systematic(data, found) + _groups(data, found.lengths))
    return found


def _groups(data: DataSet, splits: Iterable[str]) -> list[Finding]:
    """Find groups with samples in several splits."""
    found, seen = [], dict[str, str]()
    for split in splits:
        samples = data.samples(split)
        if not len(samples) or data.group_of(samples[0]) is None:
            continue
        for group in {str(data.group_of(sample)) for sample in samples}:
            if (before := seen.setdefault(group, split)) != split:
                found.append(Finding("groups", split, group, f"is also in {before}"))
    return sorted(found, key=lambda finding: (finding.split, finding.file))


def _choose(data: DataSet, samples: Sequence[object], limit: int) -> list[int]:
    """Choose samples evenly, and as many whose files have other palettes, bits or formats than most."""
    chosen = set(np.linspace(0, len(samples) - 1, limit).astype(int).tolist())
    looked = np.linspace(0, len(samples) - 1, min(len(samples), 1000)).astype(int).tolist()
    files = [files_of(data, samples[i]) for i in looked]
    for side in (0, 1):
        headers = list(in_parallel(lambda pair: header_of(pair[side]), files))  # noqa: B023
        usual = Counter(headers).most_common(1)[0][0]
        odd = [i for i, header in zip(looked, headers, strict=True) if header != usual]
        chosen |= {odd[k] for k in np.linspace(0, len(odd) - 1, min(len(odd), limit)).astype(int).tolist()}
    return sorted(chosen)


def refuse_faulty(data: DataSet, samples: int = 16) -> None:
    """Look at a few samples of each split before training.

    Args:
        data: The data set.
        samples: How many of each split.

    Raises:
        UserError: With all that is wrong, if any of them has an error.
    """
    found = examine(data, limit=samples)
    findings = found.findings + shared(data, found.lengths)
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        lines = "\n\n".join(describe(errors))
        raise UserError(f"The data set has faults that would spoil the training.\n{lines}")
    warnings = [finding for finding in findings if finding.kind in EARLY]
    if warnings:
        rank_zero_warn("\n".join(describe(warnings, files=5)))


def files_of(data: DataSet, sample: object) -> tuple[str, str]:
    """Name the image and the mask of a sample."""
    paths = [str(part) for part in parts_of(sample) if file_of(part) is not None]
    return (paths[0], paths[-1]) if paths else (data.name_of(sample), data.name_of(sample))


def _track(results: Iterable[Inspection], split: str, total: int) -> Iterable[Inspection]:
    from rich.progress import track

    return track(results, f"Checking {split}", total)


def _systematic(data: DataSet, examination: Examination) -> list[Finding]:
    """See what only several samples show."""
    found = _palettes(data, examination) + _types(data, examination)
    for split, inspections in examination.inspections.items():
        labels = examination.labels(split)
        images = (labels > 0).sum(0)
        present = set(np.flatnonzero(images).tolist())
        wide = [one.values for one in inspections if one.values is not None]
        if wide:
            low, high = min(low for low, _ in wide), max(high for _, high in wide)
            first = next(
                files_of(data, sample)[0]
                for sample, one in zip(examination.samples[split], inspections, strict=True)
                if one.values is not None
            )
            found.append(
                Finding("range", split, first, f"values of {len(wide)} images go from {low:g} to {high:g}")
            )
        if inspections and all(_is_blank(one) for one in inspections):
            found.append(Finding("blank", split, split, f"value_range is {data.pixels.value_range}"))
        if all(files_of(data, sample)[1].endswith(".json") for sample in examination.samples[split]):
            crowds = present <= {0, IGNORE_INDEX} and IGNORE_INDEX in present  # masks are painted, not read
            if crowds and split == data.train_split and len(inspections) == examination.lengths[split]:
                found.append(Finding("crowds", split, split, "no object is a single one"))
        elif present == {0, 255} and images[255] > images[0] / 2:
            found.append(Finding("binary", split, split, "no other label occurs"))
        elif 0 not in present and len(present) > 1 and labels[:, 255].sum() > labels.sum() / 2:
            found.append(Finding("background", split, split))
        elif present == {255} and len(inspections) == examination.lengths[split]:
            found.append(Finding("empty", split, split, "every mask is 255 throughout"))
        if 0 not in present and max(present - {255}, default=0) == data.num_classes:
            found.append(Finding("shifted", split, split, f"labels go from 1 to {data.num_classes}"))
        if split == data.train_split and present - {IGNORE_INDEX}:
            absent = [name for label, name in enumerate(data.class_names) if label not in present]
            found += [Finding("absent", split, name) for name in absent]
            if len(here := present - {IGNORE_INDEX}) == 1 and len(absent) == data.num_classes - 1 > 0:
                found.append(
                    Finding("single", split, split, f"every pixel is {data.class_names[here.pop()]!r}")
                )
    return found


def _is_blank(one: Inspection) -> bool:
    return any(finding.detail.startswith(_BLANK) for finding in one.findings)


def _types(data: DataSet, examination: Examination) -> list[Finding]:
    """Find images of another type than most, where the values of both are normalized alike."""
    if data.pixels.value_range is not None or not data.pixels.takes_any_values:
        return []
    images = [
        (split, files_of(data, sample)[0], one.dtype)
        for split, inspections in examination.inspections.items()
        for sample, one in zip(examination.samples[split], inspections, strict=True)
        if one.dtype
    ]
    usual = Counter(dtype for _, _, dtype in images).most_common(1)
    return [
        Finding("types", split, file, f"{dtype}, most are {usual[0][0]}")
        for split, file, dtype in images
        if dtype != usual[0][0]
    ]


def _palettes(data: DataSet, examination: Examination) -> list[Finding]:
    """Find masks in which a number has another color than in most."""
    masks = [
        (split, files_of(data, sample)[1], one.palette)
        for split, inspections in examination.inspections.items()
        for sample, one in zip(examination.samples[split], inspections, strict=True)
    ]
    colors = Counter((label, color) for _, _, palette in masks for label, color in palette.items())
    usual = {label: color for (label, color), _ in reversed(colors.most_common())}
    found = []
    for split, file, palette in masks:
        odd = {label: color for label, color in palette.items() if color != usual[label]}
        if odd:
            label, color = next(iter(odd.items()))
            found.append(
                Finding("palettes", split, file, f"{label} is {color}, in other files {usual[label]}")
            )
    return found or _permuted(data, masks[0][0] if masks else "", usual)


def _permuted(data: DataSet, split: str, colors: Mapping[int, tuple[int, ...]]) -> list[Finding]:
    """See whether the colors in palette files are those of the classes, but in another order."""
    shown: dict[tuple[int, ...], int] = {color: label for label, color in enumerate(data.palette)}
    odd = []
    for number, color in sorted(colors.items()):
        label = number if data.table is None else int(data.table[number])
        if label != IGNORE_INDEX and shown.get(color) != label:
            odd.append((number, color, shown.get(color)))
    if len(odd) < 2 or any(other is None for _, _, other in odd):
        return []
    number, color, other = odd[0]
    name = data.class_names[other or 0]
    return [Finding("permuted", split, "all palettes", f"{number} is {color}, the color of {name!r}")]


def shared(data: DataSet, splits: Iterable[str]) -> list[Finding]:
    """Find samples of the training split that are in another one, too."""
    if data.train_split not in splits:
        return []
    others = {split: data.samples(split) for split in splits if split != data.train_split}
    known = {
        repr(sample) for samples in others.values() for sample in samples
    }  # fewer than those of training
    trained = {text for sample in data.samples(data.train_split) if (text := repr(sample)) in known}
    return [
        Finding("leak", data.train_split, files_of(data, sample)[0], f"is also {split}")
        for split, samples in others.items()
        for sample in samples
        if repr(sample) in trained
    ]
