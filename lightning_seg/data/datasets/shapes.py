"""Drawn scenes that need no files: what the quickstart and many tests train on."""

import colorsys
import zlib
from typing import Any

import cv2
import numpy as np

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.instances import instance_sample, masks_of_numbers
from lightning_seg.data.segments import SegmentSample
from lightning_seg.data.transforms.batch import Sample

HUE_SPREAD = 18.0  # degrees of standard deviation; classes are 72 degrees apart


class Shapes(SegmentationData):
    """Circles, squares, triangles, stars and crosses that hide one another on a textured ground.

    Every object has a random size, place, angle, brightness and texture. Each class has a usual color from
    which its objects stray into those of its neighbors: a network learns the colors within a minute, and
    needs the outlines for the rest. An image depends on its split and number alone.

    Args:
        image_size: Height and width, in pixels.
        train_images: Number of training images.
        val_images: Number of validation images.
        test_images: Number of test images.
        **kwargs: As for every data set.

    Examples:
        >>> data = Shapes(train_images=8, batch_size=4, crop_size=(64, 64))
        >>> image, mask = data.read(data.samples("train")[0])
        >>> image.shape, mask.shape, data.class_names
        ((96, 96, 3), (96, 96), ('background', 'circle', 'square', 'triangle', 'star', 'cross'))
    """

    class_names = ("background", "circle", "square", "triangle", "star", "cross")
    things = (1, 2, 3, 4, 5)  # the ground is stuff
    palette = ((38, 50, 56), (66, 165, 245), (255, 167, 38), (102, 187, 106), (236, 64, 122), (171, 71, 188))

    def __init__(
        self,
        image_size: tuple[int, int] = (96, 96),
        train_images: int = 1000,
        val_images: int = 100,
        test_images: int = 200,
        **kwargs: Any,
    ) -> None:
        super().__init__(root="", **kwargs)
        self.image_size = (image_size[0], image_size[1])
        self.lengths = {"train": train_images, "val": val_images, "test": test_images}

    def list_samples(self, split: str) -> list[tuple[str, int, tuple[int, int]]]:
        """List the images of a split as (split, number, size)."""
        if split not in self.lengths:
            raise self.unknown(split, self.lengths)
        return [(split, number, self.image_size) for number in range(self.lengths[split])]

    def read(self, sample: tuple[str, int, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Draw one image and its mask."""
        image, mask, _ = draw(*sample)
        return image, mask

    def read_instances(self, sample: tuple[str, int, tuple[int, int]]) -> Sample:
        """Draw one image and its objects, as a sample of `lightning_seg.data.instances`."""
        image, mask, instances = draw(*sample)
        masks = masks_of_numbers(instances)
        return instance_sample(image, masks, [int(mask[area][0]) for area in masks])

    def read_segments(self, sample: tuple[str, int, tuple[int, int]]) -> SegmentSample:
        """Draw one image and its segments: the ground, and each object that is not hidden."""
        image, mask, instances = draw(*sample)
        seen, first = np.unique(instances, return_index=True)
        classes = np.zeros(int(seen[-1]) + 1, int)  # a hidden object has no pixel: its class does not matter
        classes[seen] = mask.ravel()[first]
        return SegmentSample(image, instances, classes.tolist())

    def name_of(self, sample: tuple[str, int, tuple[int, int]]) -> str:
        """Name an image by its split and number."""
        return f"{sample[0]}_{sample[1]:04d}"


def draw(split: str, number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the scene of this split and number.

    Args:
        split: Name of the split.
        number: Number of the image in it.
        size: Height and width, in pixels.

    Returns:
        Image (H, W, 3), mask of class numbers (H, W), and instances (H, W): 0 for the ground, 1 to N for the
        objects from back to front; all ``uint8``.
    """
    rng = np.random.default_rng([zlib.crc32(split.encode()), number])
    height, width = size
    image = _texture(rng, size, hue=rng.uniform(0, 360), saturation=0.2, value=rng.uniform(0.15, 0.45))
    mask, instances = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    reach = min(size)
    for instance in range(1, rng.integers(4, 8)):
        label = int(rng.integers(1, 6))
        outline = _outline(rng, label) * reach * rng.uniform(0.12, 0.26)
        center = rng.uniform(0.08, 0.92, 2) * (width, height)
        points = np.round((outline + center) * 16).astype(np.int32)  # in sixteenths of a pixel
        area = np.zeros(size, np.uint8)
        cv2.fillPoly(area, [points], 255, shift=4)
        x, y, w, h = cv2.boundingRect(area)
        box = slice(y, y + h), slice(x, x + w)
        hue = rng.normal(72 * label, HUE_SPREAD)
        texture = _texture(rng, (h, w), hue, rng.uniform(0.45, 0.9), rng.uniform(0.55, 0.95))
        np.copyto(image[box], texture, where=area[box][..., None] > 0)
        mask[area > 0] = label
        instances[area > 0] = instance
    image = cv2.GaussianBlur(image, (3, 3), 0.6)  # a lens: no outline is sharper than a pixel
    noise = rng.integers(0, 29, image.shape, np.uint8)
    return cv2.addWeighted(image, 1, noise, 1, -14), mask, instances


def _outline(rng: np.random.Generator, label: int) -> np.ndarray:
    """Corners (N, 2) of a shape of radius 1 around the origin, turned at random."""
    if label == 5:  # a cross: the corners of two crossed bars
        a, b = 1.1, 0.38
        quarter = np.array([(a, -b), (a, b), (b, b)])
        start = rng.uniform(0, 2 * np.pi)
        return np.concatenate([_rotate(quarter, start + turn * np.pi / 2) for turn in range(4)])
    count = {1: 40, 2: 4, 3: 3, 4: 10}[label]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2 * np.pi / count
    radius = np.where(np.arange(count) % 2, 0.42, 1.15) if label == 4 else np.ones(count)
    return np.stack([np.cos(angles) * radius, np.sin(angles) * radius], 1)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    turned: np.ndarray = points @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return turned


def _texture(
    rng: np.random.Generator, size: tuple[int, int], hue: float, saturation: float, value: float
) -> np.ndarray:
    """A color (degrees, fraction, fraction) with darker blotches or stripes."""
    height, width = size
    color = 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32)
    if rng.random() < 0.5:
        grid = rng.random((int(rng.integers(3, 9)), int(rng.integers(3, 9))), np.float32)
        share = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    else:
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 16)
        y, x = np.ogrid[:height, :width]
        share = 0.5 + 0.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
    shade = 1 - rng.uniform(0.15, 0.45) * share.astype(np.float32)
    textured: np.ndarray = np.clip(shade[..., None] * color, 0, 255).astype(np.uint8)
    return textured
