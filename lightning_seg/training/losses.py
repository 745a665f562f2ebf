"""Losses for segmentation: logits (B, C, H, W) and masks (B, H, W) ``uint8`` to a scalar.

All of them keep four promises that losses elsewhere break: pixels labeled `IGNORE_INDEX` change neither value nor
gradient, even where their logits are NaN or infinite; a batch without a single labeled pixel gives 0 with a zero
gradient instead of NaN; a class that is not in the batch's truth adds nothing, not even to the divisor of a mean; and
they compute in ``float32`` whatever the network computes in. Nothing in them waits for a GPU.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.class_frequencies import Balance, balanced_weights
from lightning_seg.errors import UserError


class PixelLoss(nn.Module):
    """Base of the losses that are a mean over pixels, with optional class weights.

    Args:
        class_weights: One factor for each class, or how to compute them from the pixels of the training split
            (see `balanced_weights`); the mean is weighted accordingly. None weights all pixels alike.

    Examples:
        >>> issubclass(FocalLoss, PixelLoss), issubclass(DiceLoss, PixelLoss)
        (True, False)
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: list[float] | Balance | None = None) -> None:
        super().__init__()
        self.balance: Balance | None = class_weights if isinstance(class_weights, str) else None
        weights = torch.tensor(class_weights) if isinstance(class_weights, list) else None
        # Computed weights go into the checkpoint: to test a run the training split need not be there.
        self.register_buffer("class_weights", weights, persistent=self.balance is not None)

    def expect_weights(self, classes: int) -> None:
        """Make room for the class weights of a checkpoint, where they are computed from data."""
        if self.class_weights is None:
            self.class_weights = torch.ones(classes)

    def set_frequencies(self, pixels: np.ndarray, pixels_around: np.ndarray) -> list[float]:
        """Compute the class weights by `balance` (see `balanced_weights`) and return them."""
        assert self.balance is not None
        weights: list[float] = balanced_weights(self.balance, pixels, pixels_around).tolist()
        self.class_weights = torch.tensor(weights)
        return weights

    def pixel_weights(self, masks: Tensor) -> Tensor:
        """Return the weight (B, H, W) of each pixel, 0 where the mask is `IGNORE_INDEX`."""
        counted = masks != IGNORE_INDEX
        if self.class_weights is None:
            return counted.float()
        return self.class_weights[masks.long().masked_fill(~counted, 0)] * counted


class CrossEntropy(PixelLoss):
    """Pixel-wise cross-entropy, averaged over the pixels that count.

    Args:
        label_smoothing: Share of the target probability spread evenly over all classes, 0 to 1.
        class_weights: Weights of the classes (see `PixelLoss`).

    Raises:
        UserError: `label_smoothing` is no share from 0 to 1.

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> CrossEntropy(label_smoothing=0.1)(logits, torch.tensor([[[0, 255]]]))  # the second pixel is ignored
        tensor(0.2269)
    """

    def __init__(
        self, label_smoothing: float = 0.0, class_weights: list[float] | Balance | None = None
    ) -> None:
        super().__init__(class_weights)
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"label_smoothing is a share from 0 to 1, such as 0.1; got {label_smoothing}.")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W)."""
        losses = _cross_entropy(
            logits, masks, weight=self.class_weights, label_smoothing=self.label_smoothing
        )
        return _ratio(losses.sum(), self.pixel_weights(masks).sum())


class FocalLoss(PixelLoss):
    """Cross-entropy that weighs well-classified pixels less (arXiv:1708.02002).

    It is the multi-class form: with the probability p of the true class, a pixel's loss is -(1 - p)^gamma log p.

    Args:
        gamma: Exponent of (1 - p); 0 is cross-entropy.
        class_weights: Weights of the classes (see `PixelLoss`), the paper's alpha.

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> FocalLoss(gamma=2)(logits, torch.tensor([[[0, 255]]]))  # the second pixel is ignored
        tensor(0.0018)
    """

    def __init__(self, gamma: float = 2.0, class_weights: list[float] | Balance | None = None) -> None:
        super().__init__(class_weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W)."""
        losses, weights = _cross_entropy(logits, masks), self.pixel_weights(masks)
        # 1 - p; at exactly 0 the power would have an infinite derivative for gamma below 1
        wrong = -torch.expm1(-losses).clamp(max=-1e-6)
        return _ratio((weights * wrong**self.gamma * losses).sum(), weights.sum())


