"""The confusion matrix: every overlap score of a data set derives from one (C, C) table of integers."""

import torch
from torch import Tensor
from torchmetrics import Metric


def confusion_counts(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and predicted class, for each image of a batch.

    One histogram over ``target * C + prediction`` serves the whole batch. Ignored pixels are not masked out,
    which would copy both maps and wait for the device: they fall into an extra row that is cut off.

    Args:
        predictions: Predicted class of each pixel, (B, H, W), any integer type, in 0..C-1.
        targets: True class of each pixel, (B, H, W), any integer type, in 0..C-1 or `IGNORE_INDEX`.
        num_classes: C.

    Returns:
        int64 counts (B, C, C); rows are the truth, columns the prediction.
    """
    batch = targets.shape[0]
    # The smallest type that holds the largest bin: on a CPU half the memory is half the time.
    bins = batch * (num_classes + 1) * num_classes
    dtype = torch.int16 if bins <= torch.iinfo(torch.int16).max else torch.int32
    index = targets.clamp(max=num_classes).to(dtype).mul_(num_classes).add_(predictions.to(dtype))
    if batch > 1:
        offset = torch.arange(batch, device=index.device, dtype=dtype) * ((num_classes + 1) * num_classes)
        index += offset.view(-1, 1, 1)
    counts = torch.bincount(index.flatten(), minlength=bins)
    return counts.view(batch, num_classes + 1, num_classes)[:, :num_classes]


def predicted_labels(logits: Tensor) -> Tensor:
    """Return the class of the largest logit of each pixel; of equal ones the first.

    `torch.argmax` over the channels of a map that is stored channel by channel takes six times as long on a CPU
    as going through the channels and keeping the largest.

    Args:
        logits: (B, C, H, W), C at most 256.

    Returns:
        (B, H, W), an integer type: uint8 where that is the fastest to make.
    """
    by_channel = logits.is_contiguous() and logits.device.type == "cpu"
    if not by_channel or logits.shape[1] > 256:
        return logits.max(1)[1]
    largest = logits[:, 0].clone()
    labels = torch.zeros(largest.shape, dtype=torch.uint8)
    larger = torch.empty(largest.shape, dtype=torch.bool)
    candidate = larger.view(torch.uint8)  # the same memory: 1 where larger, then the channel there
    for channel in range(1, logits.shape[1]):
        values = logits[:, channel]
        torch.gt(values, largest, out=larger)
        torch.maximum(labels, candidate.mul_(channel), out=labels)  # channels rise, so the last one wins
        torch.maximum(largest, values, out=largest)
    return labels


class ConfusionMatrix(Metric):
    """The confusion matrix of everything seen since the last reset, summed over all processes.

    Sums of integers do not depend on the batch size, the order or the number of processes. The scores are read
    off the matrix once an epoch with `lightning_seg.metrics.scores.scores`.

    Args:
        num_classes: C.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False
    matrix: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state(
            "matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum"
        )

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch of label maps, both (B, H, W); `IGNORE_INDEX` in the targets is ignored."""
        self.matrix += confusion_counts(predictions, targets, self.num_classes).sum(0)

    def compute(self) -> Tensor:
        """Return the int64 matrix (C, C); rows are the truth, columns the prediction."""
        return self.matrix


class ImageCounts(Metric):
    """Intersection, predicted and true pixels of each class in each image, the same on every process.

    This is what paired statistics over images need. The state has one row an image, so that processes that saw
    different images, or none, add up without padding.

    Args:
        num_images: Images of the split, N.
        num_classes: C.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_images: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state(
            "counts", torch.zeros(num_images, num_classes, 3, dtype=torch.int64), dist_reduce_fx="sum"
        )

    def update(self, predictions: Tensor, targets: Tensor, index: Tensor) -> None:
        """Store the counts of a batch of images.

        Args:
            predictions: Predicted classes, (B, H, W).
            targets: True classes or `IGNORE_INDEX`, (B, H, W).
            index: Position of each image in its split, (B,).
        """
        counts = confusion_counts(predictions, targets, self.num_classes)
        self.counts[index] = torch.stack(
            [counts.diagonal(dim1=1, dim2=2), counts.sum(1), counts.sum(2)], dim=-1
        )

    def compute(self) -> Tensor:
        """Return int64 counts (N, C, 3): intersection, predicted, true pixels."""
        return self.counts
