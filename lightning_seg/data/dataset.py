"""Samples of one split, augmented where they are for training."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.files import list_images
from lightning_seg.data.instances import as_batch_item, augment
from lightning_seg.data.io import read_image
from lightning_seg.data.loading import seed_of, seeded
from lightning_seg.data.pixels import DTYPES, RGB, Pixels
from lightning_seg.data.protocol import DataSet, Pair
from lightning_seg.data.rasters import Box
from lightning_seg.data.segments import SegmentSample, batch_columns, mask_of
from lightning_seg.data.transforms.batch import Item, SampleKey
from lightning_seg.data.transforms.geometry import random_by_torch
from lightning_seg.data.volumes import Slice, part_of
from lightning_seg.data.windows import Windows
from lightning_seg.errors import UserError


def read_pair(data: DataSet, sample: object) -> Pair:
    """Read a sample: image (H, W, C) and mask (H, W).

    Raises:
        UserError: If they differ in size, or the image has other bands than the settings say.
    """
    return _checked(data, *data.read_labels(sample), sample)


def _checked(data: DataSet, image: np.ndarray, labels: np.ndarray, sample: object) -> Pair:
    if image.shape[:2] != labels.shape[:2]:
        raise UserError(f"Image and mask differ in size, {image.shape[:2]} and {labels.shape[:2]}: {sample}")
    if image.shape[2] != data.pixels.count or image.dtype.name not in DTYPES:
        raise UserError(
            f"{type(data).__name__} reads {data.pixels.count} bands of {', '.join(DTYPES)}, but {sample} has "
            f"{image.shape[2]} of {image.dtype}. A data set that makes bands itself names them in data.init_args.bands."
        )
    return image, labels


def mask_tensor(labels: np.ndarray) -> torch.Tensor:
    """Return a mask (H, W) as it is, masks (H, W, K) as (K, H, W), without a copy."""
    mask = torch.from_numpy(labels)
    return mask if mask.ndim == 2 else mask.permute(2, 0, 1)


class Split(Dataset[Item]):
    """One split of a data set as a torch `Dataset`.

    Args:
        data: The data set.
        split: Name of the split.
        train: Augment.
        cache: Its images and masks, where they are in memory already; what the data set keeps of it unless given.

    Raises:
        UserError: If the split does not exist or is empty.
    """

    def __init__(
        self, data: DataSet, split: str, train: bool = False, cache: Sequence[Pair] | None = None
    ) -> None:
        self.data = data
        self.samples = data.samples(split)
        self.cache = data.cached(split) if cache is None else cache
        self.train = train
        self.seed = data.run_seed
        if len(self.samples) == 0:
            raise UserError(f"The split {split!r} of {type(data).__name__} is empty ({data.root}).")

    def __len__(self) -> int:
        return len(self.samples) * (self.data.samples_per_image if self.train else 1)

    def sample_at(self, index: int) -> SampleKey:
        """The sample at an index; in training each comes `samples_per_image` times."""
        if index >= len(self):  # where a loop over all of them ends
            raise IndexError(f"index {index} of a split with {len(self)} samples")
        return self.samples[index % len(self.samples)]

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Read and, in training, augment a sample.

        Args:
            key: (epoch, index), or the index alone for epoch 0.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.sample_at(index)
        try:
            if self.data.instances:
                return self._objects(sample, epoch, index)
            segments: SegmentSample | None = None
            random = Random(seed_of(self.seed, epoch, index))
            alone = self.train and self.cache is None and not self.data.segments
            windows = self.data.windows(sample) if alone and not self.data.overlapping else None
            if windows is not None:
                pixels, labels = self._cut(windows, random)
            else:
                if self.data.segments:
                    segments = self.data.read_segments(sample)
                    pixels, labels = _checked(self.data, segments.image, segments.numbers, sample)
                    if max(segments.classes, default=0) >= self.data.num_classes:
                        raise UserError(
                            f"{type(self.data).__name__} has the classes 0 to {self.data.num_classes - 1}, but a "
                            f"segment of {sample} has class {max(segments.classes)}."
                        )
                elif self.cache is None:
                    pixels, labels = read_pair(self.data, sample)
                else:
                    pixels, labels = self.cache[index % len(self.samples)]
                if self.train:
                    crop, flip = self.data.geometry
                    classes = None  # of the segments, whose numbers `labels` has
                    if segments is not None and crop.class_balanced_crops:
                        classes = mask_of(labels, segments.classes)
                    pixels, labels = flip.arrays(*crop.arrays(pixels, labels, random, classes), random)
            numbers = self.data.num_classes if segments is None else len(segments.classes)
            if self.data.overlapping:
                numbers = 2  # not there, or there
            if (labels + 1).max() > numbers:  # ignore_index, 255, wraps to 0
                raise UserError(
                    f"{type(self.data).__name__} has the classes 0 to {numbers - 1}, but the mask of "
                    f"{sample} has label {labels[labels < 255].max()}. 'lightning-seg check-data' lists all such files."
                )
            image, mask = torch.from_numpy(pixels).permute(2, 0, 1), mask_tensor(labels)
            if self.train and self.data.transforms:
                with seeded(self.seed, epoch, index):
                    image, mask = self._transform(image, mask)
            out: Item = {"image": image, "mask": mask, "index": index}
            if self.train and self.data.color is not None:
                out["color"] = self._draw_color(image, random)
            if segments is not None:
                out = {**out, **batch_columns(mask, segments.classes, segments.crowds)}
            return out
        except Exception as error:
            error.add_note(f"while preparing the sample {sample}")
            raise

    def _cut(self, windows: Windows, random: Random) -> Pair:
        """Augment a large image by reading the part of it that is kept."""
        crop, flip = self.data.geometry
        mask = None
        if crop.class_balanced_crops:  # which pixels are of which class only the whole mask tells
            mask = windows.read(Box(0, 0, *windows.size))[1]
        window = crop.draw(windows.size, random, mask)
        (rows, columns), whole = window.source, slice(None)
        image, labels = windows.read(Box(rows.start, columns.start, rows.stop, columns.stop))
        inside = window._replace(source=(whole, whole))
        cut = inside.cut(image, crop.fill, nearest=False), inside.cut(labels, (IGNORE_INDEX,), nearest=True)
        return flip.arrays(*cut, random)

    def _objects(self, sample: object, epoch: int, index: int) -> Item:
        """Read and, in training, augment a sample with objects."""
        found = self.data.read_instances(sample)
        if len(found["labels"]) and int(found["labels"].max()) >= self.data.num_classes:
            raise UserError(
                f"{type(self.data).__name__} has the classes 0 to {self.data.num_classes - 1}, but an object of "
                f"{sample} has class {int(found['labels'].max())}."
            )
        if not self.train:
            return as_batch_item(found, index)
        with seeded(self.seed, epoch, index):
            found.pop("area", None)  # as it was before
            dtype = found["image"].dtype
            found = augment(found, [*self.data.geometry, *self.data.transforms])
            self._check_kept("image", found["image"], dtype)
            item = as_batch_item(found, index)
            if self.data.color is not None:
                item["color"] = self._draw_color(item["image"], random_by_torch())
        return item

    def _draw_color(self, image: torch.Tensor, random: Random) -> torch.Tensor:
        assert self.data.color is not None
        pixels = self.data.pixels
        if pixels.has_hue:
            mean: Sequence[float] = cv2.mean(image.permute(1, 2, 0).numpy())[:3]
            return self.data.color.draw(mean, random, pixels.black)
        return self.data.color.draw_bands(image.float().mean((1, 2)).tolist(), random, pixels.black)

    def _transform(self, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the user's transforms; what they fill in with 0 becomes `IGNORE_INDEX`."""
        dtypes = image.dtype, mask.dtype
        image, mask = tv_tensors.Image(image), tv_tensors.Mask(255 - mask)
        for transform in self.data.transforms:
            image, mask = transform(image, mask)
        image, mask = image.as_subclass(torch.Tensor), 255 - mask.as_subclass(torch.Tensor)
        self._check_kept("image", image, dtypes[0])
        self._check_kept("mask", mask, dtypes[1])
        return image, mask

    def _check_kept(self, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        if tensor.dtype != dtype or tuple(tensor.shape[-2:]) != self.data.crop_size:
            raise UserError(
                f"data.init_args.transforms must keep {name}s {str(dtype)[6:]} at crop_size {self.data.crop_size}; "
                f"they made {tensor.dtype} of size {tuple(tensor.shape[-2:])}. "
                "The network normalizes by itself."
            )


class Images(Dataset[Item]):
    """Images without masks, for prediction.

    Args:
        folder: Folder of images, one image, or a list of files and slices of files.
        pixels: Which bands are read, and which values are expected.
    """

    def __init__(self, folder: str | Sequence[str | Path], pixels: Pixels = RGB) -> None:
        self.pixels = pixels
        self.paths: list[Path | Slice] = []
        self.paths += list_images(folder) if isinstance(folder, str) else (part_of(str(p)) for p in folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Read the image at an index; "error" says why it cannot be read, and the image is a black one then."""
        index = key[1] if isinstance(key, tuple) else key
        error = ""
        try:
            pixels = read_image(self.paths[index], self.pixels)
        except UserError as unreadable:  # the others are still predicted
            pixels, error = np.zeros((64, 64, self.pixels.count), np.uint8), str(unreadable)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        return {"image": image, "path": str(self.paths[index]), "index": index, "error": error}
