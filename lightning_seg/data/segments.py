"""Samples with segments: every pixel belongs to one segment, or to none; a segment has a class."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.transforms.batch import Segments
from lightning_seg.errors import UserError

MOST = 255  # segments of an image: their numbers are uint8, and 255 is no segment


class SegmentSample(NamedTuple):
    """An image and its segments.

    A segment is an object of a class of things, or all pixels of a class of stuff.

    Attributes:
        image: (H, W, C).
        numbers: Number of the segment at each pixel (H, W) ``uint8``; `IGNORE_INDEX` where there is none (void).
        classes: Class of each segment, by its number.
        crowds: Numbers of the segments that stand for several objects at once.
    """

    image: np.ndarray
    numbers: np.ndarray
    classes: Sequence[int]
    crowds: Sequence[int] = ()


class Numbered(NamedTuple):
    """Segments numbered from 0 on: numbers, classes and crowds as `SegmentSample` has them."""

    numbers: np.ndarray
    classes: list[int]
    crowds: list[int]


def number_segments(
    numbers: np.ndarray, classes: Mapping[int, int], crowds: Collection[int] = ()
) -> Numbered:
    """Give the segments of an image the numbers from 0 on, in the order of their own.

    Args:
        numbers: Any number of the segment at each pixel, (H, W).
        classes: Class of each number; pixels of any other number belong to no segment.
        crowds: Which numbers stand for several objects at once.

    Raises:
        UserError: There are more than 255.
    """
    present, place = np.unique(numbers, return_inverse=True)
    known = [number for number in present.tolist() if number in classes]
    if len(known) > MOST:
        raise UserError(f"Expected at most {MOST} segments in an image, got {len(known)}.")
    place_of = {number: place for place, number in enumerate(known)}
    table = np.array([place_of.get(number, IGNORE_INDEX) for number in present.tolist()], np.uint8)
    return Numbered(
        table[place].reshape(numbers.shape),
        [classes[number] for number in known],
        [place_of[number] for number in known if number in crowds],
    )


def mask_of(numbers: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return the class of each pixel (H, W) ``uint8`` from its segment's number, `IGNORE_INDEX` where it has none."""
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[: len(classes)] = classes
    return np.asarray(table[numbers])


def batch_columns(numbers: torch.Tensor, classes: Sequence[int], crowds: Sequence[int]) -> Segments:
    """Lay out the segments of an image for a batch; those without a pixel are none.

    Args:
        numbers: Number of the segment at each pixel (H, W).
        classes: Class of each segment.
        crowds: Numbers of the crowds.

    Returns:
        "mask" (H, W), the class of each pixel; "segments" (H, W), `numbers`; "segment_class" (256,) ``uint8``, the
        class of each number, `IGNORE_INDEX` where there is none; "segment_crowd" (256,) ``bool``;
        "segment_list", the numbers of those that are no crowd, which nobody then has to ask a device for.
    """
    table = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8)
    table[: len(classes)] = torch.tensor(list(classes), dtype=torch.uint8)
    crowd = torch.zeros(256, dtype=torch.bool)
    crowd[list(crowds)] = True
    pixels = np.bincount(numbers.numpy().ravel(), minlength=256)
    return {
        "mask": table[numbers.long()],
        "segments": numbers,
        "segment_class": table,
        "segment_crowd": crowd,
        "segment_list": [n for n in range(len(classes)) if pixels[n] and not crowd[n]],
    }
