"""Scores of a confusion matrix. Plain numpy: commands that only read finished runs need no torch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Data-set scores: all pixels of all images in one matrix, then one number a class, then their mean.

    A class that is neither in the truth nor in the prediction has no score: it is NaN, and left out of the means.

    Attributes:
        miou: Mean over classes of intersection over union (Jaccard index).
        dice: Mean over classes of 2|A∩B| / (|A|+|B|), which is also the F1 score.
        pixel_accuracy: Correct pixels / all pixels.
        mean_accuracy: Mean over classes of recall.
        precision: Mean over classes of correct pixels / predicted pixels.
        recall: The same as `mean_accuracy`, under its other name.
        fwiou: IoU weighted by how frequent each class is in the truth.
        classes_present: Number of classes with a score.
        iou_per_class: (C,) fractions.
        dice_per_class: (C,) fractions.
        precision_per_class: (C,) fractions; NaN where the class was never predicted.
        recall_per_class: (C,) fractions; NaN where the class is not in the truth.
    """

    miou: float
    dice: float
    pixel_accuracy: float
    mean_accuracy: float
    precision: float
    recall: float
    fwiou: float
    classes_present: int
    iou_per_class: np.ndarray
    dice_per_class: np.ndarray
    precision_per_class: np.ndarray
    recall_per_class: np.ndarray

    def means(self) -> dict[str, float]:
        """Return the scores that are one number, by name."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}


def scores(matrix: np.ndarray) -> Scores:
    """Derive all scores from a confusion matrix.

    Args:
        matrix: Pixel counts (C, C); rows are the truth, columns the prediction.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    hit, truth, predicted = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    iou = _ratio(hit, truth + predicted - hit)
    dice = _ratio(2 * hit, truth + predicted)
    precision = _ratio(hit, predicted)
    recall = _ratio(hit, truth)
    total = truth.sum()
    return Scores(
        miou=_mean(iou),
        dice=_mean(dice),
        pixel_accuracy=float(_ratio(hit.sum(), total)),
        mean_accuracy=_mean(recall),
        precision=_mean(precision),
        recall=_mean(recall),
        fwiou=float(np.nansum(truth * iou) / total) if total else float("nan"),
        classes_present=int((~np.isnan(iou)).sum()),
        iou_per_class=iou,
        dice_per_class=dice,
        precision_per_class=precision,
        recall_per_class=recall,
    )


def merge_classes(counts: np.ndarray, names: list[str], most: int) -> tuple[np.ndarray, list[str]]:
    """Add up the rows and columns of all but the most confused classes; label order and the total stay.

    Args:
        counts: Confusion matrix (C, C).
        names: The classes.
        most: Classes to keep at most, the last of which is ``other``.

    Returns:
        The matrix, and the names of its classes.
    """
    if len(names) <= most:
        return counts, names
    confused = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = np.sort(np.argsort(-confused, kind="stable")[: most - 1])
    target = np.full(len(names), most - 1)
    target[shown] = np.arange(most - 1)
    merged = np.zeros((most, most), counts.dtype)
    np.add.at(merged, (target[:, None], target[None, :]), counts)
    return merged, [*(names[i] for i in shown), "other"]


def _ratio(part, whole):
    """Divide; nothing by nothing is NaN, not 0 and not a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(part, whole)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
