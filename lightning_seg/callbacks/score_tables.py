"""Scores of an evaluation as text, one line a class."""

from collections.abc import Sequence

import numpy as np

from lightning_seg.metrics.images import Values
from lightning_seg.metrics.scores import Scores
from lightning_seg.plotting.tables import text_table


def score_table(result: Scores, names: tuple[str, ...]) -> str:
    """Lay out scores as text, one line a class; a class without a score has a dash.

    Args:
        result: The scores.
        names: The classes.
    """
    columns = (
        result.iou_per_class,
        result.dice_per_class,
        result.precision_per_class,
        result.recall_per_class,
    )
    rows = [_row(name, [column[i] for column in columns]) for i, name in enumerate(names)]
    rows.append(_row("mean", [result.miou, result.dice, result.precision, result.recall]))
    rows.append(_row("pixel accuracy", [result.pixel_accuracy]))
    return text_table(["class", "IoU", "Dice", "precision", "recall"], rows)


def multi_label_table(result: Scores, values: Values, names: tuple[str, ...]) -> str:
    """Lay out the scores of overlapping classes as text, one line a class and one for the mean.

    Args:
        result: The scores of overlap.
        values: Average precision and thresholds, as `lightning_seg.tasks.multi_label.MultiLabelSegmentation` has them.
        names: The classes that have scores.
    """
    precision, thresholds = np.asarray(values["ap_per_class"]), np.asarray(values["threshold_per_class"])
    columns = (
        result.iou_per_class,
        result.dice_per_class,
        result.precision_per_class,
        result.recall_per_class,
        precision,
        thresholds,
    )
    rows = [_row(name, [column[i] for column in columns]) for i, name in enumerate(names)]
    rows.append(_row("mean", [result.miou, result.dice, result.precision, result.recall, values["map"]]))
    return text_table(["class", "IoU", "Dice", "precision", "recall", "AP", "threshold"], rows)


def object_table(values: Values, names: tuple[str, ...]) -> str:
    """Lay out the scores of objects as text, one line a class and one for the mean; what has no score has a dash.

    Args:
        values: Those of `lightning_seg.metrics.instance.ObjectScores`.
        names: The classes, the background first.
    """
    kinds = ("mask_ap", "box_ap")
    columns = [np.asarray(values[f"{kind}_per_class"]) for kind in (*kinds, "pq")]
    rows = [_row(name, [column[i] for column in columns]) for i, name in enumerate(names[1:], start=1)]
    rows.append(_row("mean", [values[k] for k in (*kinds, "pq")]))
    for suffix, title in (("50", "AP at IoU .50"), ("75", "AP at IoU .75")):
        rows.append(_row(title, [values[k + suffix] for k in kinds]))
    for size in ("small", "medium", "large"):
        rows.append(_row(f"{size} objects", [values[f"{k}_{size}"] for k in kinds]))
    return text_table(["class", "mask AP", "box AP", "PQ"], rows)


def _row(name: str, values: Sequence[float | np.ndarray]) -> list[str]:
    return [name, *("–" if np.isnan(value) else f"{value:.3f}" for value in values)]
