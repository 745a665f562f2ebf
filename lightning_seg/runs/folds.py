"""The answer of a cross-validation: mean and spread over folds, and the score of all folds pooled."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_seg.runs.directory import TEST_IMAGES, TEST_SCORES


def summarise(runs: Sequence[Path]) -> str:
    """Report the test scores of one run a fold as text.

    The spread between folds (standard deviation, n - 1) says how much a score depends on which images were held
    out. The pooled IoU adds up the pixels of all folds, so that every image of the data set counts once. Beside
    it stands what a prediction of the commonest class everywhere would score.

    Args:
        runs: The run directories, in the order of the folds.
    """
    tests = [json.loads((run / TEST_SCORES).read_text()) for run in runs]
    counts = sum(np.load(run / TEST_IMAGES)["counts"].sum(0) for run in runs)
    names = tests[0]["protocol"]["classes"]
    hit, predicted, truth = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        pooled = hit / (predicted + truth - hit)
    common = int(truth.argmax())
    trivial = truth[common] / truth.sum()

    width = max(len("mean IoU"), *map(len, names))
    lines = [
        f"{'IoU':<{width}}" + "".join(f"  fold {i}" for i in range(len(runs))) + "   mean ± std    pooled"
    ]
    for row, name in enumerate([*names, "mean IoU"]):
        scores = [t["scores"]["miou"] if row == len(names) else t["scores"]["iou"][name] for t in tests]
        values = np.array([np.nan if s is None else s for s in scores])
        whole = np.nanmean(pooled) if row == len(names) else pooled[row]
        spread = np.nanstd(values, ddof=1) if (~np.isnan(values)).sum() > 1 else np.nan
        cells = "".join(f"  {value:.4f}" for value in values)
        lines.append(f"{name:<{width}}{cells}  {np.nanmean(values):.4f} ± {spread:.4f}  {whole:.4f}")
    images = sum(t["protocol"]["images"] for t in tests)
    lines.append(
        f"{len(runs)} folds, {images} images in all. {names[common]!r} everywhere would have an IoU of {trivial:.4f}"
        f" for {names[common]!r} and {trivial / (truth > 0).sum():.4f} in the mean."
    )
    return "\n".join(lines)