class OHEMCrossEntropy(PixelLoss):
    """Cross-entropy of the hardest pixels only: online hard example mining (arXiv:1604.03540).

    Args:
        threshold: Pixels whose true class has a probability below this are hard, 0 to 1.
        keep: At least this share of the batch's pixels counts, the hardest ones, 0 to 1.
        class_weights: Weights of the classes (see `PixelLoss`); they do not decide what is hard.

    Raises:
        UserError: `threshold` is not above 0 and up to 1, or `keep` not from 0 to 1.

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> OHEMCrossEntropy(threshold=0.7)(logits, torch.tensor([[[0, 255]]]))  # the second pixel is ignored
        tensor(0.1269)
    """

    def __init__(
        self,
        threshold: float = 0.7,
        keep: float = 1 / 16,
        class_weights: list[float] | Balance | None = None,
    ) -> None:
        super().__init__(class_weights)
        if not (0 < threshold <= 1 and 0 <= keep <= 1):
            raise UserError(
                f"OHEMCrossEntropy needs threshold and keep from 0 to 1; got {threshold} and {keep}."
            )
        self.limit = -math.log(threshold)
        self.keep = keep

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W)."""
        losses = _cross_entropy(logits, masks)
        least = max(1, round(self.keep * losses.numel()))
        # Ignored pixels have a loss of 0: they are never among the hardest before all others are.
        limit = losses.detach().flatten().topk(least).values[-1].clamp(max=self.limit)
        weights = self.pixel_weights(masks) * (losses >= limit)
        return _ratio((weights * losses).sum(), weights.sum())


class TverskyLoss(nn.Module):
    """One minus the Tversky index, from soft counts over all pixels of the batch (arXiv:1706.05721).

    The index of a class is TP / (TP + alpha FP + beta FN); the loss is the mean over the classes that occur in the
    batch's truth.

    Args:
        alpha: Weight of false positives.
        beta: Weight of false negatives; above `alpha` it favors finding small objects.

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> TverskyLoss(alpha=0.3, beta=0.7)(logits, torch.tensor([[[0, 255]]]))  # the second pixel is ignored
        tensor(0.0865)
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W)."""
        probabilities = _without_ignored(logits, masks).softmax(1)
        truth = _one_hot(masks, logits.shape[1])
        true_positives = (probabilities * truth).sum((0, 2, 3))
        predicted = (probabilities * (masks != IGNORE_INDEX)[:, None]).sum((0, 2, 3))
        true = truth.sum((0, 2, 3))
        false_positives, false_negatives = predicted - true_positives, true - true_positives
        index = _ratio(
            true_positives, true_positives + self.alpha * false_positives + self.beta * false_negatives
        )
        return _mean_over_present(1 - index, true)


class DiceLoss(TverskyLoss):
    """One minus the Dice coefficient, 2 TP / (2 TP + FP + FN), of soft counts (see `TverskyLoss`).

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> DiceLoss()(logits, torch.tensor([[[0, 255]]]))  # the second pixel is ignored
        tensor(0.0634)
    """

    def __init__(self) -> None:
        super().__init__(0.5, 0.5)


class JaccardLoss(TverskyLoss):
    """One minus the intersection over union, TP / (TP + FP + FN), of soft counts (see `TverskyLoss`).

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> JaccardLoss()(logits, torch.tensor([[[0, 255]]]))  # the second pixel is ignored
        tensor(0.1192)
    """

    def __init__(self) -> None:
        super().__init__(1, 1)


class LovaszLoss(nn.Module):
    """Lovász-Softmax: the convex surrogate of one minus IoU, over all pixels of the batch (arXiv:1705.08790).

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> LovaszLoss()(logits, torch.tensor([[[0, 255]]]))  # the second pixel is ignored
        tensor(0.1192)
    """

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W)."""
        truth = _one_hot(masks, logits.shape[1])
        errors = (_without_ignored(logits, masks).softmax(1) - truth.float()).abs() * (masks != IGNORE_INDEX)[
            :, None
        ]
        # Ignored pixels have no error, so they come last and weigh nothing.
        errors, order = errors.transpose(0, 1).flatten(1).sort(dim=1, descending=True)
        truth = truth.transpose(0, 1).flatten(1).gather(1, order)
        true = truth.sum(1, keepdim=True)
        # IoU of a class when the pixels of the i largest errors are wrong: integers until the division
        false_negatives = truth.cumsum(1, dtype=torch.int32)
        false_positives = (~truth).cumsum(1, dtype=torch.int32)
        loss = 1 - (true - false_negatives) / (true + false_positives)
        slope = torch.cat([loss[:, :1], loss.diff(dim=1)], dim=1)
        return _mean_over_present((errors * slope).sum(1), true[:, 0])


