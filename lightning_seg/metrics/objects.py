"""Scores that look at images and objects one by one, where a data-set score is ruled by the large ones."""

from collections.abc import Mapping

import cv2
import numpy as np
from torch import Tensor

from lightning_seg.metrics.images import ImageMetric, Values, counted, overlap, present
from lightning_seg.metrics.scores import class_iou, class_mean, nan_mean, panoptic_qualities, ratio


class PerImage(ImageMetric):
    """IoU of each image: the mean over its classes, then mean, median and worst tenth of the images.

    A class counts in the images that have it, in truth or prediction. These are not the data-set mIoU.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = PerImage()
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("image_miou", "image_miou_worst_tenth")}
        {'image_miou': 0.921, 'image_miou_worst_tenth': 0.921}
    """

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(C, 3): right, predicted and true pixels."""
        return (num_classes, 3)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Count pixels."""
        return overlap(counted(labels, truth), truth, num_classes)

    def scores(self, rows: np.ndarray) -> Values:
        """Return the scores over images."""
        images = nan_mean(class_iou(rows), -1)
        images = np.sort(images[np.isfinite(images)])
        if not len(images):
            return dict.fromkeys(("image_miou", "image_miou_median", "image_miou_worst_tenth"), float("nan"))
        return {
            "image_miou": float(images.mean()),
            "image_miou_median": float(np.median(images)),
            "image_miou_worst_tenth": float(images[: max(1, len(images) // 10)].mean()),
        }


class BySize(ImageMetric):
    """Precision and recall of pixels by the size of the object they belong to.

    An object is a connected component of a class. Recall is the share of the pixels of true objects of a size that
    are predicted, precision the share of the pixels of predicted objects of a size that are right; over the split, then
    the mean over classes. The bounds are those of COCO unless given.

    Args:
        bounds: Areas in pixels that separate small from medium from large.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = BySize(bounds=(32**2, 96**2))
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("recall_medium", "precision_medium")}
        {'recall_medium': 0.958, 'precision_medium': 0.958}
    """

    _NAMES = ("small", "medium", "large")

    def __init__(self, bounds: tuple[int, int] = (32**2, 96**2)) -> None:
        self.bounds = bounds

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(C, 3, 4): for each size right and all pixels of the truth's objects, and of the prediction's."""
        return (num_classes, 3, 4)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Count pixels."""
        labels = counted(labels, truth)
        row = np.zeros((num_classes, 3, 4))
        for c in present(labels, truth, num_classes):
            masks = truth == c, labels == c
            both = masks[0] & masks[1]
            for side, mask in enumerate(masks):
                number, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
                area = np.bincount(regions[mask], minlength=number)
                right = np.bincount(regions[both], minlength=number)
                size = np.searchsorted(self.bounds, area, side="right")
                row[c, :, 2 * side] = np.bincount(size, weights=right, minlength=3)
                row[c, :, 2 * side + 1] = np.bincount(size, weights=area, minlength=3)
        return row

    def scores(self, rows: np.ndarray) -> Values:
        """Return precision and recall for each size, as a mean over classes and for each class."""
        sums = rows.sum(0)
        found: Values = {}
        for i, size in enumerate(self._NAMES):
            for at, name in ((0, f"recall_{size}"), (2, f"precision_{size}")):
                per_class = ratio(sums[:, i, at], sums[:, i, at + 1])
                found |= {name: class_mean(per_class), f"{name}_per_class": per_class}
        return found


class ObjectCounts(ImageMetric):
    """Error of the number of objects of a class in an image: the mean of its size, and of its sign (the bias).

    An object is a connected component. Images count that have objects of the class, in truth or prediction.

    Args:
        smallest: Area in pixels from which on a component counts.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = ObjectCounts()
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("count_error", "count_bias")}
        {'count_error': 0.0, 'count_bias': 0.0}
    """

    def __init__(self, smallest: int = 1) -> None:
        self.smallest = smallest

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(C, 2): predicted and true objects."""
        return (num_classes, 2)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Count objects."""
        maps = (counted(labels, truth), truth)
        return np.stack([count_objects(x, num_classes, self.smallest) for x in maps], axis=1)

    def scores(self, rows: np.ndarray) -> Values:
        """Return mean error and bias, as a mean over classes and for each class."""
        error, images = rows[..., 0] - rows[..., 1], (rows.sum(-1) > 0).sum(0)
        values = {
            "count_error": ratio(np.abs(error).sum(0), images),
            "count_bias": ratio(error.sum(0), images),
        }
        means: Values = {name: class_mean(value) for name, value in values.items()}
        return means | {f"{name}_per_class": value for name, value in values.items()}


def count_objects(labels: np.ndarray, num_classes: int, smallest: int = 1) -> np.ndarray:
    """Count the connected components of each class.

    Args:
        labels: (H, W) uint8; a label from C on is of no class.
        num_classes: C.
        smallest: Area in pixels from which on a component counts.

    Returns:
        (C,) int64.
    """
    counts = np.zeros(num_classes, np.int64)
    for c in present(labels, labels, num_classes):
        _, _, stats, _ = cv2.connectedComponentsWithStats((labels == c).astype(np.uint8), connectivity=8)
        counts[c] = (stats[1:, cv2.CC_STAT_AREA] >= smallest).sum()
    return counts


class PanopticQuality(ImageMetric):
    """Panoptic quality PQ = SQ x RQ: mean IoU of the true positives (SQ) times the F1 of detection (RQ).

    Kirillov et al., "Panoptic segmentation", CVPR 2019. An object is a connected component of a class, unless it is
    one of the classes that come as a whole. Instance labels are scored by `panoptic_counts`.

    Args:
        stuff: Numbers of the classes that are one object for each image, such as sky.

    Examples:
        >>> truth = np.zeros((64, 64), np.uint8)
        >>> truth[16:48, 16:48] = 1
        >>> labels = np.roll(truth, 2, axis=1)  # the prediction is two pixels too far right
        >>> metric = PanopticQuality(stuff=(0,))
        >>> scores = metric.scores(metric.measure(labels, truth, 2)[None])
        >>> {name: round(float(scores[name]), 3) for name in ("pq", "sq", "rq")}
        {'pq': 0.921, 'sq': 0.921, 'rq': 1.0}
    """

    def __init__(self, stuff: tuple[int, ...] = ()) -> None:
        self.stuff = tuple(stuff)

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(C, 4): sum of the IoU of true positives, true positives, false positives, false negatives."""
        return (num_classes, 4)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Count objects."""
        predicted, true = (self._objects(x, num_classes) for x in (labels, truth))
        return panoptic_counts(labels, predicted, truth, true, num_classes)

    def _objects(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        objects, last = np.zeros(labels.shape, np.int64), 0
        for c in present(labels, labels, num_classes):
            mask = labels == c
            if c in self.stuff:
                objects[mask] = last = last + 1
            else:
                number, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
                objects[mask] = regions[mask] + last
                last += number - 1
        return objects

    def scores(self, rows: np.ndarray) -> Values:
        """Return PQ and its factors SQ (segmentation) and RQ (recognition), each also for each class."""
        values = panoptic_qualities(rows.sum(0))
        means: Values = {name: class_mean(value) for name, value in values.items()}
        return means | {f"{name}_per_class": value for name, value in values.items()}


def panoptic_counts(
    labels: np.ndarray,
    objects: np.ndarray,
    truth: np.ndarray,
    true_objects: np.ndarray,
    num_classes: int,
    crowds: Mapping[int, int] | None = None,
) -> np.ndarray:
    """Match the segments of an image by the rules of panopticapi.

    A predicted and a true segment of one class match if their IoU is above 1/2. Void pixels are left out of the
    union, pixels of a crowd are not. A crowd never matches and is no false negative. A predicted segment that lies by
    more than half on void pixels and on the crowd of its own class is no false positive; of several crowds of a class
    in one image the last one counts.

    Args:
        labels: Predicted class at each pixel, (H, W); from C on there is none.
        objects: Number of the predicted segment, unique in the image, (H, W), 0 or more.
        truth: True class, (H, W); from C on the pixel is void or of a crowd.
        true_objects: Number of the true segment, (H, W); where ``truth`` is C or more 0 means void, and any other
            number a crowd.
        num_classes: C.
        crowds: Class of each crowd by its number.

    Returns:
        (C, 4): sum of the IoU of true positives, true positives, false positives, false negatives.
    """
    void = (truth >= num_classes) & (true_objects == 0)
    predicted, a = np.unique(np.where(labels >= num_classes, -1, objects), return_inverse=True)
    true, b = np.unique(np.where(void, -1, true_objects), return_inverse=True)
    a, b = a.ravel(), b.ravel()
    shared = np.bincount(a * len(true) + b, minlength=len(predicted) * len(true)).reshape(len(predicted), -1)
    predicted_class, true_class = np.zeros(len(predicted), np.int64), np.zeros(len(true), np.int64)
    predicted_class[a], true_class[b] = labels.ravel(), truth.ravel()
    segment, true_segment = predicted >= 0, true_class < num_classes

    on_void = shared[:, true < 0].sum(1)
    area, true_area = shared.sum(1), shared.sum(0)
    iou = ratio(shared, (area - on_void)[:, None] + true_area[None] - shared)
    match = (predicted_class[:, None] == true_class) & segment[:, None] & true_segment & (iou > 0.5)
    last_crowd = {c: n for n, c in sorted((crowds or {}).items()) if n in true}
    forgiven = on_void.copy()
    for c, number in last_crowd.items():
        forgiven += np.where(predicted_class == c, shared[:, true == number].sum(1), 0)
    false_positive = segment & ~match.any(1) & (2 * forgiven <= area)
    false_negative = true_segment & ~match.any(0)

    row = np.zeros((num_classes, 4))
    i, j = match.nonzero()
    np.add.at(row[:, 0], predicted_class[i], iou[i, j])
    np.add.at(row[:, 1], predicted_class[i], 1)
    np.add.at(row[:, 2], predicted_class[false_positive], 1)
    np.add.at(row[:, 3], true_class[false_negative], 1)
    return row
