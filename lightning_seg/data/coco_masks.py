"""Masks as COCO's format writes them: polygons, and run lengths down the columns, compressed or not."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class RunLengths(TypedDict):
    """Run lengths down the columns; the size, height and width, may not be known."""

    size: list[int] | None
    counts: list[int]


class Compressed(TypedDict):
    """Run lengths as a text; see `decompress`."""

    counts: str


Segmentation = list[list[float]] | RunLengths  # the former are polygons [[x, y, x, y, ...], ...]


def decompress(text: str) -> list[int]:
    """Decode the compressed run lengths of COCO: five bits a character, each run from the third on as a difference.

    Raises:
        ValueError: It is cut off, or holds what such a text cannot hold.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 30:
            raise ValueError(f"{letter!r} cannot stand there")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("they are cut off")
    if min(counts, default=0) < 0:
        raise ValueError("a run is shorter than nothing")
    return counts


def paint(segmentation: Segmentation | Compressed, size: tuple[int, int]) -> np.ndarray:
    """Turn a COCO segmentation into a mask, pixel by pixel as COCO's own tools do.

    Args:
        segmentation: Polygons [[x, y, x, y, ...], ...], or run lengths {"counts": ...} down the columns, as a list of
            numbers or compressed.
        size: Height and width, in pixels.

    Returns:
        Mask (H, W), ``bool``.
    """
    height, width = size
    if not isinstance(segmentation, list):
        counts = segmentation["counts"]
        counts = decompress(counts) if isinstance(counts, str) else counts
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(width, height).T
    if not segmentation:
        return np.zeros(size, bool)
    from faster_coco_eval.core import mask as coco_mask

    mask: np.ndarray = coco_mask.decode(coco_mask.segmToRle(segmentation, width, height)).astype(bool)
    return mask


def turn(masks: np.ndarray, orientation: int) -> np.ndarray:
    """Turn masks (..., H, W) as EXIF turns the stored image upright."""
    if orientation in (5, 7):
        masks = masks.swapaxes(-1, -2)
    if orientation in (3, 7):
        return np.rot90(masks, 2, (-2, -1))
    if orientation in (6, 8):
        return np.rot90(masks, -1 if orientation == 6 else 1, (-2, -1))
    if orientation in (2, 4):
        return np.flip(masks, -1 if orientation == 2 else -2)
    return masks


def turn_box(box: Sequence[float], orientation: int, size: tuple[int, int]) -> tuple[float, ...]:
    """Turn a box, left, top, width and height, as `turn` turns masks of a height and width (orientations 5 to 8)."""
    (left, top, width, height), (rows, columns) = box, size
    if orientation < 5:
        return tuple(box)
    x = rows - top - height if orientation in (6, 7) else top
    y = columns - left - width if orientation in (7, 8) else left
    return x, y, height, width
