"""A user's own images and masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg.constants import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.folds import divide
from lightning_seg.data.instances import Sample, instance_sample, masks_of_numbers, read_numbers
from lightning_seg.data.io import (
    ColorMask,
    Unpaired,
    default_palette,
    label_table,
    list_images,
    read_image,
)
from lightning_seg.errors import UserError

Color = tuple[int, int, int]


class Folder(SegmentationData):
    """Images and masks in two folders, paired by name.

    Which sample belongs to which split is said in one of three ways, looked for in this order: lists
    (`root/train.txt`, one name a line, ending and folder optional), folders (`root/images/train/`,
    `root/masks/train/`), or `split_ratios`.

    Args:
        root: Folder of the data set.
        class_names: Names of the classes, in the order of their labels.
        images: Folder of the images in `root`.
        masks: Folder of the masks in `root`.
        mask_suffix: What a mask's name has after its image's name, for example `_mask`.
        labels: Class of labels in the masks, for example {255: 1} for masks of 0 and 255; 255 is
            `ignore_index`. Labels that are not named stay as they are.
        colors: RGB color of each class, for masks that show classes by color.
        void_colors: Colors that are set to `ignore_index`.
        objects: Folder in `root` of masks (8 or 16 bit) that number the objects of an image from 1 on, named as those
            in `masks`; an object has the class of most of its pixels. If it is `masks` itself, there is one class
            besides the background, and the masks need not say it.
        split_ratios: Relative size of each split, for example {train: 0.8, val: 0.1, test: 0.1}.
        split_seed: Seed of the division by `split_ratios`.
        sequence: Whether neighbours in the order of names look alike, as slices and video frames do: folds
            are then blocks of neighbours.
        **kwargs: As for every data set.

    Raises:
        UserError: If the arguments do not fit together.
    """

    def __init__(
        self,
        root: str,
        class_names: list[str],
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        labels: dict[int, int] | None = None,
        colors: list[Color] | None = None,
        void_colors: list[Color] | None = None,
        objects: str | None = None,
        split_ratios: dict[str, float] | None = None,
        split_seed: int = 0,
        sequence: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if colors is not None and len(colors) != len(class_names):
            raise UserError(f"There are {len(class_names)} class_names but {len(colors)} colors.")
        if colors is not None and labels is not None:
            raise UserError("Give labels for masks of numbers, or colors for masks of colors, not both.")
        self.class_names = tuple(class_names)
        self.palette = tuple(colors) if colors else default_palette(len(class_names))
        self.images, self.masks, self.mask_suffix = self.root / images, self.root / masks, mask_suffix
        self.table = label_table(labels) if labels else None
        self.color_mask = ColorMask(colors, void_colors or ()) if colors else None
        self.objects = None if objects is None else self.root / objects
        if self.objects == self.masks and len(class_names) != 2:
            raise UserError(
                f"objects and masks are both {objects}, so the masks tell objects but no classes: there is one class "
                f"besides the background; class_names has {len(class_names)}."
            )
        self.split_ratios = split_ratios
        self.split_seed = split_seed
        self.sequence = sequence
        self.how_to_get = f"It should hold the folders {images}/ and {masks}/."

    def list_samples(self, split: str) -> Sequence[tuple[Path, Path]]:
        """List (image, mask) of a split.

        Raises:
            UserError: If there is no such split, or an image and a mask have no partner.
        """
        if not self.images.is_dir():
            raise self.missing(self.images)
        listing = self.root / f"{split}.txt"
        if listing.is_file():
            return self._listed(listing)
        if (self.images / split).is_dir():
            return self._pairs(split)
        if self.split_ratios and split in self.split_ratios:
            return divide(self._pairs(), self.split_ratios, self.split_seed)[split]
        raise UserError(
            f"There is no split {split!r} in {self.root}: no {split}.txt and no {self.images.name}/{split}/. "
            "Make one of them, or give split_ratios, for example "
            "--data.init_args.split_ratios='{train: 0.8, val: 0.1, test: 0.1}'."
        )

    def read(self, sample: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its mask."""
        if self.objects == self.masks:
            return read_image(sample[0]), (read_numbers(sample[1]) > 0).astype(np.uint8)
        if self.color_mask is None:
            return super().read(sample)
        return read_image(sample[0]), self.color_mask.read(sample[1])

    def read_instances(self, sample: tuple[Path, Path]) -> Sample:
        """Read an image and its objects.

        Raises:
            UserError: There is no folder of object masks, or a file is missing or of another size.
        """
        if self.objects is None:
            raise UserError(
                "Which masks tell the objects apart? Name their folder with --data.init_args.objects; it may be the "
                f"same as masks ({self.masks.name})."
            )
        image, classes = self.read(sample)
        path = self.objects / sample[1].relative_to(self.masks)
        numbers = read_numbers(path)
        if not numbers.shape == classes.shape == image.shape[:2]:
            raise UserError(f"{path}, its image and its mask of classes differ in size.")
        masks = masks_of_numbers(numbers)
        labels = np.array([np.bincount(classes[mask]).argmax() for mask in masks], np.int64)
        counted = (labels > 0) & (labels < IGNORE_INDEX)
        return instance_sample(image, masks[counted], labels[counted].tolist())

    def name_of(self, sample: tuple[Path, Path]) -> str:
        """Name a sample by its image's place in the folder, without ending."""
        return sample[0].relative_to(self.images).with_suffix("").as_posix()

    def _pairs(self, part: str = "") -> list[tuple[Path, Path]]:
        """Pair all images and masks, or those below a subfolder."""
        images = self._by_name(self.images, part, "")
        masks = self._by_name(self.masks, part, self.mask_suffix)
        alone = {
            str(images[name]): f"no mask in {self.masks}" for name in sorted(images.keys() - masks.keys())
        }
        alone |= {
            str(masks[name]): f"no image in {self.images}" for name in sorted(masks.keys() - images.keys())
        }
        if alone:
            first = "".join(f"  {file}: {lack}\n" for file, lack in [*alone.items()][:5])
            raise Unpaired(
                f"{len(alone)} files have no partner:\n{first}Images and masks are paired by name (mask_suffix is "
                f"{self.mask_suffix!r}). Move away what has no partner; 'lightning-seg check-data' lists all.",
                alone,
            )
        return [(images[name], masks[name]) for name in sorted(images)]

    def _listed(self, listing: Path) -> list[tuple[Path, Path]]:
        """Find the files that a list names, with or without folder and ending."""
        images = self._by_name(self.images, "", "")
        masks = self._by_name(self.masks, "", self.mask_suffix)
        known = {alias: name for name in images for alias in (Path(name).name, name)}
        found, missing = [], {}
        for line in filter(None, map(str.strip, listing.read_text().splitlines())):
            path = Path(line)
            spellings = (line, path.with_suffix("").as_posix(), path.name, path.stem)
            name = next((known[spelling] for spelling in spellings if spelling in known), None)
            if name is None or name not in masks:
                missing[line] = f"no such file in {self.images if name is None else self.masks}"
            else:
                found.append((images[name], masks[name]))
        if missing:
            first, lack = next(iter(missing.items()))
            raise Unpaired(
                f"{listing} names {len(missing)} files that are not there, first {first!r}: {lack}.", missing
            )
        return found

    def _by_name(self, folder: Path, part: str, suffix: str) -> dict[str, Path]:
        """Image files below a folder by their relative names without ending and suffix."""
        names = {}
        for path in list_images(folder / part):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name.endswith(suffix):
                names[name.removesuffix(suffix)] = path
        return names
