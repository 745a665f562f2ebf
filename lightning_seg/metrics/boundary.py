"""Boundary scores: how well predicted outlines match the true ones, which IoU hardly shows on large objects.

The edge of the image is an edge of whatever it cuts. Pixels set to `ignore_index` in the truth belong to no class, in
the truth and in the prediction alike: an outline along them is matched by any prediction that fills up to them.
"""

import math
from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.metrics.images import ImageMetric, Values, counted, overlap, present
from lightning_seg.metrics.scores import class_iou, class_mean, ratio

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_OUTSIDE = 254  # a label that no class has, for what is beyond the edge of the image


def border(labels: np.ndarray, kernel: np.ndarray = _CROSS, image_edge: bool = True) -> np.ndarray:
    """Find the pixels that have another label within reach.

    Args:
        labels: (H, W) uint8.
        kernel: What is within reach, (2 R + 1, 2 R + 1) uint8; the four neighbors unless given.
        image_edge: Whether beyond the edge of the image there is another label.

    Returns:
        (H, W) bool.
    """
    beyond = cv2.BORDER_CONSTANT if image_edge else cv2.BORDER_REPLICATE
    highest = cv2.dilate(labels, kernel, borderType=beyond, borderValue=_OUTSIDE)
    return np.not_equal(highest, cv2.erode(labels, kernel, borderType=beyond, borderValue=_OUTSIDE))


class BoundaryIoU(ImageMetric):
    """IoU of the strips inside the outlines of prediction and truth, over all pixels of the split.

    Cheng et al., "Boundary IoU", CVPR 2021; a strip is as wide as their code makes it.

    Args:
        width: Of the strip, as a fraction of the image's diagonal.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = BoundaryIoU()
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("boundary_iou_2pct",)}
        {'boundary_iou_2pct': 0.516}
    """

    def __init__(self, width: float = 0.02) -> None:
        self.width = width
        self.name = f"boundary_iou_{100 * width:g}pct"

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(C, 3): pixels of the strips that are in both, in the prediction's, in the truth's."""
        return (num_classes, 3)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Count the pixels of the strips."""
        pixels = max(1, round(self.width * math.hypot(*truth.shape)))
        square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
        predicted, true = (
            np.where(border(x, square), x, np.uint8(IGNORE_INDEX)) for x in (counted(labels, truth), truth)
        )
        return overlap(predicted, true, num_classes)

    def scores(self, rows: np.ndarray) -> Values:
        """Return the mean over classes and the score of each class."""
        per_class = class_iou(rows.sum(0))
        return {self.name: class_mean(per_class), f"{self.name}_per_class": per_class}


