"""The base of data sets whose labels are the files of annotation tools."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.files import Unpaired, by_name, composed, is_image, without_ending
from lightning_seg.data.instances import instance_sample
from lightning_seg.data.lists import Names, read_names
from lightning_seg.data.pixels import Image
from lightning_seg.data.reader import with_void
from lightning_seg.data.recognized import recognized
from lightning_seg.data.regions import Painted, Region, classes_of, one_class, overlapping
from lightning_seg.data.transforms.batch import Sample, SampleKey
from lightning_seg.data.windows import Windows
from lightning_seg.errors import UserError

_OF_MASKS: dict[str, object] = {
    "masks": "masks", "mask_suffix": "", "labels": None, "colors": None, "void_colors": None, "objects": None,
    "stacks": False,
}  # fmt: skip


class Annotated(Folder):
    """Base of data sets of images and annotation files; a subclass finds the files and reads the regions in them.

    Splits are said as for `Folder`: by lists, folders or ratios. Regions become masks of one class a pixel (smaller
    over larger), masks of classes that overlap, or objects, as the task wants them.

    Args:
        root: Folder of the data set.
        class_names: The background, then the classes by the labels that the files have for them.
        void_labels: Labels whose regions are void (`ignore_index`), over everything else.
        skip_labels: Labels whose regions are left out.
        **kwargs: As for `Folder`, but those of masks.

    Raises:
        UserError: A setting of masks was given, or a label is in two of `class_names`, `void_labels` and `skip_labels`.

    Examples:
        >>> [kind.__name__ for kind in (COCOFormat, CVAT, LabelMe) if issubclass(kind, Annotated)]
        ['COCOFormat', 'CVAT', 'LabelMe']
    """

    def __init__(
        self,
        root: str,
        class_names: list[str],
        void_labels: list[str] | None = None,
        skip_labels: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        refused = [name for name, value in _OF_MASKS.items() if kwargs.get(name, value) != value]
        if refused:
            raise UserError(f"data.init_args.{refused[0]} is of masks; {type(self).__name__} has none.")
        super().__init__(root, class_names, **kwargs)
        self.how_to_get = f"The images should be in {self.image_pattern}/ (data.init_args.images)."
        self.numbers = {name: number for number, name in enumerate(class_names) if number > 0}
        for labels, number in ((void_labels, IGNORE_INDEX), (skip_labels, -1)):
            for label in labels or ():
                if self.numbers.setdefault(label, number) != number:
                    raise UserError(f"{label!r} is a class, or both in void_labels and skip_labels.")

    @abstractmethod
    def sources(self, images: Mapping[str, Path]) -> Mapping[str, tuple[object, ...]]:
        """Find what tells the regions of images, files first; images without it are unlabeled, which is an error.

        Args:
            images: The images by their names, paths below `images` without ending.
        """

    @abstractmethod
    def regions(self, sample: SampleKey, size: tuple[int, int]) -> list[Region]:
        """Read the regions of a sample, the image's path and its source.

        Args:
            sample: The sample.
            size: Height and width of the upright image.
        """

    def no_area(self, where: str, kind: str, label: str) -> UserError:
        """Make the error for a shape that has no pixels.

        Args:
            where: File and entry.
            kind: What the tool calls such shapes.
            label: The label that it has.
        """
        others = f", or leave its label out with --data.init_args.skip_labels=[{label!r}]"
        return UserError(
            f"{where} is of the kind {kind!r}, which has no area. Draw a polygon, or remove it in the annotation tool"
            f"{others if label not in self.class_names else ''}."
        )

    def read(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and paint its mask."""
        image, size, painted = self._painted(sample)
        return with_void(image, one_class(painted, size))

    def read_overlapping(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and paint a mask for each class."""
        image, size, painted = self._painted(sample)
        return with_void(image, overlapping(painted, size, self.num_classes))

    def read_instances(self, sample: SampleKey) -> Sample:
        """Read an image and its objects; void labels are none."""
        image, size, painted = self._painted(sample)
        kept = [one for one in painted if one[1] != IGNORE_INDEX]
        masks = np.array([mask for _, _, mask in kept], bool).reshape(-1, *size)
        numbers = [number for _, number, _ in kept]
        return instance_sample(image.values, masks, numbers, [region.crowd for region, _, _ in kept])

    def windows(self, sample: SampleKey) -> Windows | None:
        """Regions are painted for whole images."""
        return None

    def _painted(self, sample: SampleKey) -> tuple[Image, tuple[int, int], Painted]:
        """Read an image, its height and width, and its regions."""
        image = self.image_of(sample)
        size = image.values.shape[0], image.values.shape[1]
        return image, size, classes_of(self.regions(sample, size), self.numbers, size)

    def _pairs(self, part: str = "") -> list[SampleKey]:
        images = by_name(self.images, part, self.image_suffix)
        return self._samples_of(images, self._order(images))

    def _listed(self, listing: Path) -> list[SampleKey]:
        names = Names(by_name(self.images, suffix=self.image_suffix), self.images, self.root)
        found = {line: names.find(line) for line in read_names(listing)}
        missing = {line: f"no such file in {self.images}" for line, name in found.items() if name is None}
        if missing:
            first = next(iter(missing))
            raise Unpaired(
                f"{listing} names {len(missing)} files that are not there, first {first!r}.", missing
            )
        chosen = [name for name in found.values() if name is not None]
        if len({*chosen}) < len(chosen):
            twice = next(name for name in chosen if chosen.count(name) > 1)
            raise UserError(f"{listing} names {twice} twice.")
        return self._samples_of({name: names.files[name] for name in chosen}, chosen)

    def _samples_of(self, images: Mapping[str, Path], order: Sequence[str]) -> list[SampleKey]:
        sources = self.sources(images)
        alone = {str(images[name]): "no annotation" for name in order if name not in sources}
        if alone:
            raise Unpaired(
                f"{len(alone)} of {len(order)} images have no annotation of {type(self).__name__}, first "
                f"{next(iter(alone))}. Annotate them or move them away; 'lightning-seg check-data' lists all. "
                f"{recognized(self.root, type(self).__name__)}".rstrip(),
                alone,
            )
        return [(images[name], *sources[name]) for name in order]


def by_file_name(names: Sequence[str], images: Mapping[str, Path], where: str) -> dict[str, str]:
    """Find the image that each name in an annotation file means: that whose path ends as the name, or is its end.

    Args:
        names: What the file calls the images.
        images: All images there are by their names, not those of one split only: another one may be meant.
        where: The file, for errors.

    Returns:
        The name in the file, by that of the image; names of no image are left out.

    Raises:
        UserError: A name may mean several images, or two names mean one.
    """
    ends: dict[str, list[tuple[str, ...]]] = {}
    for image in images:
        parts = PurePosixPath(image).parts
        ends.setdefault(parts[-1], []).append(parts)
    found: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(composed(name.replace("\\", "/")).lstrip("/"))
        meant = (without_ending(path) if is_image(path) else path).parts
        fits = [one for one in ends.get(meant[-1] if meant else "", []) if _same_end(one, meant)]
        exact = [one for one in fits if one == meant]
        if len(fits := exact or fits) > 1:
            raise UserError(f"{where}: {name!r} may mean {' and '.join('/'.join(one) for one in fits[:2])}.")
        if fits and found.setdefault("/".join(fits[0]), name) != name:
            image = "/".join(fits[0])
            raise UserError(f"{where}: {found[image]!r} and {name!r} both mean the image {images[image]}.")
    return found


def _same_end(one: tuple[str, ...], two: tuple[str, ...]) -> bool:
    common = min(len(one), len(two))
    return one[-common:] == two[-common:]
