"""The base of every data set: augmentation, loaders, splits, reproducible samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import FunctionType
from typing import Literal, cast

import cv2
import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torchvision.transforms import v2

from lightning_seg.data.cache import cache_key, fingerprint, in_memory, on_disk
from lightning_seg.data.classes import check_classes
from lightning_seg.data.compact import compact
from lightning_seg.data.dataset import Split, read_pair
from lightning_seg.data.examination import refuse_faulty
from lightning_seg.data.folds import fold_of_each, readable
from lightning_seg.data.instances import CopyPaste
from lightning_seg.data.loaders import SplitLoaders
from lightning_seg.data.loading import keep_memory
from lightning_seg.data.measure import measure
from lightning_seg.data.pixels import MEAN, Measurement, Statistics, make_pixels
from lightning_seg.data.reader import SampleReader
from lightning_seg.data.settings import refuse_conflicts, refuse_senseless
from lightning_seg.data.shares import listed, refuse_too_few, share_of
from lightning_seg.data.transforms.batch import SampleKey
from lightning_seg.data.transforms.color import ColorJitter
from lightning_seg.data.transforms.geometry import RandomHorizontalFlip, RandomScaleCrop
from lightning_seg.data.transforms.mixing import Mix
from lightning_seg.data.volumes import parts_of
from lightning_seg.errors import UserError


class SegmentationData(SampleReader, SplitLoaders, ABC):
    """Base of all data sets for semantic segmentation.

    A data set states `class_names` and `palette` and implements `list_samples` (and, where its files are not
    an image and a mask of class numbers, `read`). Training images are augmented and cut to `crop_size`;
    evaluation sees every image at its original size, with its original mask.

    A batch is a dictionary: "image" (B, C, H, W), "mask" (B, H, W) ``uint8`` and "index" (B,), the position in the
    split. Images have the type and the values of the files, ``uint8``, ``uint16``, ``int16`` or ``float32``, which the
    network normalizes. In training with `color` they arrive on the device as ``float32``, of the same scale. With
    `instances` a batch has "targets" instead of "mask": for each image what `lightning_seg.data.instances` says; with
    `segments` what `lightning_seg.data.segments.batch_columns` says, beside "mask". With
    `overlapping` "mask" is (B, K, H, W), see `lightning_seg.data.overlapping`.

    Args:
        root: Folder of the data set.
        batch_size: Training images per step on each device.
        crop_size: Height and width that training images are cut to, in pixels.
        scale_range: Smallest and largest random magnification before cropping.
        large_scale_jitter: `scale_range` is relative to the magnification at which an image just fits into `crop_size`,
            not to the image itself; for images of very different sizes. Usual with a `scale_range` of [0.1, 2.0].
        hflip: Probability of mirroring left and right.
        color: Random brightness, contrast, saturation and hue; of bands that are not red, green and blue the first two
            only. None leaves the colors alone.
        transforms: Further torchvision v2 transforms, applied to the cut image and mask together. Whatever
            they fill in is set to `ignore_index` in the mask.
        mix: Mixes the samples of a batch: MixUp, CutMix or ClassMix of `lightning_seg.data.transforms.mixing`; with
            `instances` CopyPaste of `lightning_seg.data.instances`.
        train_split: Split to train on; `train+val` joins two, `val[:0.5]` is the first half of a list.
        val_split: Split that is scored after every epoch and chooses the best checkpoint.
        test_split: Split of the final score.
        predict_folder: Folder of images, one image, or a list of images, for the `predict` command.
        eval_batch_size: Images per step in evaluation and prediction.
        num_workers: Processes that prepare samples. None measures how long a sample takes and chooses.
        seed: Seed of order and augmentation. None takes the seed of the whole run (`seed_everything`).
        cache: Keep the decoded training and validation images in memory (`ram`) or in a memory-mapped file
            that all processes and runs share (`disk`).
        class_balanced_crops: Probability that a crop is placed around a pixel of a class drawn evenly from those in the
            image, so that rare classes are seen more often.
        fold: Cross-validation: train on `train_split` and `val_split` without this fold (from 0), score this fold.
        folds: Number of folds. Each class occurs about equally often in all of them; where neighbors look
            alike (slices of a stack, frames of a video), a fold is a block of neighbors instead.
        instances: Give objects, each with a mask of its own, instead of one mask of classes; the task sets it.
        segments: Give the segments of each image, too; the task sets it.
        overlapping: Give each class but the background a mask of its own; the task sets it.
        train_share: Share of the training images to train on, by class; a smaller share is part of a larger one.
        skip_unreadable: Read every file before training and leave out what is damaged, instead of stopping.
        value_range: Values in the files that are black and white, for images of more than 8 bits a channel, for example
            [0, 4095] for a camera of 12 bits; what lies outside is clipped. All levels in between are kept.
        bands: Bands of the files to read, in this order, counted from 0 or named as in the file: [3, 2, 1, 7]. None
            reads colors, and refuses files of other bands than gray or red, green and blue.
        normalization: Mean and deviation of each band: those of the `pretraining`, `measured` in the training split
            (and cached), or numbers, as {mean: [...], std: [...]}. `percentiles` has the 1st and 99th percentile of
            each band in the training split as black and white. None is `pretraining`, or `measured` for chosen
            `bands` without a `value_range`.
        rgb: Which three of the bands that are read are red, green and blue in pictures, counted from 0; the first three
            unless given.
        samples_per_image: How many crops of each training image an epoch has, for large images. Of a TIFF or .npy file
            of more than 16 megapixels a crop reads the part that it shows.

    Raises:
        UserError: If an argument makes no sense.

    Examples:
        >>> class Kitchen(SegmentationData):
        ...     class_names, palette = ("other", "cup"), ((0, 0, 0), (230, 25, 75))
        ...     def list_samples(self, split):
        ...         return [(i, i.with_suffix(".png")) for i in sorted((self.root / split).glob("*.jpg"))]
        >>> kitchen = Kitchen("data/kitchen", batch_size=8, crop_size=(256, 256))
    """

    palette: tuple[tuple[int, int, int], ...]
    things: tuple[int, ...] = ()  # the classes of which single objects are known; see `read_segments`
    sequence = False  # neighbors in the list look alike (slices, frames): folds are blocks of neighbors
    download = False
    how_to_get = ""  # one or two lines: where the data comes from and how it should lie on disk

    def __init__(
        self,
        root: str,
        batch_size: int,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float] = (0.5, 2.0),
        large_scale_jitter: bool = False,
        hflip: float = 0.5,
        color: ColorJitter | None = None,
        transforms: list[v2.Transform] | None = None,
        mix: Mix | CopyPaste | None = None,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        predict_folder: list[str] | str | None = None,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        seed: int | None = None,
        cache: Literal["none", "ram", "disk"] = "none",
        class_balanced_crops: float = 0.0,
        fold: int | None = None,
        folds: int = 5,
        instances: bool = False,
        segments: bool = False,
        overlapping: bool = False,
        train_share: float = 1.0,
        skip_unreadable: bool = False,
        value_range: tuple[float, float] | None = None,
        bands: list[int | str] | None = None,
        normalization: Literal["pretraining", "measured", "percentiles"] | Statistics | None = None,
        rgb: tuple[int, int, int] | None = None,
        samples_per_image: int = 1,
    ) -> None:
        super().__init__()
        refuse_senseless(locals())
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a small split on many processes
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.crop_size = (crop_size[0], crop_size[1])
        self.train_split = train_split
        self.val_split = val_split
        self.test_split = test_split
        self.predict_folder = predict_folder
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.color = color
        self.mix = mix
        self.cache = cache
        self.fold = fold
        self.folds = folds
        self.instances = instances
        self.segments = segments
        self.overlapping = overlapping
        self.train_share = train_share
        self.skip_unreadable = skip_unreadable
        self.pixels = make_pixels(bands, value_range, normalization, rgb)
        self.samples_per_image = samples_per_image
        if color is not None and (color.hue or color.saturation) and not self.pixels.has_hue:
            raise UserError(
                "data.init_args.color: only red, green and blue have a hue and a saturation. Set both to 0, or say "
                "that the three bands are these colors: data.init_args.rgb=[0,1,2]."
            )
        self._pool = dict.fromkeys(f"{train_split}+{val_split}".split("+"))  # what folds divide
        if fold is not None:
            self.val_split = self.test_split = f"fold {fold} of {folds}"
        self._samples: dict[str, Sequence[object]] = {}
        self._caches: dict[str, Sequence[tuple[np.ndarray, np.ndarray]]] = {}
        self._crop = partial(
            RandomScaleCrop,
            self.crop_size,
            scale_range,
            class_balanced_crops=class_balanced_crops,
            large_scale_jitter=large_scale_jitter,
        )
        self._flip = RandomHorizontalFlip(hflip)
        if instances and not self.knows_objects:
            raise self.no_instances()
        refuse_conflicts(mix, cache, instances, segments, overlapping)
        self.transforms = transforms or []
        self._general = frozenset(vars(self))

    # What a data set states

    @abstractmethod
    def list_samples(self, split: str) -> Sequence[SampleKey]:
        """List all samples of a split, usually pairs (image path, mask path), always in the same order.

        Raises:
            UserError: If the split does not exist; see `missing`.
        """

    def name_of(self, sample: SampleKey) -> str:
        """Name a sample for people: by default its image's file name without ending, or the sample as it is."""
        first = parts_of(sample)[0]
        return Path(first).stem if isinstance(first, str | Path) else str(sample)

    def group_of(self, sample: SampleKey) -> str | None:
        """Name what a sample belongs to that must not be divided between folds, such as a patient; None for nothing."""
        return None

    def __getstate__(self) -> dict[str, object]:  # workers that are not forked get a copy
        return {**vars(self), "trainer": None, "_caches": {}}

    def fetch(self) -> None:
        """Download what is missing; for data sets that have the argument `download`."""

    # What everybody may ask

    def samples(self, split: str) -> Sequence[SampleKey]:
        """The samples of a split; the "index" of a batch is a position in this list.

        Raises:
            UserError: If the split does not exist.
        """
        if split not in self._samples:
            if self.fold is not None and split in (self.train_split, self.val_split):
                self._divide(self.fold)
            else:
                parts = [listed(self.list_samples, part) for part in split.split("+")]
                whole = parts[0] if len(parts) == 1 else [sample for part in parts for sample in part]
                if len(parts) > 1 and len(once := {repr(sample): sample for sample in whole}) < len(whole):
                    raise UserError(
                        f"{len(whole) - len(once)} samples of the split {split!r} are in more than one of its parts, "
                        "and would count twice. Name parts that do not overlap."
                    )
                self._keep(split, self._kept(whole))
        return self._samples[split]

    def _divide(self, fold: int) -> None:
        """Make the training and the validation split of a fold; both may come from the training split alone."""
        found: dict[str, object] = {}  # each sample once
        for split in self._pool:
            try:
                found |= {repr(sample): sample for sample in listed(self.list_samples, split)}
            except UserError:
                if split in self.train_split.split("+"):
                    raise
        samples = self._kept(list(found.values()))
        arguments = [self.group_of(sample) for sample in samples], self.sequence, self._key(samples)
        held_out = fold_of_each(samples, self.folds, self.read_labels, *arguments) == fold
        for split, wanted in ((self.train_split, ~held_out), (self.val_split, held_out)):
            self._keep(split, [sample for sample, take in zip(samples, wanted, strict=True) if take])

    def _keep(self, split: str, samples: Sequence[object]) -> None:
        if split == self.train_split and self.train_share < 1:
            groups = [*map(self.group_of, samples)]
            samples = share_of(samples, self.train_share, self.read_labels, groups, self._key(samples))
        self._samples[split] = compact(samples)

    def _key(self, samples: Sequence[object]) -> Callable[[], str]:
        return partial(cache_key, self, "overlapping" if self.overlapping else "labels", samples)

    def _kept(self, samples: Sequence[object]) -> Sequence[object]:
        return readable(self.read_labels, samples) if self.skip_unreadable else samples

    def cached(self, split: str) -> Sequence[tuple[np.ndarray, np.ndarray]] | None:
        """The decoded samples of a split, if they are kept; see the argument `cache`."""
        if self.cache == "none" or split not in (self.train_split, self.val_split):
            return None
        if split not in self._caches:
            samples, title = self.samples(split), f"Caching {type(self).__name__} ({split})"
            read = partial(read_pair, self)
            if self.cache == "ram":
                self._caches[split] = in_memory(read, samples, title)
            else:
                self._caches[split] = on_disk(read, samples, cache_key(self, split, samples), title)
        return self._caches[split]

    @property
    def num_outputs(self) -> int:
        """Number of logits of a pixel: one a class, where classes may overlap without that of the background."""
        return self.num_classes - self.overlapping

    @property
    def reading_settings(self) -> dict[str, object]:
        """The settings that decide what `read` gives: those that a subclass adds to the ones of every data set."""
        return {"bands": self.pixels.bands} | {
            name: value
            for name, value in vars(self).items()
            if not (name.startswith("_") or name in self._general)
            and not isinstance(getattr(type(self), name, None), cached_property | FunctionType)
        }

    @property
    def num_channels(self) -> int:
        """Number of channels of an image, which the network must take."""
        return self.pixels.count

    @cached_property
    def measurement(self) -> Measurement | None:
        """Statistics of the training split, where the normalization needs them; measured once, then cached."""
        return measure(self) if self.pixels.is_measured else None

    @cached_property
    def geometry(self) -> tuple[RandomScaleCrop, RandomHorizontalFlip]:
        """Random crop, scale and flip of the training images; where a crop reaches over the image it gets the mean."""
        if self.pixels.bands is None and not self.pixels.takes_any_values:
            return self._crop(), self._flip
        mean = self.pixels.scaling(MEAN, MEAN, self.measurement).mean
        return self._crop(fill=tuple(round(value) for value in mean)), self._flip

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the names and sizes of all files in the three splits: equal data, equal fingerprint."""
        splits = (self.train_split, self.val_split, self.test_split)
        return fingerprint(self.root, {s: self.samples(s) if self._exists(s) else [] for s in splits})

    def missing(self, path: Path, how_to_get: str = "") -> UserError:
        """Make the error for a file or folder that is not where it should be."""
        return UserError(
            f"{type(self).__name__}: {path} does not exist.\n{how_to_get or self.how_to_get}\n"
            f"Then point to it with --data.init_args.root=FOLDER (now {self.root})."
        )

    def unknown(self, split: str, known: Iterable[str]) -> UserError:
        """Make the error for a split that the data set does not have."""
        return UserError(f"{type(self).__name__} has no split {split!r}. It has: {', '.join(known)}.")

    # What Lightning calls

    def prepare_data(self) -> None:
        """Download the data set if asked to, in one process of each machine."""
        predicting = self.trainer is not None and self.trainer.predicting  # needs other images
        if self.download and not predicting:
            self.fetch()
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self.measurement  # noqa: B018  (the other processes of this machine find it in the cache)

    def setup(self, stage: str | None = None) -> None:
        """Look for the files that this stage needs.

        Training also looks for the test split and at a few samples of every split, so that no run finds out
        hours later that something is missing or wrong.

        Raises:
            UserError: If files are missing, or masks and classes do not fit.
        """
        check_classes(self.class_names)
        cv2.setNumThreads(0)  # its threads do not survive the fork into workers, and gain nothing on crops
        keep_memory()
        if stage in ("fit", None):
            train = self._split(self.train_split, train=True)
            world_size = self.trainer.world_size if self.trainer else 1
            refuse_too_few(self.train_split, len(train), self.batch_size, world_size, self.train_share)
            self._split(self.val_split)
            if not self._exists(self.test_split):
                rank_zero_warn(
                    f"{type(self).__name__} has no split {self.test_split!r} here: the test at the end will "
                    f"score {self.val_split!r}, which has chosen the checkpoint. "
                    f"Say so yourself with --data.init_args.test_split={self.val_split}."
                )
                self.test_split = self.val_split
            refuse_faulty(self)
        elif stage == "validate":
            self._split(self.val_split)
        elif stage == "test":
            try:
                self._split(self.test_split)
            except UserError as error:
                if self.test_split == self.val_split or not self._exists(self.val_split):
                    raise
                raise UserError(
                    f"{error}\nTo score {self.val_split!r}: --data.init_args.test_split={self.val_split}"
                ) from None
        elif self.predict_folder is None:
            raise UserError("Which images should be predicted? Say --data.init_args.predict_folder=FOLDER.")

    def _exists(self, split: str) -> bool:
        try:
            return len(self.samples(split)) > 0
        except UserError:
            return False

    def _split(self, name: str, train: bool = False) -> Split:
        """Make the data set of a split."""
        return Split(self, name, train=train)


def data_of(trainer: L.Trainer) -> SegmentationData:
    """Return the data module that a trainer was given; Lightning's trainer has it, but its types do not say so."""
    return cast(SegmentationData, trainer.datamodule)  # type: ignore[attr-defined]