class CompoundLoss(nn.Module):
    """A weighted sum of losses.

    Args:
        losses: The losses.
        weights: One factor for each; all 1 unless given.

    Raises:
        UserError: There is no loss, or not one weight for each.

    Examples:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (B, C, H, W) = (1, 2, 1, 2)
        >>> CompoundLoss([CrossEntropy(), DiceLoss()], weights=[1.0, 0.5])(logits, torch.tensor([[[0, 255]]]))
        tensor(0.1586)
    """

    def __init__(self, losses: list[nn.Module], weights: list[float] | None = None) -> None:
        super().__init__()
        self.weights = weights or [1.0] * len(losses)
        if not losses or len(self.weights) != len(losses):
            raise UserError(
                f"CompoundLoss needs one weight for each loss; got {len(losses)} losses, {weights}."
            )
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W)."""
        terms = [w * loss(logits, masks) for w, loss in zip(self.weights, self.losses, strict=True)]
        return torch.stack(terms).sum()


def balanced_losses(loss: nn.Module) -> list[PixelLoss]:
    """List the parts of a loss whose class weights are computed from the data."""
    return [part for part in loss.modules() if isinstance(part, PixelLoss) and part.balance is not None]


def check_class_weights(loss: nn.Module, class_names: Sequence[str]) -> None:
    """Check that the class weights given are one for each class.

    Raises:
        UserError: They are not.
    """
    for part in loss.modules():
        weights = part.class_weights if isinstance(part, PixelLoss) else None
        if weights is not None and len(weights) != len(class_names):
            raise UserError(
                f"class_weights of {type(part).__name__} needs {len(class_names)} numbers, one for each of "
                f"{', '.join(class_names)}; got {len(weights)}."
            )


def _cross_entropy(
    logits: Tensor, masks: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy (B, H, W) of each pixel, 0 where the mask is `IGNORE_INDEX`."""
    return F.cross_entropy(
        _without_ignored(logits, masks),
        masks.long(),
        weight=weight,
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=label_smoothing,
    )


def _without_ignored(logits: Tensor, masks: Tensor) -> Tensor:
    """Return logits in float32, and 0 at ignored pixels: NaN or infinity there would reach value and gradient."""
    logits = logits.float()
    if logits.device.type == "cpu" and logits.detach().sum().isfinite():
        return logits  # to look is cheap on a CPU, to copy takes half as long as cross-entropy
    return logits.masked_fill((masks == IGNORE_INDEX)[:, None], 0)


def _one_hot(masks: Tensor, num_classes: int) -> Tensor:
    """Whether a pixel is of a class, (B, C, H, W) bool; ignored pixels are of none."""
    classes = torch.arange(num_classes, device=masks.device, dtype=masks.dtype)
    return masks[:, None] == classes[:, None, None]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide; 0 / 0 is 0 with gradient 0."""
    return part / whole.clamp(min=torch.finfo(torch.float32).tiny)


def _mean_over_present(losses: Tensor, true: Tensor) -> Tensor:
    """Average losses (C,) over the classes that have true pixels (C,)."""
    present = true > 0
    return _ratio((losses * present).sum(), present.sum())
