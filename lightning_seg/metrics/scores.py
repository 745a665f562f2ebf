"""Overlap scores of pixel counts, the only place where they are computed.

Plain numpy: commands that only read finished runs need no torch.
"""

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
    counts = np.stack([np.diagonal(matrix), matrix.sum(0), matrix.sum(1)], axis=-1)
    return scores_of_counts(counts, float(ratio(counts[:, 0].sum(), matrix.sum())))


def scores_of_counts(counts: np.ndarray, pixel_accuracy: float) -> Scores:
    """Derive all scores from the counts of each class.

    Args:
        counts: (C, 3): intersection, predicted, true pixels.
        pixel_accuracy: Share of the decisions that are right.
    """
    counts = np.asarray(counts, dtype=np.float64)
    intersection, predicted, true = counts.T
    iou, dice = class_iou(counts), class_dice(counts)
    precision, recall = ratio(intersection, predicted), ratio(intersection, true)
    total = true.sum()
    return Scores(
        miou=class_mean(iou),
        dice=class_mean(dice),
        pixel_accuracy=pixel_accuracy,
        mean_accuracy=class_mean(recall),
        precision=class_mean(precision),
        recall=class_mean(recall),
        fwiou=float(ratio(np.nansum(true * iou), total)),
        classes_present=int((~np.isnan(iou)).sum()),
        iou_per_class=iou,
        dice_per_class=dice,
        precision_per_class=precision,
        recall_per_class=recall,
    )


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Compute the IoU of each class.

    Args:
        counts: (..., C, 3): intersection, predicted, true pixels.

    Returns:
        (..., C) fractions; NaN for a class in neither prediction nor truth.
    """
    intersection, predicted, true = np.moveaxis(np.asarray(counts), -1, 0)
    return ratio(intersection, predicted + true - intersection)


def class_errors(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute what is wrong of each class, as fractions of the union: with the IoU they add up to 1.

    Args:
        counts: (..., C, 3): intersection, predicted, true pixels.

    Returns:
        False negatives and false positives, (..., C) each; NaN for a class in neither prediction nor truth.
    """
    intersection, predicted, true = np.moveaxis(np.asarray(counts), -1, 0)
    union = predicted + true - intersection
    return ratio(true - intersection, union), ratio(predicted - intersection, union)


def class_dice(counts: np.ndarray) -> np.ndarray:
    """Compute the Dice score of each class, (..., C), from counts (..., C, 3) as in `class_iou`."""
    intersection, predicted, true = np.moveaxis(np.asarray(counts), -1, 0)
    return ratio(2 * intersection, predicted + true)


def miou_and_iou(counts: np.ndarray) -> np.ndarray:
    """Compute mIoU and class IoU.

    Args:
        counts: (..., C, 3): intersection, predicted, true pixels, summed over the images.

    Returns:
        (..., 1 + C): the mean over the classes that have a score, then the IoU of each class.
    """
    iou = class_iou(counts)
    return np.concatenate([nan_mean(iou, -1)[..., None], iou], axis=-1)


def panoptic_qualities(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute panoptic quality and its factors.

    Args:
        counts: (..., C, 4): sum of the IoU of true positives, true positives, false positives, false negatives, summed
            over the images.

    Returns:
        "pq", "sq" and "rq" of each class, (..., C); NaN for a class in neither prediction nor truth. As panopticapi has
        it, SQ is 0 for a class of which nothing was found.
    """
    iou, tp, fp, fn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    halves = tp + (fp + fn) / 2
    sq = np.where(tp > 0, ratio(iou, tp), np.where(halves > 0, 0.0, np.nan))
    return {"pq": ratio(iou, halves), "sq": sq, "rq": ratio(tp, halves)}


def class_mean(values: np.ndarray) -> float:
    """Average over all that have a score, such as classes (C,); NaN if none has."""
    return float(nan_mean(values))


def nan_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Average, along an axis unless over all, what is not NaN; NaN, and no warning, where nothing is left."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0).sum(axis), known.sum(axis))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide arrays of one shape; nothing by nothing is NaN and no warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(part, whole))


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
