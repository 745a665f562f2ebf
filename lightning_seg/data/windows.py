"""Windows of large images: a crop of a training image reads no more of the file than it shows."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from lightning_seg import IGNORE_INDEX
from lightning_seg.data import rasters
from lightning_seg.data.bands import as_pixels
from lightning_seg.data.containers import PHOTOMETRIC, SAMPLES, is_lossy, pages_of, tiff_for_gdal
from lightning_seg.data.io import read_mask
from lightning_seg.data.pixels import Pixels
from lightning_seg.data.rasters import Box
from lightning_seg.data.volumes import map_array
from lightning_seg.errors import UserError

LARGE = 2**24  # pixels; smaller images are decoded whole, which is as fast
File = str | os.PathLike[str]
_TIFF = (".tif", ".tiff")


class Windows(NamedTuple):
    """An image and its mask, of which parts can be read.

    Args:
        size: Height and width of the image, in pixels.
        read: Reads a part: image (h, w, C) and mask (h, w).
    """

    size: tuple[int, int]
    read: Callable[[Box], tuple[np.ndarray, np.ndarray]]


def windows_of(sample: tuple[File, File], pixels: Pixels, table: np.ndarray | None) -> Windows | None:
    """Find out whether parts of a sample can be read: of a large TIFF or .npy file.

    A mask that is such a file, too, is read by parts, any other whole.

    Args:
        sample: An image file and a mask of class numbers.
        pixels: Which bands are read, and which values are expected.
        table: The class of each number (256,), or None if the numbers are the classes.
    """
    image, mask = sample
    if not (isinstance(image, Path) and image.suffix.lower() in (*_TIFF, ".npy")):
        return None
    size = _size(image)
    if size is None or size[0] * size[1] < LARGE:
        return None

    def read(box: Box) -> tuple[np.ndarray, np.ndarray]:
        values, void = _image_part(image, pixels, box)
        labels = _mask_part(mask, box, size)
        labels = labels if table is None else cv2.LUT(labels, table)
        return values, labels if void is None else np.where(void, np.uint8(IGNORE_INDEX), labels)

    return Windows(size, read)


@lru_cache(maxsize=4096)
def _size(path: Path) -> tuple[int, int] | None:
    """Height and width of a file of which parts can be read; None for others."""
    if path.suffix.lower() == ".npy":
        array = map_array(path)
        return array.shape[0], array.shape[1]
    tiff = tiff_for_gdal(path, Pixels(bands=(0,)))
    if tiff is None or tiff.pages not in (None, 1) or tiff.tags.get(PHOTOMETRIC) == 0:
        return None  # the reader of whole images says what is wrong with it
    with rasters.opened(path) as file:
        return (file.height, file.width) if tiff.pages or not file.subdatasets else None


def _image_part(path: Path, pixels: Pixels, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
    if path.suffix.lower() == ".npy":
        part = np.array(map_array(path)[box.top : box.bottom, box.left : box.right])
        return as_pixels(part, pixels, path), None
    with rasters.opened(path) as file:
        numbers = rasters.numbers_of(file, pixels.bands, path)
        values, void = rasters.read(file, numbers, box)
    chosen = pixels if pixels.bands is None else replace(pixels, bands=tuple(range(len(numbers))))
    return as_pixels(values, chosen, path, void), void


def _mask_part(path: File, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Read a part of a mask (h, w), ``uint8``; the numbers are those that `read_mask` gives."""
    if not isinstance(path, Path) or not _is_plain_mask(path):
        whole = read_mask(path)
        _refuse_other_size(path, (whole.shape[0], whole.shape[1]), size)
        return np.ascontiguousarray(whole[box.top : box.bottom, box.left : box.right])
    with rasters.opened(path) as file:
        _refuse_other_size(path, (file.height, file.width), size)
        part = rasters.read(file, [1], box).values[..., 0]
    return part


def _refuse_other_size(path: File, mask: tuple[int, int], image: tuple[int, int]) -> None:
    if mask != image:
        raise UserError(f"Image and mask differ in size, {image} and {mask}: {path}")


@lru_cache(maxsize=4096)
def _is_plain_mask(path: Path) -> bool:
    """Whether a mask is a TIFF of 8 bits in one band that is read as it is."""
    if path.suffix.lower() not in _TIFF:
        return False
    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            plain = image.mode in ("L", "P") and tags.get(SAMPLES, 1) == 1 and tags.get(PHOTOMETRIC) != 0
            return plain and not is_lossy(image) and len(pages_of(image)) == 1
    except (OSError, SyntaxError, ValueError):
        return False
