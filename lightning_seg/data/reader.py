"""How the samples of a data set become arrays."""

import os

import cv2
import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.io import read_image, read_mask, read_with_void
from lightning_seg.data.overlapping import of_classes, of_objects
from lightning_seg.data.pixels import Image, Pixels
from lightning_seg.data.segments import SegmentSample
from lightning_seg.data.transforms.batch import Sample, SampleKey
from lightning_seg.data.windows import Windows, windows_of
from lightning_seg.errors import UserError


class SampleReader:
    """Reads images and masks of class numbers; a data set of other files overrides `read`.

    Attributes:
        class_names: The classes in label order, the background first.
        overlapping: Whether each class but the background has a mask of its own.
        pixels: Which bands are read, and which values are expected.
        table: The class of each label in the masks' files (256,); see `label_table`. None where the labels are classes.
    """

    class_names: tuple[str, ...]
    pixels: Pixels
    overlapping: bool
    table: np.ndarray | None = None

    def read(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
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
        """Read an image file and join it with its mask (H, W) or masks (H, W, K); see `with_void`."""
        return with_void(read_with_void(path, self.pixels), labels)

    def windows(self, sample: SampleKey) -> Windows | None:
        """Parts of a large sample, where they can be read alone."""
        if type(self).read is not SampleReader.read:
            return None
        return windows_of(sample, self.pixels, self.table)

    def image_of(self, sample: SampleKey) -> Image:
        """Read the image of a sample alone, and where it has no data."""
        if type(self).read is SampleReader.read:
            return read_with_void(sample[0], self.pixels)
        return Image(self.read(sample)[0])

    def read_instances(self, sample: SampleKey) -> Sample:
        """Read one sample with its objects (see `lightning_seg.data.instances`), where the data set knows them."""
        raise self.no_instances()

    def read_segments(self, sample: SampleKey) -> SegmentSample:
        """Read one sample with its segments: as it is, one for each class; data sets with `things` do otherwise."""
        image, mask = self.read(sample)
        return SegmentSample(image, mask, range(self.num_classes))

    def category_id(self, label: int) -> int:
        """Return the number of a class in panoptic files: its label, unless the data set has numbers of its own."""
        return label

    def read_overlapping(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read one sample: image (H, W, C) and masks (H, W, K), see `lightning_seg.data.overlapping`.

        Unless a data set knows better, they are those of its objects or, if it has none, of its classes.
        """
        if not self.knows_objects:
            image, mask = self.read(sample)
            return image, of_classes(mask, self.num_classes)
        objects = self.read_instances(sample)
        return objects["image"].permute(1, 2, 0).numpy(), of_objects(objects, self.num_classes)

    def read_labels(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read one sample with its mask (H, W), or with masks (H, W, K) if classes may overlap."""
        return self.read_overlapping(sample) if self.overlapping else self.read(sample)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included, void not."""
        return len(self.class_names)

    @property
    def knows_objects(self) -> bool:
        """Whether the data set has a `read_instances` of its own."""
        return type(self).read_instances is not SampleReader.read_instances

    def no_instances(self) -> UserError:
        """Make the error for a data set of classes that is asked for objects."""
        name = type(self).__name__
        return UserError(
            f"{name} knows classes, not single objects. Shapes, PennFudan, COCO and Folder (with `objects`) know them, "
            f"or give {name} a method read_instances."
        )


def with_void(image: Image, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join an image with its mask (H, W) or masks (H, W, K): where it has no data they become `IGNORE_INDEX`."""
    if image.void is not None and image.void.shape == labels.shape[:2]:
        void = image.void if labels.ndim == 2 else image.void[..., None]
        labels = np.where(void, np.uint8(IGNORE_INDEX), labels)
    return image.values, labels
