"""Scores beyond overlap: one row of numbers for each image, then scores of all rows.

A metric says what it measures in one image and how the rows of all images make its scores. The rows are kept by the
image's place in the split, so a score does not depend on batch size, order or the number of processes, and the rows
of two runs can be compared image by image. Measuring happens on the CPU and in evaluation only.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.torch_metric import TorchMetric

Values = dict[str, float | np.ndarray]
"""Scores by name: one number, or one for each class, (C,); NaN where there is no score."""


class ImageMetric(ABC):
    """What is measured in each image.

    Attributes:
        wants_probabilities: Whether `measure` needs the probabilities.

    Examples:
        >>> class Answered(ImageMetric):
        ...     def shape(self, num_classes):
        ...         return (1,)
        ...     def measure(self, labels, truth, num_classes, probabilities=None):
        ...         return np.array([(labels != 255).mean()])
        ...     def scores(self, rows):
        ...         return {"answered": float(rows.mean())}
        >>> Answered().measure(np.array([[0, 255]]), np.array([[0, 1]]), 2)
        array([0.5])
    """

    wants_probabilities = False

    @abstractmethod
    def shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of a row."""

    @abstractmethod
    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Measure one image.

        Args:
            labels: Predicted classes (H, W) uint8; `IGNORE_INDEX` where there is no answer.
            truth: True classes (H, W) uint8, or `IGNORE_INDEX`.
            num_classes: C.
            probabilities: (C, H, W), if the metric wants them.

        Returns:
            Its row, of `shape`.
        """

    @abstractmethod
    def scores(self, rows: np.ndarray) -> Values:
        """Compute the scores of all images.

        Args:
            rows: (N, *shape) float64.
        """


class ImageTable(Metric):
    """The rows of a metric for all images of a split, the same on every process.

    Args:
        metric: What is measured.
        num_images: Images of the split, N.
        num_classes: C.
    """

    full_state_update = False
    rows: Tensor

    def __init__(self, metric: ImageMetric, num_images: int, num_classes: int) -> None:
        super().__init__()
        self.metric = metric
        self.num_classes = num_classes
        empty = torch.zeros(num_images, *metric.shape(num_classes), dtype=torch.float64)
        self.add_state(
            "rows", empty, dist_reduce_fx="sum"
        )  # each row is filled on one process, 0 on the others

    def update(
        self, labels: Tensor, truth: Tensor, index: Tensor, probabilities: Tensor | None = None
    ) -> None:
        """Measure a batch.

        Args:
            labels: Predicted classes (B, H, W).
            truth: True classes or `IGNORE_INDEX`, (B, H, W).
            index: Place of each image in its split, (B,).
            probabilities: (B, C, H, W), if the metric wants them.
        """
        predicted, true = labels.byte().cpu().numpy(), truth.cpu().numpy()
        for i, place in enumerate(index.tolist()):
            given = None if probabilities is None else probabilities[i]
            row = self.metric.measure(predicted[i], true[i], self.num_classes, given)
            self.rows[place] = torch.from_numpy(np.asarray(row, dtype=np.float64))

    def compute(self) -> Tensor:
        """Return the rows (N, *shape)."""
        return self.rows


class ImageTables:
    """The tables of several metrics, and the metrics of torchmetrics beside them.

    Args:
        metrics: What is measured.
        num_images: Images of the split, N.
        num_classes: C.
        device: Where processes exchange them.
    """

    def __init__(
        self,
        metrics: Sequence[ImageMetric | TorchMetric],
        num_images: int,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self.others = [metric for metric in metrics if isinstance(metric, TorchMetric)]
        for metric in self.others:
            metric.start(device)
        device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        ours = [metric for metric in metrics if isinstance(metric, ImageMetric)]
        self.tables = [ImageTable(metric, num_images, num_classes).to(device) for metric in ours]

    def update(self, labels: Tensor, truth: Tensor, index: Tensor, logits: Tensor) -> None:
        """Measure a batch: labels and truth (B, H, W), places (B,), the network's logits (B, C, H, W)."""
        wanted = any(table.metric.wants_probabilities for table in self.tables) or self.others
        probabilities = logits.float().softmax(1) if wanted else None
        for table in self.tables:
            table.update(labels, truth, index, probabilities)
        for metric in self.others:
            assert probabilities is not None
            metric.update(probabilities, labels, truth)

    def scores(self) -> Values:
        """Return the scores of all metrics, the same on every process."""
        found: Values = {}
        for table in self.tables:
            found |= table.metric.scores(table.compute().cpu().numpy())
        for metric in self.others:
            found |= metric.scores()
        return found


def counted(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the labels (H, W), set to `IGNORE_INDEX` wherever the truth is."""
    return np.where(truth == IGNORE_INDEX, np.uint8(IGNORE_INDEX), labels)


def overlap(labels: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each class that are right, predicted and true; a label from C on is of no class.

    Args:
        labels: Predicted classes uint8, any shape.
        truth: True classes uint8, the same shape.
        num_classes: C.

    Returns:
        (C, 3) int64.
    """
    parts = (truth[labels == truth], labels.ravel(), truth.ravel())
    return np.stack([np.bincount(part, minlength=256)[:num_classes] for part in parts], axis=1)


def present(labels: np.ndarray, truth: np.ndarray, num_classes: int) -> list[int]:
    """List the classes that occur in the prediction or in the truth, labels (H, W) both."""
    return [c for c in np.union1d(labels, truth).tolist() if c < num_classes]


def by_class(found: Values, split: str, class_names: Sequence[str]) -> dict[str, float]:
    """Name scores for the log ``<split>/<score>``; those of each class ``<split>/<score>/<class>``."""
    values: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, np.ndarray):
            name = name.removesuffix("_per_class")
            values |= {f"{split}/{name}/{c}": float(v) for c, v in zip(class_names, value, strict=True)}
        else:
            values[f"{split}/{name}"] = float(value)
    return values
