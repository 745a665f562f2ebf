"""Segmentation losses: what torch.nn and segmentation-models-pytorch do not have, or get wrong."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seg.labels import IGNORE_INDEX


class CrossEntropy(nn.Module):
    """Pixel-wise cross-entropy, averaged over the pixels that count.

    Unlike ``torch.nn.CrossEntropyLoss``, a batch without a single labelled pixel gives 0 with a zero gradient
    instead of NaN, and masks may be ``uint8``.

    Args:
        label_smoothing: Share of the target probability spread evenly over all classes, 0 to 1.
        class_weights: One factor for each class, or none. The average is weighted accordingly.
    """

    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: list[float] | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W)."""
        targets = masks.long()
        total = F.cross_entropy(
            logits.float(),
            targets,
            weight=self.class_weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        counted = targets != IGNORE_INDEX
        if self.class_weights is None:
            weight = counted.sum()
        else:
            weight = self.class_weights[targets.masked_fill(~counted, 0)].mul(counted).sum()
        return total / weight.clamp(min=torch.finfo(torch.float32).tiny)
