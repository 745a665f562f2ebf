"""Connected components of the labels; `lightning_seg.metrics.objects.count_objects` counts them.

Rosenfeld and Pfaltz, "Sequential operations in digital picture processing", JACM 1966. Components are
8-connected. A removed component gets the class that is most frequent along its border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.postprocess.chain import LabelStep


@dataclass
class RemoveSmall(LabelStep):
    """Remove components below an area.

    Args:
        smallest: Area in pixels of the smallest component that is kept.
        classes: Names or numbers of the classes to change, one after the other. None means all.

    Examples:
        >>> labels = np.zeros((8, 8), np.uint8)
        >>> labels[1:4, 1:4] = labels[6, 6] = 1
        >>> probabilities, image = np.full((2, 8, 8), 0.5, np.float32), np.zeros((8, 8, 3), np.uint8)
        >>> int(RemoveSmall(smallest=5)(labels, probabilities, image).sum())  # of 10 pixels of class 1
        9
    """

    smallest: int = 50
    classes: Sequence[str | int] | None = None

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the changed labels (H, W)."""
        labels = labels.copy()
        for number in self.numbers(len(probabilities)):
            regions, stats = components(labels == number)
            _remove(labels, regions, stats, np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < self.smallest))
        return labels


@dataclass
class KeepLargest(LabelStep):
    """Keep only the largest components of a class, for classes of which an image has one, such as an organ.

    Args:
        count: Number of components that are kept.
        classes: Names or numbers of the classes to change. None means all.

    Examples:
        >>> labels = np.zeros((8, 8), np.uint8)
        >>> labels[1:4, 1:4] = labels[6, 6] = 1
        >>> probabilities, image = np.full((2, 8, 8), 0.5, np.float32), np.zeros((8, 8, 3), np.uint8)
        >>> int(KeepLargest(count=1, classes=[1])(labels, probabilities, image).sum())  # of 10 pixels of class 1
        9
    """

    count: int = 1
    classes: Sequence[str | int] | None = None

    def __call__(self, labels: np.ndarray, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the changed labels (H, W)."""
        labels = labels.copy()
        for number in self.numbers(len(probabilities)):
            regions, stats = components(labels == number)
            by_area = np.argsort(-stats[:, cv2.CC_STAT_AREA], kind="stable")
            _remove(labels, regions, stats, by_area[by_area > 0][self.count :])
        return labels


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the components of a mask (H, W) bool.

    Returns:
        The number of the component at each pixel, (H, W) int32, 0 for none; and a row for each component, as
        OpenCV's ``connectedComponentsWithStats`` has it, whose row 0 (the rest of the image) has a huge area.
    """
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    stats[0, cv2.CC_STAT_AREA] = np.iinfo(np.int32).max
    return regions, stats


def _remove(labels: np.ndarray, regions: np.ndarray, stats: np.ndarray, gone: np.ndarray) -> None:
    """Replace components by the class around them, in place; one that fills the image stays."""
    for number in gone:
        left, top, width, height = stats[number, : cv2.CC_STAT_AREA]
        window = np.s_[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1]
        inside = regions[window] == number
        ring = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~inside
        around = labels[window][ring]
        around = around[around != IGNORE_INDEX]
        if len(around):
            labels[window][inside] = np.bincount(around).argmax()