class BoundaryF1(ImageMetric):
    """Boundary F1: of outline pixels within a tolerance, the F1 of precision (prediction) and recall (truth).

    Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013. The score
    is over all outlines of the split; ending in ``_image`` it is theirs, the mean over the images of the mean over the
    classes of each.

    Args:
        tolerance: How near, as a fraction of the image's diagonal.
        pixels: How near, in pixels, instead.

    Raises:
        UserError: The tolerance is not positive.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = BoundaryF1(pixels=1)
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("boundary_f1_1px", "boundary_f1_1px_image")}
        {'boundary_f1_1px': 0.674, 'boundary_f1_1px_image': 0.674}
    """

    def __init__(self, tolerance: float = 0.0075, pixels: float | None = None) -> None:
        if tolerance <= 0 or (pixels is not None and pixels <= 0):
            raise UserError(
                f"BoundaryF1 needs a positive tolerance; got {tolerance} of the diagonal, {pixels} px."
            )
        self.tolerance = tolerance
        self.pixels = pixels
        self.name = f"boundary_f1_{100 * tolerance:g}pct" if pixels is None else f"boundary_f1_{pixels:g}px"

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(C, 4): pixels of the prediction's outlines near the truth's, and all; of the truth's likewise."""
        return (num_classes, 4)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Count the pixels of the outlines."""
        reach = self.tolerance * math.hypot(*truth.shape) if self.pixels is None else self.pixels
        row = np.zeros((num_classes, 4))
        for c, predicted, true in outlines(labels, truth, num_classes):
            near_true = distances(true, predicted) <= reach
            near_predicted = distances(predicted, true) <= reach
            row[c] = near_true.sum(), near_true.size, near_predicted.sum(), near_predicted.size
        return row

    def scores(self, rows: np.ndarray) -> Values:
        """Return the mean over classes, the score of each class, and the mean over images."""
        per_class = f1(rows.sum(0))
        means = np.array([class_mean(values) for values in f1(rows)])
        return {
            self.name: class_mean(per_class),
            f"{self.name}_per_class": per_class,
            f"{self.name}_image": class_mean(means),
        }


class SurfaceDistances(ImageMetric):
    """Distances in pixels between the outlines of prediction and truth: Hausdorff, HD95 and ASSD.

    From each pixel of either outline to the nearest of the other one. The Hausdorff distance is the largest; HD95 is
    the larger of the two directions' 95th percentiles; ASSD (average symmetric surface distance) is the mean of all.
    Taha and Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Medical Imaging 2015.

    A class that is in the truth of an image and not in the prediction is a false negative, the reverse a false
    positive: there are no two outlines to measure. Both are counted beside the scores, which are the mean over the
    images of each class, then over classes.

    Args:
        miss: What a false negative or false positive counts as: ``diagonal`` of the image, the largest distance there
            can be, so that missing an object is never better than finding it; or ``skip``, as other libraries do.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = SurfaceDistances()
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("hausdorff", "hd95", "assd", "surface_misses")}
        {'hausdorff': 2.0, 'hd95': 2.0, 'assd': 0.672, 'surface_misses': 0.0}
    """

    _NAMES = ("hausdorff", "hd95", "assd")

    def __init__(self, miss: Literal["diagonal", "skip"] = "diagonal") -> None:
        self.miss = miss

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(C, 4): 0 absent, 1 measured, 2 false negative, 3 false positive; and the three distances."""
        return (num_classes, 4)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Measure the distances."""
        without = math.hypot(*truth.shape) if self.miss == "diagonal" else math.nan
        row = np.zeros((num_classes, 4))
        for c, predicted, true in outlines(labels, truth, num_classes):
            if predicted.any() and true.any():
                ways = (distances(true, predicted), distances(predicted, true))
                percentile = max(np.quantile(way, 0.95) for way in ways)
                every = np.concatenate(ways)
                row[c] = 1, every.max(), percentile, every.mean()
            else:
                row[c] = 2 if true.any() else 3, without, without, without
        return row

    def scores(self, rows: np.ndarray) -> Values:
        """Return each distance as a mean over classes and for each class, and how often there was none."""
        case, values = rows[..., 0], np.where(rows[..., :1] == 0, np.nan, rows[..., 1:])
        measured = np.isfinite(values)
        per_class = ratio(np.where(measured, values, 0).sum(0), measured.sum(0))  # (C, 3)
        found: Values = {}
        for i, name in enumerate(self._NAMES):
            found |= {name: class_mean(per_class[:, i]), f"{name}_per_class": per_class[:, i]}
        counts = {"surface_misses": (case == 2).sum(0), "surface_false_alarms": (case == 3).sum(0)}
        for name, count in counts.items():
            found |= {name: float(count.sum()), f"{name}_per_class": count.astype(float)}
        return found


class Trimap(ImageMetric):
    """mIoU of the pixels around the true outlines alone, for several widths: where a model errs.

    Kohli, Ladický and Torr, "Robust higher order potentials for enforcing label consistency", IJCV 2009.

    Args:
        widths: How far the band reaches on either side of an outline, in pixels.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = Trimap(widths=(2, 8))
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("trimap_miou_2px", "trimap_miou_8px")}
        {'trimap_miou_2px': 0.597, 'trimap_miou_8px': 0.874}
    """

    def __init__(self, widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)) -> None:
        self.widths = tuple(widths)

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(W, C, 3): right, predicted and true pixels in each band."""
        return (len(self.widths), num_classes, 3)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Count the pixels in the bands."""
        labels = counted(labels, truth)
        outline = border(truth, image_edge=False)
        distance = distances(outline, np.ones_like(outline)).reshape(
            truth.shape
        )  # 0 on either side of an outline
        bands = (distance < width for width in self.widths)
        return np.stack([overlap(labels[band], truth[band], num_classes) for band in bands])

    def scores(self, rows: np.ndarray) -> Values:
        """Return the mIoU of each band."""
        curve = class_iou(rows.sum(0))
        return {f"trimap_miou_{w}px": class_mean(iou) for w, iou in zip(self.widths, curve, strict=True)}


def outlines(
    labels: np.ndarray, truth: np.ndarray, num_classes: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Go through the classes of prediction and truth: class, its outline in the one and in the other, (H, W) bool."""
    labels = counted(labels, truth)
    at_border = border(labels), border(truth)
    for c in present(labels, truth, num_classes):
        yield c, at_border[0] & (labels == c), at_border[1] & (truth == c)


def distances(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return Euclidean distances to the nearest pixel of a mask.

    Args:
        mask: (H, W) bool.
        at: (H, W) bool, the pixels that are asked for, K of them.

    Returns:
        (K,) float64 in pixels; infinite if the mask is empty.
    """
    if not mask.any():
        return np.full(np.count_nonzero(at), np.inf)
    found = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[at]
    return np.asarray(
        np.sqrt(np.rint(np.square(found, dtype=np.float64)))
    )  # squares are integers: no rounding is left


def f1(counts: np.ndarray) -> np.ndarray:
    """Combine precision and recall of counts (..., 4); NaN where there is no outline at all, 0 where one is missing."""
    precision = np.nan_to_num(ratio(counts[..., 0], counts[..., 1]))
    recall = np.nan_to_num(ratio(counts[..., 2], counts[..., 3]))
    f1 = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
    return np.where(counts[..., 1] + counts[..., 3] > 0, f1, np.nan)
