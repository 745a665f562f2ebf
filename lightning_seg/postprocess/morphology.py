"""Mathematical morphology on the labels, class by class.

Serra, "Image Analysis and Mathematical Morphology", 1982.

A growing class takes pixels of other classes; pixels that a class loses get their most probable other class.
The image is extended by its border values.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from lightning_seg.errors import UserError
from lightning_seg.postprocess.chain import LabelStep, next_best


@dataclass
class Morphology(LabelStep):
    """Base of the operations with a disk as structuring element.

    Args:
        radius: Radius of the disk in pixels.
        classes: Names or numbers of the classes to change, one after the other. None means all.

    Raises:
        UserError: The radius is less than 1.
    """

    radius: int = 1
    classes: Sequence[str | int] | None = None

    def __post_init__(self) -> None:
        if self.radius < 1:
            raise UserError(f"{type(self).__name__}.radius must be at least 1 pixel; got {self.radius}.")

    @abstractmethod
    def change(self, mask: np.ndarray) -> np.ndarray:
        """Return the new binary mask (H, W) uint8 of a class from its present one."""

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the changed labels (H, W)."""
        labels = labels.copy()
        for number in self.numbers(len(probabilities)):
            present = labels == number
            if not present.any():
                continue
            wanted = self.change(present.astype(np.uint8)).astype(bool)
            lost = present & ~wanted
            if lost.any():
                labels[lost] = next_best(probabilities, labels, lost)
            labels[wanted] = number
        return labels

    def _erode(self, mask: np.ndarray) -> np.ndarray:
        return cv2.erode(mask, _disk(self.radius), borderType=cv2.BORDER_REPLICATE)

    def _dilate(self, mask: np.ndarray) -> np.ndarray:
        return cv2.dilate(mask, _disk(self.radius), borderType=cv2.BORDER_REPLICATE)


class Erosion(Morphology):
    """Remove the pixels of a class within the radius of its boundary.

    Examples:
        >>> labels = np.zeros((9, 9), np.uint8)
        >>> labels[2:7, 2:7] = 1
        >>> labels[4, 4] = 0
        >>> probabilities, image = np.full((2, 9, 9), 0.5, np.float32), np.zeros((9, 9, 3), np.uint8)
        >>> int(Erosion(radius=1, classes=[1])(labels, probabilities, image).sum())  # of 24 pixels of class 1
        4
    """

    def change(self, mask: np.ndarray) -> np.ndarray:
        """Erode."""
        return self._erode(mask)


class Dilation(Morphology):
    """Add the pixels within the radius of a class; where two classes meet, the later one wins.

    Examples:
        >>> labels = np.zeros((9, 9), np.uint8)
        >>> labels[2:7, 2:7] = 1
        >>> labels[4, 4] = 0
        >>> probabilities, image = np.full((2, 9, 9), 0.5, np.float32), np.zeros((9, 9, 3), np.uint8)
        >>> int(Dilation(radius=1, classes=[1])(labels, probabilities, image).sum())  # of 24 pixels of class 1
        45
    """

    def change(self, mask: np.ndarray) -> np.ndarray:
        """Dilate."""
        return self._dilate(mask)


class Opening(Morphology):
    """Remove the parts of a class that are thinner than the disk: specks, threads, spikes.

    Examples:
        >>> labels = np.zeros((9, 9), np.uint8)
        >>> labels[2:7, 2:7] = 1
        >>> labels[4, 4] = 0
        >>> probabilities, image = np.full((2, 9, 9), 0.5, np.float32), np.zeros((9, 9, 3), np.uint8)
        >>> int(Opening(radius=1, classes=[1])(labels, probabilities, image).sum())  # of 24 pixels of class 1
        16
    """

    def change(self, mask: np.ndarray) -> np.ndarray:
        """Erode, then dilate."""
        return self._dilate(self._erode(mask))


class Closing(Morphology):
    """Fill what is thinner than the disk between the parts of a class: cracks and gaps.

    Examples:
        >>> labels = np.zeros((9, 9), np.uint8)
        >>> labels[2:7, 2:7] = 1
        >>> labels[4, 4] = 0
        >>> probabilities, image = np.full((2, 9, 9), 0.5, np.float32), np.zeros((9, 9, 3), np.uint8)
        >>> int(Closing(radius=1, classes=[1])(labels, probabilities, image).sum())  # of 24 pixels of class 1
        25
    """

    def change(self, mask: np.ndarray) -> np.ndarray:
        """Dilate, then erode."""
        return self._erode(self._dilate(mask))


@dataclass
class FillHoles(LabelStep):
    """Fill the holes of a class: enclosed regions of other classes that do not touch the border of the image.

    Soille, "Morphological Image Analysis", 2003, section 6.3.7.

    Args:
        largest: Area in pixels of the largest hole that is filled. None fills all.
        classes: Names or numbers of the classes to change, one after the other. None means all.

    Examples:
        >>> labels = np.zeros((9, 9), np.uint8)
        >>> labels[2:7, 2:7] = 1
        >>> labels[4, 4] = 0
        >>> probabilities, image = np.full((2, 9, 9), 0.5, np.float32), np.zeros((9, 9, 3), np.uint8)
        >>> int(FillHoles(classes=[1])(labels, probabilities, image).sum())  # of 24 pixels of class 1
        25
    """

    largest: int | None = None
    classes: Sequence[str | int] | None = None

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the changed labels (H, W)."""
        labels = labels.copy()
        for number in self.numbers(len(probabilities)):
            other = (labels != number).astype(np.uint8)
            count, regions, stats, _ = cv2.connectedComponentsWithStats(other, connectivity=4)
            holes = np.ones(count, bool)
            holes[0] = False  # the class itself
            for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
                holes[edge] = False
            if self.largest is not None:
                holes &= stats[:, cv2.CC_STAT_AREA] <= self.largest
            labels[holes[regions]] = number
        return labels


@cache
def _disk(radius: int) -> np.ndarray:
    """Return a disk as structuring element, (2 R + 1, 2 R + 1) uint8."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)
