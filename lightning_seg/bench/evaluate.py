"""Scores beside torchmetrics' usual collection, and validation beside the forward pass alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_seg import IGNORE_INDEX
from lightning_seg.bench.timing import Goal
from lightning_seg.bench.train import TrainBench
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.inference.precision import full_precision
from lightning_seg.metrics.confusion import ConfusionMatrix, predicted_labels

LOGITS, LABELS, DETERMINISTIC = (
    "scores from logits",
    "scores from labels",
    "scores from logits, deterministic",
)
USUAL_LOGITS, USUAL_LABELS = "torchmetrics from logits", "torchmetrics from labels"
FORWARD, VALIDATION = "forward pass", "validation step"
GOALS = (
    Goal(LOGITS, USUAL_LOGITS, 12),
    Goal(LABELS, USUAL_LABELS, 40),
    Goal(DETERMINISTIC, LOGITS, 0.95),
    Goal(VALIDATION, FORWARD, 1 / 1.08),
)


def usual(num_classes: int) -> MetricCollection:
    """Make torchmetrics' collection of IoU, F1 (Dice) and accuracy, which share one computation where they can."""
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

    options: dict[str, Any] = {"num_classes": num_classes, "ignore_index": IGNORE_INDEX, "average": None}
    return MetricCollection(
        [MulticlassJaccardIndex(**options), MulticlassF1Score(**options), MulticlassAccuracy(**options)]
    )


def scoring(
    images: int, size: tuple[int, int], num_classes: int, bench: TrainBench
) -> dict[str, Callable[[], float]]:
    """Return the ways to score random predictions, each of which returns seconds."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, num_classes, *size, generator=generator).to(bench.device)
    masks = torch.randint(num_classes, (images, *size), generator=generator, dtype=torch.uint8)
    masks[:, :8] = IGNORE_INDEX
    masks = masks.to(bench.device)
    labels, wide = predicted_labels(logits), masks.long()
    matrix = ConfusionMatrix(num_classes).to(bench.device)
    collection, from_labels = (usual(num_classes).to(bench.device) for _ in range(2))
    for metrics, predicted in ((collection, logits), (from_labels, labels)):
        metrics.update(predicted, wide)  # decides which of them can share

    def time_of(work: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            start = bench.clock()
            work()
            return bench.clock() - start

        return run

    def deterministic() -> None:
        torch.use_deterministic_algorithms(True)
        try:
            matrix.update(predicted_labels(logits), masks)
        finally:
            torch.use_deterministic_algorithms(False)

    return {
        USUAL_LOGITS: time_of(lambda: collection.update(logits, wide)),
        LOGITS: time_of(lambda: matrix.update(predicted_labels(logits), masks)),
        DETERMINISTIC: time_of(deterministic),
        USUAL_LABELS: time_of(lambda: from_labels.update(labels, wide)),
        LABELS: time_of(lambda: matrix.update(labels, masks)),
    }


@torch.no_grad()
def validation(bench: TrainBench, size: tuple[int, int]) -> dict[str, Callable[[], float]]:
    """Return a forward pass and a validation step on the same images, each of which returns seconds."""
    task = bench.experiment.model.to(bench.device).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(bench.batch["image"]), 3, *size), generator=generator, dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last).to(bench.device)
    batch: Batch = {
        "image": images,
        "mask": images[:, 0] % bench.num_classes,
        "index": torch.arange(len(images), device=bench.device),
    }

    def run(work: Callable[[], object]) -> Callable[[], float]:
        def timed() -> float:
            with torch.no_grad(), bench.autocast():
                start = bench.clock()
                work()
                return bench.clock() - start

        return timed

    def forward() -> Tensor:
        with full_precision(task.device):  # as the step computes, whatever the training does
            return task.network(images)

    return {FORWARD: run(forward), VALIDATION: run(lambda: task.validation_step(batch, 0))}
