"""What the parts of this package ask of a data set, so that they need not know its base class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torchvision.transforms import v2

from lightning_seg.data.pixels import Image, Measurement, Pixels
from lightning_seg.data.segments import SegmentSample
from lightning_seg.data.transforms.batch import Sample, SampleKey
from lightning_seg.data.transforms.color import ColorJitter
from lightning_seg.data.transforms.geometry import RandomHorizontalFlip, RandomScaleCrop
from lightning_seg.data.windows import Windows

Pair = tuple[np.ndarray, np.ndarray]


class DataSet(Protocol):
    """Classes, samples by split, and how to read one; `SegmentationData` says what each part means."""

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    root: Path
    train_split: str
    val_split: str
    test_split: str
    batch_size: int
    crop_size: tuple[int, int]
    transforms: list[v2.Transform]
    color: ColorJitter | None
    instances: bool
    segments: bool
    things: tuple[int, ...]
    overlapping: bool
    table: np.ndarray | None
    pixels: Pixels
    samples_per_image: int

    @property
    def geometry(self) -> tuple[RandomScaleCrop, RandomHorizontalFlip]:
        """Random crop, scale and flip of the training images."""

    @property
    def measurement(self) -> Measurement | None:
        """Statistics of the training split, where the normalization needs them."""

    @property
    def num_classes(self) -> int:
        """Number of classes, background included, void not."""

    @property
    def reading_settings(self) -> dict[str, object]:
        """The settings that decide what `read` gives."""

    @property
    def run_seed(self) -> int:
        """The seed of order and augmentation."""

    def samples(self, split: str) -> Sequence[SampleKey]:
        """The samples of a split."""

    def cached(self, split: str) -> Sequence[Pair] | None:
        """The decoded samples of a split, if they are kept."""

    def read(self, sample: SampleKey) -> Pair:
        """Read one sample: image (H, W, C) and mask (H, W)."""

    def image_of(self, sample: SampleKey) -> Image:
        """Read the image of a sample alone, and where it has no data."""

    def windows(self, sample: SampleKey) -> Windows | None:
        """Parts of a large sample, where they can be read alone."""

    def read_labels(self, sample: SampleKey) -> Pair:
        """Read one sample: image and mask (H, W), or masks (H, W, K) if classes may overlap."""

    def read_instances(self, sample: SampleKey) -> Sample:
        """Read one sample with its objects."""

    def read_segments(self, sample: SampleKey) -> SegmentSample:
        """Read one sample with its segments."""

    def group_of(self, sample: SampleKey) -> str | None:
        """Name what a sample belongs to that must not be divided; None for nothing."""

    def name_of(self, sample: SampleKey) -> str:
        """Name a sample for people."""
