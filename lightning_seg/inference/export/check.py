"""Comparison of an exported network with the one it was made of."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_seg.inference.export.formats import Run
from lightning_seg.networks.base import Network

SIZES = ((1, 3, 97, 129), (3, 3, 160, 96))  # batches of noise: an image alone, and several at once
_TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True)
class Check:
    """Differences between an exported network and the original on one batch.

    Attributes:
        shape: Of the batch.
        difference: Largest absolute difference of a logit; NaN where the file gives labels only.
        mean: Mean absolute difference of a logit; NaN likewise.
        largest: Largest magnitude of a logit.
        agreement: Fraction of pixels with the same label.
    """

    shape: tuple[int, ...]
    difference: float
    mean: float
    largest: float
    agreement: float

    @property
    def good(self) -> bool:
        """Whether the difference is rounding, which may move single maxima, and with them what is unpooled."""
        return not self.mean > _TOLERANCE * self.largest and self.agreement > 0.99

    def __str__(self) -> str:
        batch, _, height, width = self.shape
        same = f"{100 * self.agreement:.3f} % of the labels are the same"
        if np.isnan(self.difference):
            return f"batch of {batch}, {height}x{width}: {same}"
        return (
            f"batch of {batch}, {height}x{width}: largest difference {self.difference:.1e} "
            f"(logits up to {self.largest:.3g}), {same}"
        )


def check(network: Network, run: Run, labels: bool, dtype: torch.dtype) -> list[Check]:
    """Compare an exported network with the original, on noise: a single image and a batch of another size.

    Args:
        network: The original.
        run: The exported network.
        labels: Whether it gives labels instead of logits.
        dtype: Type of the images that it takes.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    checks = []
    for shape in SIZES:
        images = _noise(shape)
        with torch.inference_mode():
            expected = network(images).numpy()
        found = run(images.to(dtype).numpy())
        predicted = found if labels else found.argmax(1)
        error = np.full(1, np.nan) if labels else np.abs(found - expected)
        agreement = float((predicted == expected.argmax(1)).mean())
        largest = float(np.abs(expected).max())
        checks.append(Check(shape, float(error.max()), float(error.mean()), largest, agreement))
    return checks


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
