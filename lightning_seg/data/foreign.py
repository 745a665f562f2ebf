"""Data modules and loaders of other people, used as they are: their items become samples, batches become ours."""

import inspect
import pkgutil
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import default_palette
from lightning_seg.data.dataset import Split
from lightning_seg.data.loading import FILLER, Loader, seed_of, seeded
from lightning_seg.data.transforms.batch import Batch, Item
from lightning_seg.errors import UserError

_IMAGES = ("image", "images", "img", "pixel_values", "input", "inputs", "x", "data")
_MASKS = ("mask", "masks", "label", "labels", "target", "targets", "segmentation", "semantic", "seg", "y")
_SPLITS = ("train", "val", "test")


class ForeignData(SegmentationData):
    """A LightningDataModule, or a function that makes DataLoaders, of somebody else's.

    A YAML names it itself, and beside it what else there is to say:

        data:
          class_path: mydata.MyDataModule
          init_args: {folder: /data/mine, batch_size: 8}
          class_names: [background, cup]

    An item is a pair of image and mask, or a dictionary of them. Images are (C, H, W) or (H, W, C), of 1 or 3 channels:
    ``uint8``, or real numbers in 0..1, or normalized by the `mean` and `std` that are stated; they are rounded to 8
    bits. Masks are (H, W) class numbers. The batches are made here of the loader's data set: so each image is scored
    once on any number of processes, and a run can be resumed and compared image by image. Where the training loader has
    a sampler or a `collate_fn` of its own it is used as it is, on one process, and its order is not resumed.

    Args:
        module: The data module, a function that returns loaders for training, validation and perhaps test, or the class
            path of one.
        arguments: Those of a module that is given by its class path.
        class_names: The classes in label order; unless given the module's `class_names` or `classes`.
        palette: A color (r, g, b) of each class, in 0..255.
        ignore_index: Label of the pixels that do not count.
        mean: Mean of each channel, in 0..1, that was subtracted from the images.
        std: Standard deviation of each channel, likewise.
        test_split: Split of the final score; ``val`` where there is no loader for a test.
        predict_folder: Folder of images, one image, or a list of images, for the `predict` command.
        instances: Set by the task; objects are not known.

    Raises:
        UserError: The classes are not known, or the module does not give what is needed.
    """

    def __init__(
        self,
        module: Any,
        arguments: dict[str, Any] | None = None,
        class_names: list[str] | None = None,
        palette: list[tuple[int, int, int]] | None = None,
        ignore_index: int = IGNORE_INDEX,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        test_split: str = "test",
        predict_folder: list[str] | str | None = None,
        instances: bool = False,
    ) -> None:
        given: dict[str, Any] = {"test_split": test_split, "predict_folder": predict_folder}
        super().__init__(root=".", batch_size=1, crop_size=(1, 1), hflip=0, instances=instances, **given)
        self.path = module if isinstance(module, str) else type(module).__name__
        made = pkgutil.resolve_name(module) if isinstance(module, str) else module
        if isinstance(module, str) or inspect.isfunction(made):
            made = made(**arguments or {})
        self.arguments = arguments or {}
        self._module = made
        names = class_names or getattr(made, "class_names", None) or getattr(made, "classes", None)
        if not names or isinstance(names, int):
            raise UserError(
                f"data: {self.path} does not say its classes: state class_names beside class_path."
            )
        self.class_names = tuple(map(str, names))
        colors = palette or default_palette(len(self.class_names))
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in colors)
        self.void = ignore_index
        self.mean, self.std = mean, std
        self._loaders: dict[str, DataLoader[object]] = {}

    def list_samples(self, split: str) -> list[tuple[str, int]]:
        """List the positions in the loader's data set.

        Raises:
            UserError: There is no loader for this split, or its data set has no length or no items by number.
        """
        if not self._loaders:
            self._load()
        if split not in self._loaders:
            raise self.unknown(split, self._loaders)
        return [(split, i) for i in range(len(self._dataset(split)))]

    def read(self, sample: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Read an item: image (H, W, 3) and mask (H, W), both ``uint8``."""
        return self.item(*sample, 0)

    def name_of(self, sample: tuple[str, int]) -> str:
        """Name an item by its position."""
        return f"{sample[0]}-{sample[1]:05d}"

    def item(self, split: str, index: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an item; what the data set draws at random follows from seed, epoch and position.

        Raises:
            UserError: It is no pair of image and mask.
        """
        with _all_seeded(self.run_seed, epoch, index):
            image, mask = self._pair(self._dataset(split)[index])
        return self._image(image), self._mask(mask)

    def train_dataloader(self) -> "Loader | _Batches":  # type: ignore[override]
        """Load batches of the training loader's data set, or those of the loader where it has its own ways."""
        loader = self._loaders[self.train_split]
        ways = _own_ways(loader)
        if not ways:
            return self._loader(_Items(self, self.train_split, train=True), self.batch_size)
        if self.trainer is not None and self.trainer.world_size > 1:
            raise UserError(
                f"data: the training loader of {self.path} has {ways} of its own, and would give every process the same"
                " batches: train on one device, or leave it to this package."
            )
        rank_zero_info(
            f"data     the training loader of {self.path} has {ways} of its own: its order is not that of the seed, and"
            " a run that is resumed does not go on with the same images"
        )
        return _Batches(loader, self)

    def val_dataloader(self) -> Loader:
        """Load the validation loader's data set in order."""
        return self._loader(_Items(self, self.val_split), self.eval_batch_size)

    def test_dataloader(self) -> Loader:
        """Load the test loader's data set in order."""
        return self._loader(_Items(self, self.test_split), self.eval_batch_size)

    def convert(self, batch: object) -> Batch:
        """Turn a batch of the loader into "image" (B, 3, H, W) and "mask" (B, H, W), both ``uint8``, and "index"."""
        images, masks = self._pair(batch)
        pairs = [(self._image(image), self._mask(mask)) for image, mask in zip(images, masks, strict=True)]
        image = torch.stack([torch.from_numpy(pixels) for pixels, _ in pairs]).permute(0, 3, 1, 2)
        mask = torch.stack([torch.from_numpy(labels) for _, labels in pairs])
        return {"image": image, "mask": mask, "index": torch.full((len(image),), FILLER)}

    def _load(self) -> None:
        made = self._module
        if isinstance(made, L.LightningDataModule):
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                made.prepare_data()
            made.setup("fit")
            if _overrides(made, "test_dataloader"):
                made.setup("test")
            found = {
                split: getattr(made, f"{split}_dataloader")()
                for split in _SPLITS
                if _overrides(made, f"{split}_dataloader")
            }
        elif isinstance(made, Mapping):
            found = dict(made)
        else:
            parts = made if isinstance(made, list | tuple) else [made]
            found = dict(zip(_SPLITS, parts, strict=False))
        for split, loader in found.items():
            loader = loader[0] if isinstance(loader, list | tuple) and len(loader) == 1 else loader
            if not isinstance(loader, DataLoader):
                raise UserError(
                    f"data: {self.path} gives a {type(loader).__name__} for {split}, not one DataLoader."
                )
            if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
                raise UserError(
                    f"data: the data set for {split} of {self.path} is a stream, without a length and items by number:"
                    " its images could neither be scored once each nor shown again. Give it __len__ and __getitem__."
                )
            self._loaders[split] = loader
        train, val = (self._loaders.get(split) for split in (self.train_split, self.val_split))
        if train is None or val is None:
            raise UserError(
                f"data: {self.path} must give loaders for training and validation; it gives {[*found]}."
            )
        self.batch_size, self.eval_batch_size = train.batch_size or _size_of(train), val.batch_size or 1
        self.num_workers = train.num_workers
        height, width = self.item(self.train_split, 0, 0)[1].shape
        self.crop_size = (height, width)

    def _dataset(self, split: str) -> Sequence[object]:
        return cast(Sequence[object], self._loaders[split].dataset)

    def _pair(self, item: object) -> tuple[Any, Any]:
        if isinstance(item, Mapping):
            image = next((item[key] for key in _IMAGES if key in item), None)
            mask = next((item[key] for key in _MASKS if key in item), None)
        elif isinstance(item, list | tuple) and len(item) >= 2:
            image, mask = item[0], item[1]
        else:
            image = mask = None
        if image is None or mask is None:
            given = (
                f"a dictionary of {', '.join(map(str, item))}"
                if isinstance(item, Mapping)
                else type(item).__name__
            )
            raise UserError(
                f"data: an item of {self.path} must be a pair (image, mask), or a dictionary with image (or img, x,"
                f" pixel_values) and mask (or label, target, y); it is {given}."
            )
        return image, mask

    def _image(self, image: object) -> np.ndarray:
        pixels = torch.as_tensor(np.asarray(image) if not isinstance(image, torch.Tensor) else image)
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.ndim == 3 and pixels.shape[0] not in (1, 3) and pixels.shape[-1] in (1, 3):
            pixels = pixels.permute(2, 0, 1)
        if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            raise UserError(
                f"data: an image of {self.path} is {tuple(pixels.shape)}, not of 1 or 3 channels."
            )
        if pixels.dtype != torch.uint8:
            pixels = self._in_255(pixels)
        return np.ascontiguousarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())

    def _in_255(self, pixels: torch.Tensor) -> torch.Tensor:
        if not pixels.is_floating_point():
            raise UserError(
                f"data: an image of {self.path} is {pixels.dtype}: give uint8, or real numbers in 0..1."
            )
        if self.mean is not None and self.std is not None:
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
            pixels = pixels * std + mean
        low, high = float(pixels.min()), float(pixels.max())
        if not (-0.01 <= low and high <= 1.01):
            raise UserError(
                f"data: an image of {self.path} has values from {low:.3g} to {high:.3g}, not 0..1. If it is normalized,"
                " state mean and std beside class_path; networks normalize by themselves. Else divide by its range."
            )
        return (pixels * 255).round().clamp(0, 255).to(torch.uint8)

    def _mask(self, mask: object) -> np.ndarray:
        labels = torch.as_tensor(np.asarray(mask) if not isinstance(mask, torch.Tensor) else mask)
        labels = labels.squeeze(0) if labels.ndim == 3 else labels
        if labels.is_floating_point() and bool((labels == labels.round()).all()):
            labels = labels.long()
        if labels.ndim != 2 or labels.is_floating_point():
            raise UserError(
                f"data: a mask of {self.path} is {tuple(labels.shape)} {labels.dtype}, not (H, W) class numbers."
            )
        labels = torch.where(labels == self.void, IGNORE_INDEX, labels.long())
        if len(strange := labels[(labels < 0) | (labels > IGNORE_INDEX)]):
            label = int(strange[0])
            raise UserError(
                f"data: a mask of {self.path} has label {label}: if such pixels do not count, state"
                f" ignore_index: {label} beside class_path."
            )
        return np.ascontiguousarray(labels.to(torch.uint8).numpy())


