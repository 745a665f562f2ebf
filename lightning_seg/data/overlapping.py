"""Masks of classes that may overlap: (H, W, K) ``uint8``, for each class but the background a map of its own.

In a map 1 is where the class is, 0 where it is not, and `IGNORE_INDEX` where that is not known: void for this class,
whatever the others are there. Class k + 1 of the data set, whose class 0 is the background, has map k; what is in none
of the classes is background.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.transforms.batch import Sample
from lightning_seg.data.volumes import map_array
from lightning_seg.errors import UserError


def of_classes(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Lay out a mask (H, W) of one class a pixel; what is void in it is void for all classes.

    Args:
        mask: Class of each pixel, or `IGNORE_INDEX`.
        num_classes: Number of classes, background included.

    Returns:
        Masks (H, W, K).
    """
    masks: np.ndarray = (mask[..., None] == np.arange(1, num_classes, dtype=np.uint8)).astype(np.uint8)
    masks[mask == IGNORE_INDEX] = IGNORE_INDEX
    return masks


def of_objects(sample: Sample, num_classes: int) -> np.ndarray:
    """Join the objects of each class; crowds, which are no more than roughly drawn, are void for their class.

    Args:
        sample: See `lightning_seg.data.instances`.
        num_classes: Number of classes, background included.

    Returns:
        Masks (H, W, K).
    """
    masks = np.zeros((*sample["image"].shape[-2:], num_classes - 1), np.uint8)
    crowds = sample["iscrowd"].tolist() if "iscrowd" in sample else [False] * len(sample["labels"])
    objects = list(zip(sample["masks"].numpy(), sample["labels"].tolist(), crowds, strict=True))
    for inside, label, crowd in sorted(
        objects, key=lambda one: not one[2]
    ):  # what is certain over what is not
        masks[inside != 0, label - 1] = IGNORE_INDEX if crowd else 1
    return masks


def read_maps(path: Path, names: Sequence[str]) -> np.ndarray | None:
    """Read masks (K, H, W) of a .npy file as (H, W, K) ``uint8``; None for every other file and shape.

    Args:
        path: A file of labels.
        names: The classes, without the background.

    Raises:
        UserError: It has more or fewer maps than there are classes, or other types than numbers of 8 bits or truth.
    """
    if path.suffix.lower() != ".npy" or (array := map_array(path)).ndim != 3:
        return None
    if len(array) != len(names):
        raise UserError(
            f"{path} should hold a map for each of {', '.join(names)}: ({len(names)}, H, W); it is {array.shape}."
        )
    if array.dtype not in (bool, np.uint8):
        raise UserError(f"{path} should hold 0, 1 and 255 for void as uint8, or bool; it is {array.dtype}.")
    return np.ascontiguousarray(array.transpose(1, 2, 0)).astype(np.uint8)


def flat(masks: np.ndarray) -> np.ndarray:
    """See masks (H, W, K) as one mask (H, W), for what shows one class a pixel: of several classes the last one.

    A pixel is void where some class is void and no class is certain.
    """
    numbers = np.arange(1, masks.shape[2] + 1, dtype=np.int32)
    labels = np.where(masks == 1, numbers, 0).max(2)
    void = (labels == 0) & (masks == IGNORE_INDEX).any(2)
    return np.where(void, IGNORE_INDEX, labels).astype(np.uint8)


def pixels_of_labels(mask: np.ndarray) -> np.ndarray:
    """Count the pixels of each label (256,) in a mask (H, W), or in masks (H, W, K).

    Of overlapping classes a pixel counts for each that it has; for the background if it has none, and as void if some
    class is void there.
    """
    if mask.ndim == 2:
        return np.bincount(mask.ravel(), minlength=256)
    inside, void = mask == 1, (mask == IGNORE_INDEX).any(2)
    counts = np.zeros(256, np.int64)
    counts[1 : mask.shape[2] + 1] = inside.sum((0, 1))
    counts[0] = (~inside.any(2) & ~void).sum()
    counts[IGNORE_INDEX] = void.sum()
    return counts
