"""Majority vote in superpixels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_seg.errors import UserError
from lightning_seg.postprocess.chain import ProbabilityStep
from lightning_seg.postprocess.confidence import require_skimage


@dataclass
class Superpixels(ProbabilityStep):
    """Average the predictions in each superpixel, so that labels follow the edges of the image. Needs scikit-image.

    Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", PAMI 2012.

    Args:
        area: Mean area of a superpixel in pixels.
        compactness: Weight of spatial distance against color distance (see `skimage.segmentation.slic`).
        vote: ``mean`` averages the probabilities, ``majority`` counts the most probable classes.

    Raises:
        UserError: The area is less than 2 pixels, or scikit-image is not installed.

    Examples:
        >>> probabilities = np.full((2, 32, 32), 0.5, np.float32)
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> Superpixels(area=64)(probabilities, image).shape
        (2, 32, 32)
    """

    area: float = 100.0
    compactness: float = 10.0
    vote: Literal["mean", "majority"] = "mean"

    def __post_init__(self) -> None:
        if self.area < 2:
            raise UserError(f"Superpixels.area must be at least 2 pixels; got {self.area}.")
        require_skimage("Superpixels")

    def __call__(self, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return probabilities (C, H, W) that are constant in each superpixel: means, or fractions of votes."""
        from skimage.segmentation import slic

        wanted = max(1, round(image.shape[0] * image.shape[1] / self.area))
        segments = slic(image, n_segments=wanted, compactness=self.compactness, start_label=0).ravel()
        flat = probabilities.reshape(len(probabilities), -1)
        if self.vote == "majority":
            flat = flat.argmax(0) == np.arange(len(flat))[:, None]
        sums = np.stack([np.bincount(segments, weights=values) for values in flat])
        means = (sums / np.maximum(np.bincount(segments), 1)).astype(np.float32)
        return means[:, segments].reshape(probabilities.shape)
