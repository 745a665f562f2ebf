"""Steps that use the confidence of the prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import cv2
import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.postprocess.chain import LabelStep, next_best


@dataclass
class ConfidenceThreshold(LabelStep):
    """Reject or replace labels of low probability.

    Chow, "On optimum recognition error and reject tradeoff", IEEE Transactions on Information Theory 1970.

    Args:
        threshold: Lowest probability at which a label is kept.
        to: ``ignore`` sets the pixel to 255, which scores count as a false negative; ``second`` sets it to the second
            most probable class, for classes that are predicted too often.
        classes: Names or numbers of the classes to change. None means all.

    Raises:
        UserError: The threshold is not in 0..1.

    Examples:
        >>> probabilities = np.array([[[0.9, 0.55]], [[0.1, 0.45]]], np.float32)
        >>> step = ConfidenceThreshold(threshold=0.6)
        >>> step(np.array([[0, 0]], np.uint8), probabilities, np.zeros((1, 2, 3), np.uint8))
        array([[  0, 255]], dtype=uint8)
    """

    threshold: float = 0.5
    to: Literal["ignore", "second"] = "ignore"
    classes: Sequence[str | int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(
                f"ConfidenceThreshold.threshold must be a probability, 0 to 1; got {self.threshold}."
            )

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the changed labels (H, W)."""
        labels = labels.copy()
        doubted = np.zeros(labels.shape, bool)
        for number in self.numbers(len(probabilities)):
            doubted |= (labels == number) & (probabilities[number] < self.threshold)
        labels[doubted] = IGNORE_INDEX if self.to == "ignore" else next_best(probabilities, labels, doubted)
        return labels


@dataclass
class RegionGrowing(LabelStep):
    """Keep the labels of confident pixels and grow them over the others up to the edges of the image.

    Seeds flood the magnitude of the image's gradient: flat places first, edges last. It needs scikit-image.

    Adams and Bischof, "Seeded region growing", PAMI 1994; flooding in order as in Meyer, "Color image
    segmentation", 1992.

    Args:
        seed: Lowest probability at which a pixel is a seed.

    Raises:
        UserError: The probability is not in 0..1, or scikit-image is not installed.

    Examples:
        >>> probabilities = np.full((2, 8, 8), 0.5, np.float32)
        >>> probabilities[:, 0, 0] = 0.05, 0.95  # one confident pixel of class 1
        >>> labels, image = probabilities.argmax(0).astype(np.uint8), np.zeros((8, 8, 3), np.uint8)
        >>> int(RegionGrowing(seed=0.9)(labels, probabilities, image).sum())
        64
    """

    seed: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= 1:
            raise UserError(f"RegionGrowing.seed must be a probability, 0 to 1; got {self.seed}.")
        require_skimage("RegionGrowing")

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the grown labels (H, W); an image without a seed is not changed."""
        from skimage.segmentation import watershed

        answered = labels != IGNORE_INDEX
        own = np.where(answered, labels, 0)[None].astype(np.intp)
        confident = answered & (np.take_along_axis(probabilities, own, axis=0)[0] >= self.seed)
        if not confident.any():
            return labels
        colors = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        across, down = cv2.Sobel(colors, cv2.CV_32F, 1, 0), cv2.Sobel(colors, cv2.CV_32F, 0, 1)
        edges = (across**2 + down**2).sum(2)
        return (watershed(edges, np.where(confident, labels.astype(np.int32) + 1, 0)) - 1).astype(np.uint8)


def require_skimage(step: str) -> None:
    """Check that scikit-image is installed.

    Raises:
        UserError: It is not installed.
    """
    if find_spec("skimage") is None:
        raise UserError(
            f"{step} needs scikit-image, which is not installed: uv pip install 'lightning-seg[postprocess]'."
        )
