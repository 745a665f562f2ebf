"""One label for each superpixel."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_seg.errors import UserError
from lightning_seg.postprocess.chain import ProbabilityStep
from lightning_seg.postprocess.confidence import require_skimage


@dataclass
class Superpixels(ProbabilityStep):
    """Let the pixels of each superpixel vote, so that labels follow the edges of the image. Needs scikit-image.

    Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", PAMI 2012.

    Args:
        area: Of a superpixel on average, in pixels.
        compactness: Weight of nearness against likeness of colour; the higher, the squarer.
        vote: ``mean`` averages the probabilities, ``majority`` counts the most probable classes.

    Raises:
        UserError: The area is less than 2 pixels, or scikit-image is not installed.
    """

    area: float = 100.0
    compactness: float = 10.0
    vote: Literal["mean", "majority"] = "mean"

    def __post_init__(self) -> None:
        if self.area < 2:
            raise UserError(f"Superpixels.area must be at least 2 pixels; got {self.area}.")
        require_skimage("Superpixels")

    def __call__(self, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return probabilities (C, H, W) that are the same all over a superpixel; those of a majority are its votes."""
        from skimage.segmentation import slic

        wanted = max(1, round(image.shape[0] * image.shape[1] / self.area))
        segments = slic(image, n_segments=wanted, compactness=self.compactness, start_label=0).ravel()
        flat = probabilities.reshape(len(probabilities), -1)
        if self.vote == "majority":
            flat = flat.argmax(0) == np.arange(len(flat))[:, None]
        sums = np.stack([np.bincount(segments, weights=values) for values in flat])
        means = (sums / np.maximum(np.bincount(segments), 1)).astype(np.float32)
        return means[:, segments].reshape(probabilities.shape)
