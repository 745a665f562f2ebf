"""Pictures, confusion matrices and scores per class for Weights & Biases, from plain numpy."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lightning_seg.labels import IGNORE_INDEX
from lightning_seg.runs.tracking import MirrorLogger

JPEG_FROM = 256 * 256  # pixels; a PNG of a photograph takes twenty times as long


def log_pictures(
    logger: MirrorLogger,
    key: str,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    step: int,
    captions: Sequence[str] | None = None,
    most: int = 8,
) -> None:
    """Log images with truth and prediction as masks that can be switched on and off, with class names.

    Args:
        logger: Where to log.
        key: Name of the panel, such as ``val/pictures``.
        images: (H, W, 3) uint8 RGB each. Smaller ones are padded at the right and bottom, because W&B shows
            all pictures of a panel in the size of the first.
        truths: (H, W) uint8 each.
        predictions: (H, W) uint8 each.
        class_names: The classes in label order.
        step: Optimizer step.
        captions: A line under each picture.
        most: Pictures logged at most, the first ones; every one writes the class names into the log twice.

    Raises:
        ValueError: A mask is not of its image's size, which W&B would show without complaint.
    """
    import wandb

    labels = {**dict(enumerate(class_names)), IGNORE_INDEX: "ignored"}
    chosen = list(zip(images, truths, predictions, strict=True))[:most]
    for i, (image, truth, prediction) in enumerate(chosen):
        if not image.shape[:2] == truth.shape == prediction.shape:
            raise ValueError(
                f"picture {i} of {key}: image {image.shape[:2]}, truth {truth.shape} and prediction"
                f" {prediction.shape} must have the same height and width"
            )
    height = max(image.shape[0] for image, _, _ in chosen)
    width = max(image.shape[1] for image, _, _ in chosen)
    pictures = [
        wandb.Image(
            _pad(image, height, width, 0),
            masks={
                "truth": {"mask_data": _pad(truth, height, width, IGNORE_INDEX), "class_labels": labels},
                "prediction": {
                    "mask_data": _pad(prediction, height, width, IGNORE_INDEX),
                    "class_labels": labels,
                },
            },
            caption=captions[i] if captions else None,
            file_type="jpg" if height * width >= JPEG_FROM else "png",
        )
        for i, (image, truth, prediction) in enumerate(chosen)
    ]
    logger.log_metrics({key: pictures}, step)


def log_confusion_matrix(
    logger: MirrorLogger, key: str, counts: np.ndarray, class_names: Sequence[str], step: int, most: int = 40
) -> None:
    """Log a confusion matrix as a chart of row percentages, with its table of pixel counts.

    Args:
        logger: Where to log.
        key: Name of the panel, such as ``val/confusion``.
        counts: (C, C) pixels; rows are the truth, columns the prediction.
        class_names: The classes in label order.
        step: Optimizer step.
        most: Classes shown at most: those with most confused pixels; the others are added up as ``other``.
    """
    import wandb

    counts, names = _merge(np.asarray(counts), list(class_names), most)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        [names[i], names[j], round(float(percent[i, j]), 3), int(counts[i, j])]
        for i, j in np.ndindex(*counts.shape)
    ]
    chart = wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=["truth", "prediction", "percent", "pixels"], data=rows),
        fields={"Actual": "truth", "Predicted": "prediction", "nPredictions": "percent"},
        string_fields={"title": f"{key} (% of the true class)"},
    )
    logger.log_metrics({key: chart}, step)


def log_per_class(logger: MirrorLogger, key: str, scores: Mapping[str, float], step: int) -> None:
    """Log a score per class as a table and its bar chart.

    Args:
        logger: Where to log.
        key: Name of the panel, such as ``val/iou_per_class``.
        scores: Class name to score; NaN for a class that is absent.
        step: Optimizer step.
    """
    import wandb

    rows = [[name, None if math.isnan(score) else float(score)] for name, score in scores.items()]
    table = wandb.Table(columns=["class", "score"], data=rows)
    logger.log_metrics({key: wandb.plot.bar(table, "class", "score", title=key)}, step)


def _pad(array: np.ndarray, height: int, width: int, value: int) -> np.ndarray:
    """Pad an image (H, W, 3) or mask (H, W) at the bottom and right."""
    missing = [(0, height - array.shape[0]), (0, width - array.shape[1]), (0, 0)]
    return np.pad(array, missing[: array.ndim], constant_values=value)


def _merge(counts: np.ndarray, names: list[str], most: int) -> tuple[np.ndarray, list[str]]:
    """Add up the rows and columns of all but the most confused classes; label order and the total stay."""
    if len(names) <= most:
        return counts, names
    confused = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = np.sort(np.argsort(-confused, kind="stable")[: most - 1])
    target = np.full(len(names), most - 1)
    target[shown] = np.arange(most - 1)
    merged = np.zeros((most, most), counts.dtype)
    np.add.at(merged, (target[:, None], target[None, :]), counts)
    return merged, [*(names[i] for i in shown), "other"]
