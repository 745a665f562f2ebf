"""How often each class occurs in the training split, counted once and cached, and weights that balance classes."""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.cache import cache_key
from lightning_seg.data.cache_folder import cache_folder, keep_array
from lightning_seg.data.loading import in_parallel
from lightning_seg.data.protocol import DataSet

Balance = Literal["inverse", "median_frequency", "inverse_sqrt"]


def class_frequencies(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of each class in the original masks of the training split.

    Args:
        data: The data set.

    Returns:
        Pixels of each class (C,), and for each class the pixels of all images in which it occurs (C,).
    """

    def count(sample: object) -> np.ndarray:
        labels = np.bincount(data.read(sample)[1].ravel(), minlength=256)
        counts = labels[: data.num_classes]
        return np.stack([counts, labels.sum() * (counts > 0)])

    found = _counted(data, "frequencies", count, data.num_classes)
    return found[0], found[1]


def positive_pixels(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels with each of the classes that may overlap, in the original masks of the training split.

    Args:
        data: The data set.

    Returns:
        Pixels with each class but the background (K,), and pixels that are not void for it (K,).
    """

    def count(sample: object) -> np.ndarray:
        masks = data.read_labels(sample)[1]
        return np.stack([(masks == 1).sum((0, 1)), (masks != IGNORE_INDEX).sum((0, 1))])

    found = _counted(data, "positives", count, data.num_classes - 1)
    return found[0], found[1]


def _counted(data: DataSet, what: str, count: Callable[[object], np.ndarray], classes: int) -> np.ndarray:
    """Sum the counts (2, classes) of all training samples, or find the sum in the cache."""
    samples = data.samples(data.train_split)
    file = cache_folder() / f"{what}-{cache_key(data, data.train_split, samples)}.npy"
    with suppress(OSError, ValueError):
        found: np.ndarray = np.load(file, allow_pickle=False)
        if found.shape == (2, classes):
            return found
    found = np.zeros((2, classes), np.int64)
    for one in in_parallel(count, samples, f"Counting pixels ({data.train_split})"):
        found += one
    keep_array(file, found)
    return found


def balanced_weights(how: Balance, pixels: np.ndarray, pixels_around: np.ndarray) -> np.ndarray:
    """Compute class weights that make up for rare classes.

    ``inverse`` gives every class the same total weight, 1 / frequency. ``inverse_sqrt`` is its square root. In both
    the mean weight of a pixel is 1. ``median_frequency`` is the median over the classes of their frequency, divided
    by the class's own, where the frequency of a class is its pixels divided by all pixels, unlabeled ones included,
    of the images in which it occurs (Eigen and Fergus, arXiv:1411.4734, section 6.3.2; so SegNet's published weights
    for CamVid are made, arXiv:1511.00561).

    Args:
        how: One of the three.
        pixels: Pixels of each class (C,).
        pixels_around: Pixels of all the images in which the class occurs (C,).

    Returns:
        Weights (C,); 1 for a class that never occurs.
    """
    seen = pixels > 0
    out = np.ones(len(pixels))
    if how == "median_frequency":
        frequency = pixels[seen] / pixels_around[seen]
        out[seen] = np.median(frequency) / frequency if seen.any() else 1
        return out
    share = pixels[seen] / pixels.sum()
    weights = 1 / share if how == "inverse" else share**-0.5
    out[seen] = weights / (share * weights).sum()
    return out
