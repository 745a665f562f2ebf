"""A user's own images and masks."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import (
    Color,
    ColorMask,
    check_classes,
    check_colors,
    check_labels,
    default_palette,
    label_table,
)
from lightning_seg.data.files import Unpaired, by_name, is_hidden, natural_order, without_ending
from lightning_seg.data.folds import divide
from lightning_seg.data.groups import Groups
from lightning_seg.data.instances import instance_sample, masks_of_numbers
from lightning_seg.data.io import count_slices, read_numbers, read_with_void
from lightning_seg.data.lists import Names, listed_pairs
from lightning_seg.data.overlapping import of_classes, read_maps
from lightning_seg.data.pixels import Image
from lightning_seg.data.recognized import recognized
from lightning_seg.data.transforms.batch import Sample
from lightning_seg.data.volumes import Slice, file_of
from lightning_seg.data.windows import Windows, windows_of
from lightning_seg.errors import UserError

Pair = tuple[Path | Slice, Path | Slice]
"""An image and its mask: files, or slices of files."""


class Folder(SegmentationData):
    """Images and masks in two folders, paired by name.

    Which sample belongs to which split is said in one of three ways, looked for in this order: lists
    (`root/train.txt`, one name a line, ending and folder optional, or an image and its mask), folders
    (`root/images/train/`, `root/masks/train/`), or `split_ratios`.

    Args:
        root: Folder of the data set.
        class_names: Names of the classes, in the order of their labels.
        images: Folder of the images in `root`; with ``{split}`` in it one for each split, as ``{split}/images``.
        masks: Folder of the masks in `root`, likewise; it may be that of the images, told apart by suffixes.
        mask_suffix: What a mask's name has after its image's name, for example `_mask`.
        image_suffix: What an image's name has after the name that both have in common, for example `_img`.
        labels: Class of labels in the masks, for example {255: 1} for masks of 0 and 255; 255 is
            `ignore_index`. Labels that are not named stay as they are.
        colors: RGB color of each class, for masks that show classes by color.
        void_colors: Colors that are set to `ignore_index`.
        objects: Folder in `root` of masks (8 or 16 bit) that number the objects of an image from 1 on, named as those
            in `masks`; an object has the class of most of its pixels. If it is `masks` itself, there is one class
            besides the background, and the masks need not say it.
        split_ratios: Relative size of each split, for example {train: 0.8, val: 0.1, test: 0.1}.
        split_seed: Seed of the division by `split_ratios`; of no effect with `sequence`.
        sequence: Whether neighbors in the order of names look alike, as slices and video frames do: splits by
            `split_ratios` and folds are then blocks of neighbors.
        stacks: Whether files are stacks, each of whose slices is a sample: the pages of a TIFF, the planes of a NIfTI
            file along its third axis, the frames of a DICOM file, a .npy along its first axis. The slices of a file
            belong together, as `groups` do, unless these say otherwise or `sequence` is set.
        groups: What images belong together (a patient, a video, a place) and must not be divided between splits by
            `split_ratios` or between folds: `folder` for the folder they lie in; a regular expression whose groups, or
            else whose whole match in the image's name, names the group, for example `patient[0-9]+`; or the column of
            a table in `root` whose first column names the images, for example `images.csv:patient`.
        **kwargs: As for every data set.

    Raises:
        UserError: If the arguments do not fit together.

    Examples:
        >>> settings = dict(split_ratios={"train": 1}, batch_size=1, crop_size=(8, 8))
        >>> data = Folder("cracks", ["background", "crack"], labels={255: 1}, **settings)
        >>> image, mask = data.read(data.samples("train")[0])
        >>> image.shape, mask.shape, np.unique(mask)
        ((8, 8, 3), (8, 8), array([0, 1], dtype=uint8))
    """

    def __init__(
        self,
        root: str,
        class_names: list[str],
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        image_suffix: str = "",
        labels: dict[int, int] | None = None,
        colors: list[Color] | None = None,
        void_colors: list[Color] | None = None,
        objects: str | None = None,
        split_ratios: dict[str, float] | None = None,
        split_seed: int = 0,
        sequence: bool = False,
        groups: str | None = None,
        stacks: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        check_classes(class_names)
        if colors is not None and len(colors) != len(class_names):
            raise UserError(f"There are {len(class_names)} class_names but {len(colors)} colors.")
        if colors is not None and labels is not None:
            raise UserError("Give labels for masks of numbers, or colors for masks of colors, not both.")
        if void_colors and not colors:
            raise UserError("void_colors belong to masks of colors; give the colors of the classes, too.")
        check_labels(labels or {}, len(class_names))
        check_colors(colors or (), void_colors or ())
        self.groups = None if groups is None else Groups(groups, self.root)
        self.class_names = tuple(class_names)
        self.palette = tuple((r, g, b) for r, g, b in colors) if colors else default_palette(len(class_names))
        self.divided = "{split}" in images  # one folder for each split
        if self.divided != ("{split}" in masks) and masks != "masks":
            raise UserError(f"images is {images} and masks {masks}: {{split}} stands in both, or in neither.")
        if self.divided and objects not in (None, masks):
            raise UserError("data.init_args.objects must be masks, or None, where {split} stands in masks.")
        self.image_pattern, self.mask_pattern = images, masks
        self.images, self.masks = (self.root / part.partition("{split}")[0] for part in (images, masks))
        self.image_suffix, self.mask_suffix = image_suffix, mask_suffix
        if images == masks and mask_suffix == image_suffix:
            raise UserError(
                f"images and masks are both in {images}, so their names must differ: say which end how, for example "
                "--data.init_args.mask_suffix=_mask."
            )
        self.table = label_table(labels) if labels else None
        self.color_mask = ColorMask(colors, void_colors or ()) if colors else None
        self.objects = None if objects is None else self.root / objects.partition("{split}")[0]
        if self.objects == self.masks and len(class_names) != 2:
            raise UserError(
                f"objects and masks are both {objects}, so the masks tell objects but no classes: there is one class "
                f"besides the background; class_names has {len(class_names)}."
            )
        self.split_ratios = split_ratios
        self.split_seed = split_seed
        self.sequence = sequence
        self.stacks = stacks
        if stacks and objects is not None:
            raise UserError(
                "data.init_args.objects are of single images: leave it out, or set stacks to false."
            )
        self.how_to_get = f"It should hold the folders {images}/ and {masks}/."

    def list_samples(self, split: str) -> Sequence[Pair]:
        """List (image, mask) of a split.

        Raises:
            UserError: If there is no such split, or an image and a mask have no partner.
        """
        if not self.images.is_dir():
            other = recognized(self.root, type(self).__name__)
            raise self.missing(self.images, f"{self.how_to_get} {other}".strip())
        if type(self)._pairs is Folder._pairs and not self.masks.is_dir():
            raise self.missing(self.masks, f"{self.how_to_get} {recognized(self.root)}".strip())
        if self.divided:
            folder = self.root / self.image_pattern.format(split=split)
            if not folder.is_dir():
                there = sorted(p.name for p in self.images.iterdir() if p.is_dir() and not is_hidden(p.name))
                raise UserError(
                    f"There is no split {split!r}: {folder} does not exist. Folders there: {there}."
                )
            return self._slices(self._pairs(folder.relative_to(self.images).as_posix()))
        listing = self.root / f"{split}.txt"
        if os.path.lexists(listing) and not listing.is_file():
            raise UserError(
                f"{listing} is no file but a folder or a link that leads nowhere. Mend or remove it."
            )
        if listing.is_file():
            return self._slices(self._listed(listing))
        if (self.images / split).is_dir():
            return self._slices(self._pairs(split))
        if self.split_ratios and split in self.split_ratios:
            pairs = self._slices(self._pairs())
            grouped = self.groups or (self.stacks and not self.sequence)
            groups = [self.group_of(pair) for pair in pairs] if grouped else None
            return divide(pairs, self.split_ratios, self.split_seed, groups, self.sequence)[split]
        no_share = f"split_ratios gives no share to {split!r}. " if self.split_ratios else ""
        raise UserError(
            f"There is no split {split!r} in {self.root}: no {split}.txt and no {self.images.name}/{split}/. "
            f"{no_share}Make one of them, or give split_ratios, for example "
            "--data.init_args.split_ratios='{train: 0.8, val: 0.1, test: 0.1}'."
        )

    def read(self, sample: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its mask."""
        if self.objects == self.masks:
            return self.image_and_mask(sample[0], (read_numbers(sample[1]) > 0).astype(np.uint8))
        if self.color_mask is None:
            return super().read(sample)
        return self.image_and_mask(sample[0], self.color_mask.read(sample[1]))

    def windows(self, sample: Pair) -> Windows | None:
        """Parts of a large sample, where they can be read alone."""
        if type(self).read is not Folder.read or self.color_mask or self.objects == self.masks:
            return None
        return windows_of(sample, self.pixels, self.table)

    def image_of(self, sample: Pair) -> Image:
        """Read an image alone, and where it has no data."""
        return read_with_void(sample[0], self.pixels)

    def read_instances(self, sample: Pair) -> Sample:
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
        assert isinstance(sample[1], Path)
        path = self.objects / sample[1].relative_to(self.masks)
        numbers = read_numbers(path)
        if not numbers.shape == classes.shape == image.shape[:2]:
            raise UserError(f"{path}, its image and its mask of classes differ in size.")
        masks = masks_of_numbers(numbers)
        labels = np.array([np.bincount(classes[mask]).argmax() for mask in masks], np.int64)
        counted = (labels > 0) & (labels < IGNORE_INDEX)
        return instance_sample(image, masks[counted], labels[counted].tolist())

    def read_overlapping(self, sample: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and a mask for each class: of its objects, of maps (K, H, W) in a .npy, or of its classes."""
        if self.objects is not None:
            return super().read_overlapping(sample)
        if isinstance(sample[1], Path) and (maps := read_maps(sample[1], self.class_names[1:])) is not None:
            return self.image_and_mask(sample[0], maps if self.table is None else self.table[maps])
        image, mask = self.read(sample)
        return image, of_classes(mask, self.num_classes)

    def name_of(self, sample: Pair) -> str:
        """Name a sample by its image's place in the folder, without ending, and the number of its slice."""
        file = file_of(sample[0])
        assert file is not None
        name = without_ending(file.relative_to(self.images)).as_posix()
        return f"{name}/{sample[0].index:04}" if isinstance(sample[0], Slice) else name

    def group_of(self, sample: Pair) -> str | None:
        """Name the group of a sample; see `groups`."""
        name = self.name_of(sample)
        if self.groups is None and isinstance(sample[0], Slice) and not self.sequence:
            return str(sample[0].path)
        return None if self.groups is None else self.groups.of(name)

    def _pairs(self, part: str = "") -> list[tuple[Path, Path]]:
        """Pair all images and masks, or those below a subfolder."""
        images, masks = self._images_there(part), by_name(self.masks, part, self.mask_suffix)
        if self.divided:  # names count from the folder of the split, and begin with that of the images
            split = part.removesuffix(self.image_pattern.partition("{split}")[2]).strip("/")
            folder = self.root / self.mask_pattern.format(split=split)
            masks = {f"{part}/{name}": path for name, path in by_name(folder, "", self.mask_suffix).items()}
        alone = {
            str(images[name]): f"no mask in {self.masks}" for name in sorted(images.keys() - masks.keys())
        }
        alone |= {
            str(masks[name]): f"no image in {self.images}" for name in sorted(masks.keys() - images.keys())
        }
        if alone:
            first = "".join(f"  {file}: {lack}\n" for file, lack in [*alone.items()][:5])
            hint = _suffix_hint(images, by_name(self.masks, part), self.mask_suffix)
            raise Unpaired(
                f"{len(alone)} files have no partner:\n{first}Images and masks are paired by name (mask_suffix is "
                f"{self.mask_suffix!r}). {hint}Move away what has no partner; 'lightning-seg check-data' lists all.",
                alone,
            )
        return [(images[name], masks[name]) for name in self._order(images)]

    def _images_there(self, part: str = "") -> dict[str, Path]:
        """Find all images, or those below a subfolder; of masks in the same folder their suffix tells them apart."""
        found = by_name(self.images, part, self.image_suffix)
        if self.image_pattern == self.mask_pattern and not self.image_suffix:
            found = {name: path for name, path in found.items() if not name.endswith(self.mask_suffix)}
        return found

    def _order(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=natural_order) if self.sequence else sorted(names)

    def _slices(self, pairs: Sequence[tuple[Path, Path]]) -> list[Pair]:
        """Take stacks apart, if they are stacks."""
        if not self.stacks:
            return [*pairs]
        found: list[Pair] = []
        for image, mask in pairs:
            count, other = count_slices(image), count_slices(mask)
            if count != other:
                raise UserError(f"{image} has {count} slices, but its mask {mask} has {other}.")
            found += [(Slice(image, i), Slice(mask, i)) for i in range(count)]
        return found

    def _listed(self, listing: Path) -> list[tuple[Path, Path]]:
        """Find the files that a list names."""
        images = Names(self._images_there(), self.images, self.root)
        masks = Names(by_name(self.masks), self.masks, self.root)
        try:
            return listed_pairs(listing, images, masks, by_name(self.masks, suffix=self.mask_suffix))
        except Unpaired as error:
            raise Unpaired(
                f"{error} {_suffix_hint(images.files, masks.files, self.mask_suffix)}".strip(), error.files
            ) from None


def _suffix_hint(images: Mapping[str, Path], masks: Mapping[str, Path], given: str) -> str:
    """Name the `mask_suffix` by which every image would have a mask, if there is one."""
    first = next(iter(images))
    suffixes = {name.removeprefix(first) for name in masks if name.startswith(first)} - {given}
    fitting = [suffix for suffix in suffixes if all(name + suffix in masks for name in images)]
    return f"With --data.init_args.mask_suffix={fitting[0]!r} all images have masks. " if fitting else ""
