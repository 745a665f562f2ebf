"""L1 regularization."""

import lightning as L
import torch
from torch.optim import Optimizer


class L1(L.Callback):
    """Add the sum of the absolute weights to what is minimized, so that unimportant ones go to zero.

    It is added to the gradients, not to the logged loss. Biases and the scale and shift of normalization, which have
    one dimension, are left alone, and so is what does not train. L2 is the optimizer's ``weight_decay``.

    Args:
        strength: Factor on the sum.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([[2.0, -3.0]]))
        >>> weight.grad = torch.zeros(1, 2)
        >>> L1(strength=0.1).on_before_optimizer_step(None, None, torch.optim.SGD([weight]))
        >>> weight.grad
        tensor([[ 0.1000, -0.1000]])
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the derivative of the sum, once a step however many batches it has."""
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and weight.ndim > 1:
                    weight.grad.add_(weight.sign(), alpha=self.strength)
