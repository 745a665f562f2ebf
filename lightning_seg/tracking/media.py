"""Pictures, confusion matrices and scores per class for Weights & Biases, from plain numpy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.scores import merge_classes, miou_and_iou, scores
from lightning_seg.tracking.wandb_logger import WandbRunLogger

if TYPE_CHECKING:
    from wandb import Image

Objects = Mapping[str, np.ndarray]
_MOST_PICTURES = 8
JPEG_FROM = 256 * 256  # pixels; a PNG of a photograph takes twenty times as long


@dataclass(frozen=True)
class PictureSet:
    """Images with truth and prediction as masks that can be switched on and off in W&B, with class names.

    Args:
        images: (H, W, 3) uint8 RGB each. Smaller ones are padded at the right and bottom, because W&B shows
            all pictures of a panel in the size of the first. The first eight are sent: each one writes the class
            names into the log twice.
        truths: (H, W) uint8 each.
        predictions: (H, W) uint8 each.
        class_names: The classes in label order.
        names: What each image is called: its caption, and its row in the table.
        objects: The true and the found objects of each image, "boxes" (N, 4) in pixels and "labels" (N,), the found
            ones with "scores" (N,): drawn as boxes.

    Raises:
        ValueError: A mask is not of its image's size, which W&B would show without complaint.
    """

    images: Sequence[np.ndarray]
    truths: Sequence[np.ndarray]
    predictions: Sequence[np.ndarray]
    class_names: Sequence[str]
    names: Sequence[str]
    objects: Sequence[tuple[Objects, Objects]] | None = None

    def __post_init__(self) -> None:
        for i, (image, truth, prediction) in enumerate(self._chosen()):
            if not image.shape[:2] == truth.shape == prediction.shape:
                raise ValueError(
                    f"picture {i}: image {image.shape[:2]}, truth {truth.shape} and prediction {prediction.shape}"
                    " must have the same height and width"
                )

    def _chosen(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return list(zip(self.images, self.truths, self.predictions, strict=True))[:_MOST_PICTURES]

    def _draw(self) -> "list[Image]":
        import wandb

        labels = {**dict(enumerate(self.class_names)), IGNORE_INDEX: "ignored"}
        chosen = self._chosen()
        height = max(image.shape[0] for image, _, _ in chosen)
        width = max(image.shape[1] for image, _, _ in chosen)
        return [
            wandb.Image(
                _pad(image, height, width, 0),
                masks={
                    name: {"mask_data": _pad(mask, height, width, IGNORE_INDEX), "class_labels": labels}
                    for name, mask in (("truth", truth), ("prediction", prediction))
                },
                classes=[{"id": i, "name": name} for i, name in labels.items()],  # for the table
                boxes=_boxes(self.objects[i], labels) if self.objects else None,
                caption=name,
                file_type="jpg" if height * width >= JPEG_FROM else "png",
            )
            for i, ((image, truth, prediction), name) in enumerate(zip(chosen, self.names, strict=False))
        ]

    def log(self, logger: WandbRunLogger, key: str, step: int) -> None:
        """Log the pictures as a panel.

        Args:
            logger: Where to log.
            key: Name of the panel, such as ``val/pictures``.
            step: Optimizer step.
        """
        logger.log_metrics({key: self._draw()}, step)

    def log_table(self, logger: WandbRunLogger, key: str, step: int) -> None:
        """Log a table of the columns image, picture and mIoU, in which W&B lays the rows of several runs side by side.

        Args:
            logger: Where to log.
            key: Name of the table, such as ``val/pictures_table``.
            step: Optimizer step.
        """

        def table() -> object:
            import wandb

            # Pictures of their own: those of the panel would refer to where they were logged first.
            miou = [_miou(truth, found, len(self.class_names)) for _, truth, found in self._chosen()]
            rows = [list(row) for row in zip(self.names, self._draw(), miou, strict=False)]
            return wandb.Table(columns=["image", "picture", "mIoU"], data=rows)

        logger.add_table(key, table, step)


def log_image_scores(
    logger: WandbRunLogger,
    key: str,
    names: Sequence[str],
    counts: np.ndarray,
    class_names: Sequence[str],
    step: int,
) -> None:
    """Log a table of all images with their mIoU and their worst class; by ``image`` W&B joins those of several runs.

    Args:
        logger: Where to log.
        key: Name of the table, such as ``test/images``.
        names: Of the images.
        counts: (N, C, 3) intersection, predicted and true pixels of each image and class.
        class_names: The classes in label order.
        step: Optimizer step.
    """
    values = miou_and_iou(counts)
    rows: list[list[object]] = []
    for name, (miou, *iou) in zip(names, values.tolist(), strict=True):
        known = [
            (value, label) for value, label in zip(iou, class_names, strict=True) if not math.isnan(value)
        ]
        worst, label = min(known, default=(None, None), key=lambda pair: pair[0])
        rows.append([name, None if math.isnan(miou) else miou, label, worst])

    def table() -> object:
        import wandb

        return wandb.Table(columns=["image", "mIoU", "worst class", "its IoU"], data=rows)

    logger.add_table(key, table, step)


def _boxes(pair: tuple[Objects, Objects], labels: Mapping[int, str]) -> dict[str, dict[str, object]]:
    """Write true and found boxes as W&B wants them, the found ones with their scores, by which it can filter."""
    written: dict[str, dict[str, object]] = {}
    for kind, objects in zip(("truth", "prediction"), pair, strict=True):
        data = []
        for i, (box, label) in enumerate(
            zip(objects["boxes"].tolist(), objects["labels"].tolist(), strict=True)
        ):
            position = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
            one = {"position": position, "domain": "pixel", "class_id": label, "box_caption": labels[label]}
            if "scores" in objects:
                one["scores"] = {"score": float(objects["scores"][i])}
            data.append(one)
        written[kind] = {"box_data": data, "class_labels": labels}
    return written


def log_confusion_matrix(
    logger: WandbRunLogger,
    key: str,
    counts: np.ndarray,
    class_names: Sequence[str],
    step: int,
    most: int = 40,
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

    counts, names = merge_classes(np.asarray(counts), list(class_names), most)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        [names[i], names[j], round(float(percent[i, j]), 3), int(counts[i, j])]
        for i, j in np.ndindex(*counts.shape)
    ]

    def chart() -> object:
        return wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=["truth", "prediction", "percent", "pixels"], data=rows),
            fields={"Actual": "truth", "Predicted": "prediction", "nPredictions": "percent"},
            string_fields={"title": f"{key} (% of the true class)"},
        )

    logger.add_table(key, chart, step)


def log_per_class(logger: WandbRunLogger, key: str, scores: Mapping[str, float], step: int) -> None:
    """Log a score per class as a table and its bar chart.

    Args:
        logger: Where to log.
        key: Name of the panel, such as ``val/iou_per_class``.
        scores: Class name to score; NaN for a class that is absent.
        step: Optimizer step.
    """
    import wandb

    rows = [[name, None if math.isnan(score) else float(score)] for name, score in scores.items()]

    def chart() -> object:
        table = wandb.Table(columns=["class", "score"], data=rows)
        return wandb.plot.bar(table, "class", "score", title=key)

    logger.add_table(key, chart, step)


def _miou(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> float | None:
    """Score one image (H, W) over the classes it has."""
    counted = truth != IGNORE_INDEX
    pairs = truth[counted].astype(np.int64) * num_classes + prediction[counted]
    miou = scores(np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)).miou
    return None if math.isnan(miou) else miou


def _pad(array: np.ndarray, height: int, width: int, value: int) -> np.ndarray:
    """Pad an image (H, W, 3) or mask (H, W) at the bottom and right."""
    missing = [(0, height - array.shape[0]), (0, width - array.shape[1]), (0, 0)]
    return np.pad(array, missing[: array.ndim], constant_values=value)
