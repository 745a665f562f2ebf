"""The answer of a cross-validation: mean and spread over folds, the score of all folds pooled, and a baseline."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_seg.metrics.scores import class_dice, class_iou, nan_mean, ratio
from lightning_seg.plotting.tables import text_table
from lightning_seg.runs.directory import TEST_IMAGES, TEST_SCORES


def summarise(runs: Sequence[Path]) -> str:
    """Report the test scores of one run a fold as text.

    The spread between folds (standard deviation, n - 1) says how much a score depends on which images were held
    out. The pooled scores add up the pixels of all folds, so that every image of the data set counts once.
    Beside them stands what can be had without looking at an image: every pixel is the class that is commonest
    in the other folds.

    Args:
        runs: The run directories, in the order of the folds.
    """
    tests = [json.loads((run / TEST_SCORES).read_text()) for run in runs]
    counts = np.stack([np.load(run / TEST_IMAGES)["counts"].sum(0) for run in runs]).astype(np.float64)
    constant, commonest = _constant_prediction(counts[..., 2])
    names = tests[0]["protocol"]["classes"]
    folds, pooled, baseline = _scores(counts), _scores(counts.sum(0)), _scores(constant.sum(0))

    titles = [*(f"IoU {name}" for name in names), "mean IoU", "mean Dice", "pixel accuracy"]
    header = ["", *(f"fold {i}" for i in range(len(runs))), "mean ± std", "pooled", "constant"]
    rows = []
    for title, values, whole, trivial in zip(titles, folds.T, pooled, baseline, strict=True):
        known = values[~np.isnan(values)]
        mean = known.mean() if known.size else np.nan
        spread = known.std(ddof=1) if known.size > 1 else np.nan
        middle = f"{_number(mean)} ± {_number(spread)}"
        rows.append([title, *map(_number, values), middle, _number(whole), _number(trivial)])
    always = " or ".join(f"'{names[label]}'" for label in sorted(set(commonest)))
    lines = [
        text_table(header, rows),
        f"{len(runs)} folds, {sum(test['protocol']['images'] for test in tests)} images in all.",
        f"constant prediction: always {always}, the commonest class of the training images; pooled.",
    ]
    return "\n".join(lines)


def _constant_prediction(truth: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Predict in each fold the class that is commonest in the others.

    Args:
        truth: True pixels (K, C) of each fold.

    Returns:
        Counts (K, C, 3) and the class of each fold.
    """
    commonest = (truth.sum(0) - truth).argmax(1)
    chosen = np.eye(truth.shape[1])[commonest]
    return np.stack([chosen * truth, chosen * truth.sum(1, keepdims=True), truth], -1), commonest.tolist()


def _scores(counts: np.ndarray) -> np.ndarray:
    """Turn counts (..., C, 3) into IoU of each class, mean IoU, mean Dice, pixel accuracy (..., C + 3)."""
    iou, dice = class_iou(counts), class_dice(counts)
    correct, _, pixels = np.moveaxis(counts.sum(-2), -1, 0)
    means = [nan_mean(iou, -1), nan_mean(dice, -1), ratio(correct, pixels)]
    return np.concatenate([iou, np.stack(means, -1)], -1)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"
