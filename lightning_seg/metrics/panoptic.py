"""Scores of segments: panoptic quality, of things and of stuff, and the average precision of the things."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import find_objects

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.images import Values
from lightning_seg.metrics.instance import (
    ImageRecord,
    ObjectArrays,
    View,
    annotations,
    ap_left_out,
    average_precision,
    gather,
)
from lightning_seg.metrics.objects import PanopticQuality, panoptic_counts
from lightning_seg.metrics.scores import class_mean


class PanopticScores:
    """Collects predicted and true segments, one record an image, and scores all images at the end.

    The rules are panopticapi's (see `panoptic_counts`), the average precision is COCO's. Records are exchanged as they
    are and sorted by image, so that no score depends on the number of processes.

    Args:
        num_classes: C.
        things: Classes that have objects; the others are stuff.
    """

    def __init__(self, num_classes: int, things: Sequence[int]) -> None:
        self.num_classes, self.things = num_classes, tuple(things)
        self._records: dict[int, ImageRecord] = {}

    def update(
        self,
        index: int,
        found: View,
        truth: View,
        crowds: Mapping[int, int],
        objects: tuple[ObjectArrays, ObjectArrays] | None = None,
    ) -> None:
        """Add an image.

        Args:
            index: Its place in the split.
            found: The predicted segments.
            truth: The true segments.
            crowds: Class of each crowd by its part.
            objects: The predicted and the true objects of things, labels are classes from 0 on; None for no average
                precision.
        """
        counts = panoptic_counts(
            found.labels, found.parts, truth.labels, truth.parts, self.num_classes, crowds
        )
        height, width = truth.parts.shape
        record: ImageRecord = {"size": (height, width), "matches": counts}
        if objects is not None:  # COCO's classes begin with 1
            record["found"], record["truth"] = (
                annotations({**side, "labels": side["labels"] + 1}) for side in objects
            )
        self._records[index] = record

    def compute(self) -> Values:
        """Score the images of all processes; the same on each of them.

        Returns:
            Panoptic, segmentation and recognition quality ``pq``, ``sq``, ``rq``, means over classes, those of things
            alone (``pq_things``) and of stuff (``pq_stuff``), and those of each class (C,) as ``pq_per_class`` and so
            on; with things, ``mask_ap`` and its like (see `lightning_seg.metrics.instance.ObjectScores`). NaN where
            there is nothing to score.
        """
        records = gather(self._records)
        records = {index: records[index] for index in sorted(records)}
        values = PanopticQuality().scores(self._rows(records))
        is_thing = np.isin(np.arange(self.num_classes), self.things)
        for name in ("pq", "sq", "rq"):
            per_class = np.asarray(values[f"{name}_per_class"])
            for kind, chosen in (("things", is_thing), ("stuff", ~is_thing)):
                values[f"{name}_{kind}"] = class_mean(per_class[chosen]) if chosen.any() else float("nan")
        if self.things:
            means, of_classes = average_precision(records, self.num_classes + 1, "segm")
            values |= {f"mask_ap{suffix}": value for suffix, value in means.items()}
            values["mask_ap_per_class"] = np.where(is_thing, of_classes[1:], np.nan)
        return values

    def counts(self) -> np.ndarray:
        """Return what each image of all processes adds to panoptic quality.

        Returns:
            (N, C, 4) in the order of the split: sum of the IoU of true positives, true and false positives, false
            negatives.
        """
        records = gather(self._records)
        return self._rows({index: records[index] for index in sorted(records)})

    def left_out(self, groups: np.ndarray | None = None) -> np.ndarray:
        """Return ``mask_ap`` without each block of the images of all processes (see `ap_left_out`), (J,)."""
        return ap_left_out(gather(self._records), self.num_classes + 1, groups=groups)

    def _rows(self, records: Mapping[int, ImageRecord]) -> np.ndarray:
        rows = [record["matches"] for record in records.values()]
        return np.stack(rows) if rows else np.zeros((0, self.num_classes, 4))

    def reset(self) -> None:
        """Forget everything."""
        self._records = {}


def drawn_segments(view: View, things: Sequence[int]) -> dict[str, np.ndarray]:
    """Give the segments of an image as pictures want them.

    Args:
        view: The segments.
        things: Classes that have objects.

    Returns:
        Of the objects "parts" (H, W) from 1 on, "labels" (N,) and "boxes" (N, 4); and "stuff" (H, W), the class of each
        other pixel, `IGNORE_INDEX` elsewhere.
    """
    of_thing = np.isin(view.labels, things)
    numbers, first, inverse = np.unique(
        np.where(of_thing, view.parts, 0), return_index=True, return_inverse=True
    )
    parts = inverse.reshape(view.parts.shape) + (numbers[0] > 0)
    corners = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(parts)]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    labels = view.labels.ravel()[first[numbers > 0]].astype(np.int64)
    stuff = np.where(of_thing, np.uint8(IGNORE_INDEX), view.labels)
    return {"parts": parts, "labels": labels, "boxes": boxes, "stuff": stuff}


def view_of_segments(
    numbers: np.ndarray, classes: np.ndarray, crowd: np.ndarray
) -> tuple[View, dict[int, int]]:
    """Give the true segments of an image as panoptic quality wants them.

    Args:
        numbers: Number of the segment at each pixel (H, W) ``uint8``; `IGNORE_INDEX` for none.
        classes: Class of each number (256,).
        crowd: Which numbers are crowds (256,).

    Returns:
        The segments, and the class of each crowd by its part.
    """
    void = numbers == IGNORE_INDEX
    labels = np.where(crowd, IGNORE_INDEX, classes).astype(np.uint8)
    parts = np.where(void, 0, numbers.astype(np.int32) + 1)
    crowds = {int(n) + 1: int(classes[n]) for n in np.unique(numbers[~void]) if crowd[n]}
    return View(parts, np.where(void, IGNORE_INDEX, labels[numbers])), crowds
