"""Comparison of an exported network with the one it was made of, on real images and on noise."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_seg.inference.export.formats import Run, Size
from lightning_seg.inference.precision import full_precision
from lightning_seg.networks.base import Network

SIZES = ((1, 97, 129), (3, 160, 96))  # batches of noise: an image alone, and several at once
_TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True)
class Check:
    """Differences between an exported network and the original on one batch.

    Attributes:
        images: What the batch consists of, in words.
        shape: Of the batch.
        difference: Largest absolute difference of a logit; NaN where the file gives labels only.
        mean: Mean absolute difference of a logit; NaN likewise.
        largest: Largest magnitude of a logit.
        agreement: Fraction of pixels with the same label.
    """

    images: str
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
        text = f"{self.images}, {f'batch of {batch}, ' if batch > 1 else ''}{height}x{width}: "
        if not np.isnan(self.difference):
            text += f"largest difference {self.difference:.1e} (logits up to {self.largest:.3g}), "
        return text + f"{100 * self.agreement:.3f} % of the labels are the same"


Batch = tuple[str, np.ndarray]
"""What a batch consists of, in words, and its images (B, C, H, W)."""


def noise(channels: int = 3, size: Size | None = None) -> list[Batch]:
    """Return batches of noise of 8 bits: a single image, and several of another size, unless there is but one."""
    return [("noise", _noise((batch, channels, *(size or other))).numpy()) for batch, *other in SIZES]


def check(
    network: Network,
    run: Run,
    labels: bool,
    dtype: torch.dtype,
    batches: Sequence[Batch] | None = None,
    thresholds: Tensor | None = None,
) -> list[Check]:
    """Compare an exported network with the original, which computes as `predict` does.

    Args:
        network: The original.
        run: The exported network.
        labels: Whether it gives labels instead of logits.
        dtype: Type of the images that it takes.
        batches: The images; noise by default.
        thresholds: Least logit (K,) of each class, if classes may overlap.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    checks = []
    for words, images in noise(network.backbone.in_channels) if batches is None else batches:
        given = torch.from_numpy(np.ascontiguousarray(images))
        with torch.inference_mode(), full_precision(torch.device("cpu")):
            expected = network(given).numpy()
        found = run(given.to(dtype).numpy())
        predicted = found if labels else _labels(found, thresholds)
        error = np.full(1, np.nan) if labels else np.abs(found - expected)
        agreement = float((predicted == _labels(expected, thresholds)).mean())
        largest = float(np.abs(expected).max())
        checks.append(Check(words, images.shape, float(error.max()), float(error.mean()), largest, agreement))
    return checks


def _labels(logits: np.ndarray, thresholds: Tensor | None) -> np.ndarray:
    """Return the most probable class (B, H, W), or which of classes that may overlap are there (B, K, H, W)."""
    if thresholds is None:
        return np.asarray(logits.argmax(1))
    return np.asarray(logits >= thresholds.cpu().numpy()[:, None, None])


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
