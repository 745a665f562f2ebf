"""Further test sets: the test images spoiled, or the images of another data set with classes of the same names."""

import io
import zlib
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.segments import SegmentSample, number_segments
from lightning_seg.data.transforms.batch import Sample, SampleKey
from lightning_seg.errors import UserError

_SEVERITIES = (1, 2, 3, 4, 5)


class FurtherTest(SegmentationData):
    """Test images of a data set, under another protocol.

    Args:
        data: The data set; its test split is what is tested.
        facts: What the protocol says of it beside that of the data set.
    """

    def __init__(self, data: SegmentationData, facts: Mapping[str, object]) -> None:
        super().__init__(
            str(data.root),
            data.batch_size,
            data.crop_size,
            train_split=data.train_split,
            val_split=data.val_split,
            test_split=data.test_split,
            eval_batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
        )
        self.data = data
        self.facts = {"data": type(data).__name__, **facts}
        self.class_names, self.palette, self.sequence = data.class_names, data.palette, data.sequence
        self.pixels, self.things = data.pixels, data.things
        self.instances, self.segments, self.overlapping = data.instances, data.segments, data.overlapping

    @property
    def knows_objects(self) -> bool:
        """Whether the data set knows objects."""
        return self.data.knows_objects

    def list_samples(self, split: str) -> Sequence[SampleKey]:
        """List the samples of the data set."""
        return self.data.samples(split)

    def samples(self, split: str) -> Sequence[SampleKey]:
        """Return the samples of the data set."""
        return self.data.samples(split)

    def read(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read a sample of the data set."""
        return self.data.read(sample)

    def read_instances(self, sample: SampleKey) -> Sample:
        """Read a sample of the data set with its objects."""
        return self.data.read_instances(sample)

    def read_segments(self, sample: SampleKey) -> SegmentSample:
        """Read a sample of the data set with its segments."""
        return self.data.read_segments(sample)

    def read_overlapping(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read a sample of the data set with a mask for each class but the background."""
        return self.data.read_overlapping(sample)

    def category_id(self, label: int) -> int:
        """Return the number of a class in panoptic files as the data set does."""
        return self.data.category_id(label)

    def name_of(self, sample: SampleKey) -> str:
        """Name a sample as the data set does."""
        return self.data.name_of(sample)

    def group_of(self, sample: SampleKey) -> str | None:
        """Name what a sample belongs to as the data set does."""
        return self.data.group_of(sample)


class Corrupted(FurtherTest):
    """The test images of a data set, spoiled; the same image is always spoiled alike.

    Gaussian noise, defocus blur, fog (``weather``) and JPEG compression (``digital``), as strong as in ImageNet-C
    (arXiv:1903.12261), which was made for images of 224 pixels.

    Args:
        data: The data set.
        corruption: noise, blur, weather or digital.
        severity: 1 to 5.

    Raises:
        UserError: There is no such corruption or severity.
    """

    def __init__(self, data: SegmentationData, corruption: str, severity: int) -> None:
        check_corruption(corruption, severity)
        super().__init__(data, {"corruption": f"{corruption} {severity}"})
        self.corruption, self.severity = corruption, severity

    def read(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read a sample and spoil its image."""
        image, mask = self.data.read(sample)
        return self._spoiled(image, sample), mask

    def read_instances(self, sample: SampleKey) -> Sample:
        """Read a sample with its objects and spoil its image."""
        found = dict(self.data.read_instances(sample))
        image = self._spoiled(found["image"].permute(1, 2, 0).numpy(), sample)
        found["image"] = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
        return found

    def read_segments(self, sample: SampleKey) -> SegmentSample:
        """Read a sample with its segments and spoil its image."""
        found = self.data.read_segments(sample)
        return found._replace(image=self._spoiled(found.image, sample))

    def read_overlapping(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read a sample with masks that may overlap and spoil its image."""
        image, masks = self.data.read_overlapping(sample)
        return self._spoiled(image, sample), masks

    def _spoiled(self, image: np.ndarray, sample: SampleKey) -> np.ndarray:
        if image.dtype != np.uint8 or image.shape[-1] != 3:
            raise UserError(
                f"test_sets: corruptions are for images of 3 channels of 8 bits; {self.name_of(sample)} has"
                f" {image.shape[-1]} of {image.dtype}"
            )
        seed = zlib.crc32(self.name_of(sample).encode())
        return corrupt(image, self.corruption, self.severity, seed)


class SameClasses(FurtherTest):
    """The test images of another data set, its classes mapped by their names; what it has beyond them is ignored.

    Where classes may overlap each is scored by itself, and further ones have no map.

    Args:
        data: The other data set.
        class_names: The classes of the network.
        palette: Their colors.

    Raises:
        UserError: It lacks one of the classes; the task is about objects, and it has further classes; or its background
            is another, where the task has one.
    """

    def __init__(
        self, data: SegmentationData, class_names: tuple[str, ...], palette: tuple[tuple[int, int, int], ...]
    ) -> None:
        if missing := [name for name in class_names if name not in data.class_names]:
            raise UserError(
                f"test_sets: {type(data).__name__} has no class {', '.join(missing)}, so its score would not be that of"
                f" the same classes; it has {', '.join(data.class_names)}"
            )
        left = [name for name in data.class_names if name not in class_names]
        if data.instances and left:
            raise UserError(
                f"test_sets: {type(data).__name__} has objects of further classes, {', '.join(left)}, and objects"
                " cannot be ignored: leave the test set out, or its other objects"
            )
        if (data.instances or data.overlapping) and data.class_names[0] != class_names[0]:
            raise UserError(
                f"test_sets: class 0 of {type(data).__name__} must be the background, {class_names[0]}; it is"
                f" {data.class_names[0]}"
            )
        super().__init__(data, {"ignored_classes": left})
        self.class_names, self.palette = class_names, palette
        self.things = tuple(
            label for label, name in enumerate(class_names) if data.class_names.index(name) in data.things
        )
        self._to = np.full(256, IGNORE_INDEX, np.uint8)
        for label, name in enumerate(data.class_names):
            if name in class_names:
                self._to[label] = class_names.index(name)

    def read(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read a sample and map the classes of its mask."""
        image, mask = self.data.read(sample)
        return image, self._to[mask]

    def read_instances(self, sample: SampleKey) -> Sample:
        """Read a sample and map the classes of its objects."""
        found = dict(self.data.read_instances(sample))
        found["labels"] = torch.from_numpy(self._to)[found["labels"]].long()
        return found

    def read_segments(self, sample: SampleKey) -> SegmentSample:
        """Read a sample and map the classes of its segments; those of others are void."""
        image, numbers, classes, crowds = self.data.read_segments(sample)
        mapped = {number: int(self._to[label]) for number, label in enumerate(classes)}
        known = {number: label for number, label in mapped.items() if label != IGNORE_INDEX}
        return SegmentSample(image, *number_segments(numbers, known, crowds))

    def read_overlapping(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read a sample and put the maps of its classes in order."""
        image, masks = self.data.read_overlapping(sample)
        return image, np.ascontiguousarray(
            masks[..., [self.data.class_names.index(name) - 1 for name in self.class_names[1:]]]
        )

    def category_id(self, label: int) -> int:
        """Return the data set's number of a class."""
        return self.data.category_id(self.data.class_names.index(self.class_names[label]))


def check_corruption(corruption: object, severity: object) -> None:
    """Refuse what is no corruption.

    Args:
        corruption: One of `CORRUPTIONS`.
        severity: 1 to 5.

    Raises:
        UserError: There is no such corruption or severity.
    """
    whole = isinstance(severity, int) and not isinstance(severity, bool) and severity in _SEVERITIES
    if not (isinstance(corruption, str) and corruption in CORRUPTIONS and whole):
        raise UserError(
            f"test_sets: a corruption is one of {', '.join(CORRUPTIONS)}, with a severity from 1 to 5; got"
            f" {corruption!r} with {severity!r}"
        )


def corrupt(image: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """Spoil an image (H, W, 3) uint8.

    Args:
        image: The image.
        corruption: One of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of what is random.
    """
    spoil = CORRUPTIONS[corruption]
    return spoil(image, severity - 1, np.random.default_rng(seed))


def _noise(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[s]
    return _bytes(image / 255 + rng.normal(0, deviation, image.shape))


def _blur(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    radius, soft = (3, 4, 6, 8, 10)[s], (0.1, 0.5, 0.5, 0.5, 0.5)[s]
    size = 8 if radius <= 8 else 10
    x, y = np.meshgrid(*2 * [np.arange(-size, size + 1)])
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3) if radius <= 8 else (5, 5), soft)
    return _bytes(cv2.filter2D(image / 255, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _fog(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    strength, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[s]
    height, width = image.shape[:2]
    clouds = np.zeros((height, width))
    for octave in range(1, int(np.log2(max(height, width))) + 1):  # finer and weaker
        grid = rng.uniform(-1, 1, (2**octave + 1, 2**octave + 1))
        clouds += (
            np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), float)
            / decay**octave
        )
    clouds = (clouds - clouds.min()) / (np.ptp(clouds) or 1)
    x = image / 255
    brightest = x.max() or 1.0
    return _bytes((x + strength * clouds[..., None]) * brightest / (brightest + strength))


def _jpeg(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    quality = (25, 18, 15, 10, 7)[s]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def _bytes(x: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = (255 * np.clip(x, 0, 1)).round().astype(np.uint8)
    return rounded


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "weather": _fog,
    "digital": _jpeg,
}
