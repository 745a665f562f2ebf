"""Losses for classes that may overlap: logits and masks of 0, 1 and `IGNORE_INDEX`, both (B, K, H, W), to a scalar.

As in `lightning_seg.training.losses`, what is void changes neither value nor gradient, whatever its logits are, and a
batch in which all is void gives 0 with a zero gradient. A class is void by itself: the others still learn there.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.class_frequencies import Balance
from lightning_seg.errors import UserError
from lightning_seg.training.losses import CompoundLoss, LovaszLoss, PixelLoss, TverskyLoss


class MultiLabelLoss(nn.Module, ABC):
    """Base of the losses that are a mean over all pixels of all classes.

    Args:
        positive_weights: How much a pixel where a class is weighs, one factor for each class, or how to compute it
            from the training split: ``inverse`` is the number of pixels without the class for each one with it, so
            that both sides weigh the same, ``inverse_sqrt`` its root. None weighs all alike.

    Raises:
        UserError: A weight is not above 0.

    Examples:
        >>> issubclass(BinaryFocalLoss, MultiLabelLoss)
        True
    """

    positive_weights: Tensor | None

    def __init__(self, positive_weights: list[float] | Balance | None = None) -> None:
        super().__init__()
        if positive_weights == "median_frequency":
            raise UserError(
                "positive_weights: median_frequency compares classes of which each pixel has one. Take inverse or"
                " inverse_sqrt, which compare the pixels with a class to those without it."
            )
        self.balance: Balance | None = positive_weights if isinstance(positive_weights, str) else None
        weights = torch.tensor(positive_weights) if isinstance(positive_weights, list) else None
        if weights is not None and not bool((weights > 0).all()):
            raise UserError(f"positive_weights must be above 0; got {positive_weights}.")
        self.register_buffer("positive_weights", weights, persistent=self.balance is not None)

    def expect_weights(self, classes: int) -> None:
        """Make room for the weights of a checkpoint, where they are computed from data."""
        if self.positive_weights is None:
            self.positive_weights = torch.ones(classes)

    def set_counts(self, positive: Tensor, counted: Tensor) -> list[float]:
        """Compute the weights by `balance` from the pixels with each class and all counted ones, (K,) both.

        Returns:
            The weights; 1 for a class that never occurs.
        """
        odds = torch.where(positive > 0, (counted - positive) / positive.clamp(min=1), 1.0).clamp(min=1e-3)
        self.positive_weights = (odds if self.balance == "inverse" else odds.sqrt()).float()
        return self.positive_weights.tolist()

    def weights(self, masks: Tensor) -> Tensor:
        """Return the weight (B, K, H, W) of each pixel of each class, 0 where it is void."""
        counted = (masks != IGNORE_INDEX).float()
        if self.positive_weights is None:
            return counted
        return torch.where(masks == 1, self.positive_weights[:, None, None], counted)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, K, H, W) against masks (B, K, H, W)."""
        weights = self.weights(masks)
        losses = self.of_pixels(without_void(logits, masks), (masks == 1).float())
        return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)

    @abstractmethod
    def of_pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the loss (B, K, H, W) of each pixel of each class, from logits and a truth of 0 and 1."""


class BinaryCrossEntropy(MultiLabelLoss):
    """Cross-entropy of each class being there or not.

    Examples:
        >>> logits = torch.tensor([[[[2.0]], [[-1.0]]]])  # (B, K, H, W) = (1, 2, 1, 1)
        >>> BinaryCrossEntropy()(logits, torch.tensor([[[[1]], [[255]]]]))  # void for the second class
        tensor(0.1269)
    """

    def of_pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the loss (B, K, H, W) of each pixel of each class."""
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="none")


