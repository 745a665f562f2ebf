"""The scores by which runs can be compared."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_seg.errors import UserError
from lightning_seg.metrics.scores import class_dice, miou_and_iou, nan_mean, panoptic_qualities, ratio
from lightning_seg.runs.records import Record

SPEED = "images_per_second"
_LOWER_IS_BETTER = ("loss", "mae", "hausdorff", "hd95", "assd", "count_error", "surface_")


def lower_is_better(name: str) -> bool:
    """Say whether less is better of a score of this package, or of a loss.

    Args:
        name: As test.json has it; of a curve without ``val/``.
    """
    return name.startswith(_LOWER_IS_BETTER) or "calibration_error" in name or name.endswith("loss")


@dataclass(frozen=True)
class Measure:
    """A score.

    Attributes:
        name: As test.json has it.
        label: As people write it.
        percent: Whether it is a fraction, shown in percent.
        of_counts: Computes it, and what it is for each class, (..., 1 + C) from sums of counts over images (..., C, K);
            None for a score in which single images have no share of their own, such as average precision.
        best: 1 if more is better, -1 if less is.
        of_segments: Whether the counts are those of segments, K = 4, not of pixels, K = 3.
    """

    name: str
    label: str
    percent: bool = True
    of_counts: Callable[[np.ndarray], np.ndarray] | None = None
    best: int = 1
    of_segments: bool = False

    @property
    def scale(self) -> float:
        """By what values are multiplied before they are shown."""
        return 100.0 if self.percent else 1.0

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label} %" if self.percent else self.label

    def value(self, record: Record) -> float:
        """Return the score of a run; NaN if it has none."""
        if self.of_segments and record.panoptic is None:
            return float("nan")
        if self.of_counts is not None:  # as intervals are computed from the counts, too
            return float(self.of_counts(self.counts(record).sum(0))[0])
        return record.training_speed if self.name == SPEED else record.score(self.name)

    def counts(self, record: Record) -> np.ndarray:
        """Return what each test image of a run adds to the score, (N, C, K)."""
        if not self.of_segments:
            return record.counts
        assert record.panoptic is not None
        return record.panoptic


def _dice(counts: np.ndarray) -> np.ndarray:
    dice = class_dice(counts)
    return np.concatenate([nan_mean(dice, -1)[..., None], dice], axis=-1)


def _accuracy(counts: np.ndarray) -> np.ndarray:
    sums = np.asarray(counts).sum(-2)
    return ratio(sums[..., 0], sums[..., 2])[..., None]


def _panoptic(name: str, records: Sequence[Record]) -> Measure | None:
    """Make the measure of a score of segments; None for other scores, or where images were not counted."""
    quality, _, kind = name.partition("_")
    fields = records[0].test["protocol"]
    known = all(r.panoptic is not None for r in records if np.isfinite(r.score(name)))
    if quality not in ("pq", "sq", "rq") or kind not in ("", "things", "stuff") or not known:
        return None
    if kind and "things" not in fields:
        return None
    things = np.isin(fields.get("classes", ()), fields.get("things", ()))
    chosen = np.ones(len(things), bool) if not kind else things if kind == "things" else ~things

    def compute(counts: np.ndarray) -> np.ndarray:
        values = np.where(chosen, panoptic_qualities(counts)[quality], np.nan)
        return np.concatenate([nan_mean(values, -1)[..., None], values], axis=-1)

    label = quality.upper() + f" of {kind}" * bool(kind)
    return Measure(name, label, of_counts=compute, of_segments=True)


MIOU = Measure("miou", "mIoU", True, miou_and_iou)
_KNOWN = {
    "miou": MIOU,
    "dice": Measure("dice", "Dice", True, _dice),
    "pixel_accuracy": Measure("pixel_accuracy", "pixel accuracy", True, _accuracy),
    "mask_ap": Measure("mask_ap", "mask AP"),
    "box_ap": Measure("box_ap", "box AP"),
    SPEED: Measure(SPEED, "images/s", percent=False),
}


def find_measure(name: str | None, records: Sequence[Record]) -> Measure:
    """Choose the score to compare runs by.

    Args:
        name: A score of test.json or its beginning, such as ``boundary_f1``; unless given PQ for runs that find
            segments, mask AP for those that detect objects, else mIoU.
        records: The runs.

    Raises:
        UserError: No run has such a score, or several scores begin so.
    """
    scores = dict.fromkeys(
        key for r in records for key, v in r.test.get("scores", {}).items() if isinstance(v, int | float)
    )
    if name is None:
        if records and all("segments" in record.test.get("protocol", {}) for record in records):
            return _panoptic("pq", records) or MIOU
        detects = bool(records) and all(np.isfinite(record.score("mask_ap")) for record in records)
        return _KNOWN["mask_ap"] if detects else MIOU
    if name in _KNOWN and (name in scores or name == SPEED):
        return _KNOWN[name]
    fits = [key for key in scores if key == name] or [key for key in scores if key.startswith(name)]
    fits = fits if len(fits) < 2 else [key for key in fits if not key.endswith("_image")]
    if len(fits) != 1:
        close = fits or difflib.get_close_matches(name, [*scores, SPEED], n=3) or [*scores, SPEED]
        raise UserError(
            f"--metric {name}: {'several' if fits else 'no'} scores are called that; choose one of {', '.join(close)}"
        )
    found = fits[0]
    if of_segments := _panoptic(found, records):
        return of_segments
    values = [record.score(found) for record in records]
    percent = bool(np.nanmax(np.abs(values)) <= 1)
    return Measure(found, found.replace("_", " "), percent, best=-1 if lower_is_better(found) else 1)
