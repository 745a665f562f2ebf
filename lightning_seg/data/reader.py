"""How the samples of a data set become arrays."""

import os
from typing import Any

import cv2
import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.io import read_image, read_mask, read_with_void
from lightning_seg.data.pixels import Image, Pixels
from lightning_seg.data.windows import Windows, windows_of


class SampleReader:
    """Reads images and masks of class numbers; a data set of other files overrides `read`.

    Attributes:
        pixels: Which bands are read, and which values are expected.
        table: The class of each label in the masks' files (256,); see `label_table`. None where the labels are classes.
    """

    pixels: Pixels
    table: np.ndarray | None = None

    def read(self, sample: Any) -> tuple[np.ndarray, np.ndarray]:
        """Read one sample: image (H, W, C) and mask (H, W) ``uint8`` with `IGNORE_INDEX` for void."""
        image, mask = sample
        labels = read_mask(mask)
        return self.image_and_mask(image, labels if self.table is None else cv2.LUT(labels, self.table))

    def read_image(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image file (H, W, C) as the settings `bands` and `value_range` say."""
        return read_image(path, self.pixels)

    def image_and_mask(
        self, path: str | os.PathLike[str], labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read an image file and join it with its mask (H, W) or masks (H, W, K).

        Where the image has no data they become `IGNORE_INDEX`.
        """
        found = read_with_void(path, self.pixels)
        if found.void is not None and found.void.shape == labels.shape[:2]:
            void = found.void if labels.ndim == 2 else found.void[..., None]
            labels = np.where(void, np.uint8(IGNORE_INDEX), labels)
        return found.values, labels

    def windows(self, sample: Any) -> Windows | None:
        """Parts of a large sample, where they can be read alone."""
        if type(self).read is not SampleReader.read:
            return None
        return windows_of(sample, self.pixels, self.table)

    def image_of(self, sample: Any) -> Image:
        """Read the image of a sample alone, and where it has no data."""
        if type(self).read is SampleReader.read:
            return read_with_void(sample[0], self.pixels)
        return Image(self.read(sample)[0])