class _Items(Split):
    """The items of a loader's data set as samples; they are augmented already."""

    data: ForeignData

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        split, position = self.samples[index]
        pixels, labels = self.data.item(split, position, epoch if self.train else 0)
        if (labels + 1).max() > self.data.num_classes:  # ignore_index, 255, wraps to 0
            raise UserError(
                f"data: {self.data.path} has the classes 0 to {self.data.num_classes - 1}, and item {index} the label"
                f" {labels[labels < IGNORE_INDEX].max()}. State all class_names, or the ignore_index."
            )
        image, mask = torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(labels)
        return {"image": image, "mask": mask, "index": index}


class _Batches:
    """The batches of a loader that has its own ways, converted."""

    def __init__(self, loader: DataLoader[object], data: ForeignData) -> None:
        self.loader, self.data = loader, data
        self.waiting = 0.0  # not measured

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.data.convert, iter(self.loader))


def _own_ways(loader: DataLoader[object]) -> str:
    """Say what a loader does that cannot be done for it: nothing if its order and its batches are the usual ones."""
    if not isinstance(loader.sampler, RandomSampler | SequentialSampler) or loader.batch_size is None:
        return "a sampler"
    return "" if loader.collate_fn is default_collate else "a collate_fn"


def _size_of(loader: DataLoader[object]) -> int:
    return int(getattr(loader.batch_sampler, "batch_size", 1))


def _overrides(module: L.LightningDataModule, name: str) -> bool:
    return getattr(type(module), name) is not getattr(L.LightningDataModule, name)


@contextmanager
def _all_seeded(*numbers: int) -> Iterator[None]:
    """Within the block the generators of torch, NumPy and Python follow from these numbers; afterwards as before."""
    with isolate_rng(include_cuda=False), seeded(*numbers):
        seed = seed_of(*numbers)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