class BinaryFocalLoss(MultiLabelLoss):
    """Cross-entropy of each class that weighs what is already well told less (arXiv:1708.02002).

    Args:
        gamma: Exponent of one minus the probability of the truth; 0 is cross-entropy.
        positive_weights: See `MultiLabelLoss`; the paper's alpha is that weight divided by one more.

    Examples:
        >>> logits = torch.tensor([[[[2.0]], [[-1.0]]]])  # (B, K, H, W) = (1, 2, 1, 1)
        >>> BinaryFocalLoss(gamma=2)(logits, torch.tensor([[[[1]], [[255]]]]))  # void for the second class
        tensor(0.0018)
    """

    def __init__(self, gamma: float = 2.0, positive_weights: list[float] | Balance | None = None) -> None:
        super().__init__(positive_weights)
        self.gamma = gamma

    def of_pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the loss (B, K, H, W) of each pixel of each class."""
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        # 1 - p; at exactly 0 the power would have an infinite derivative for gamma below 1
        wrong = -torch.expm1(-losses).clamp(max=-1e-6)
        out: Tensor = wrong**self.gamma * losses
        return out


class BinaryDiceLoss(nn.Module):
    """One minus the Dice coefficient of each class, from soft counts over all pixels of the batch; then their mean.

    Classes that are not in the batch's truth are left out. They learn nothing then, so it goes well with
    `BinaryCrossEntropy` in a `CompoundLoss`.

    Examples:
        >>> logits = torch.tensor([[[[2.0]], [[-1.0]]]])  # (B, K, H, W) = (1, 2, 1, 1)
        >>> BinaryDiceLoss()(logits, torch.tensor([[[[1]], [[255]]]]))  # void for the second class
        tensor(0.0634)
    """

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, K, H, W) against masks (B, K, H, W)."""
        truth = (masks == 1).float()
        probabilities = without_void(logits, masks).sigmoid() * (masks != IGNORE_INDEX)
        overlap, predicted, true = (
            part.sum((0, 2, 3)) for part in (probabilities * truth, probabilities, truth)
        )
        losses = 1 - 2 * overlap / (predicted + true).clamp(min=torch.finfo(torch.float32).tiny)
        present = true > 0
        return (losses * present).sum() / present.sum().clamp(min=1)


class _Other(nn.Module):
    """A loss of another library, given float32 logits and a float32 truth, both (B, K, H, W).

    Args:
        loss: Returns a scalar, or one value a pixel.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss."""
        counted = masks != IGNORE_INDEX
        value: Tensor = self.loss(without_void(logits, masks), (masks == 1).float())
        if value.shape == masks.shape:
            return (value * counted).sum() / counted.sum().clamp(min=1)
        if not bool(counted.all()):
            raise UserError(
                f"model.loss: {type(self.loss).__name__} returns one number and cannot leave out void pixels, and these"
                " masks have some (void labels, or the border that augmentation fills). Give it reduction: none if it"
                " has that, or take BinaryCrossEntropy, BinaryFocalLoss or BinaryDiceLoss."
            )
        return value.mean()


def multi_label(loss: nn.Module) -> nn.Module:
    """Return a loss that takes masks of overlapping classes: itself, or one of another library so wrapped.

    Raises:
        UserError: It is a loss for classes of which each pixel has one.
    """
    if isinstance(loss, CompoundLoss):
        return CompoundLoss([multi_label(part) for part in loss.losses], loss.weights)
    if isinstance(loss, PixelLoss | TverskyLoss | LovaszLoss | nn.CrossEntropyLoss | nn.NLLLoss):
        raise UserError(
            f"model.loss: {type(loss).__name__} is for classes of which each pixel has one. MultiLabelSegmentation"
            " takes BinaryCrossEntropy, BinaryFocalLoss, BinaryDiceLoss, or a CompoundLoss of them."
        )
    return loss if isinstance(loss, MultiLabelLoss | BinaryDiceLoss) else _Other(loss)


def without_void(logits: Tensor, masks: Tensor) -> Tensor:
    """Return logits in float32, and 0 where a class is void: NaN or infinity there would reach value and gradient."""
    return logits.float().masked_fill(masks == IGNORE_INDEX, 0)
