"""The mean of values that do not all weigh the same."""

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    """Weighted mean over all processes; NaN while there is no weight.

    The `MeanMetric` of torchmetrics drops the weights where it is told not to look for NaN, and waits for the device
    where it looks.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("total", "weight"):
            self.add_state(state, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add a value () with its weight ()."""
        self.total += value * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.weight
