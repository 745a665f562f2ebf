"""Images annotated with CVAT: one XML file for all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lightning_seg.data.datasets.annotated import Annotated, by_file_name
from lightning_seg.data.files import by_name
from lightning_seg.data.regions import Region, box, polygon, refuse_other_size
from lightning_seg.errors import UserError

_AREAS = {"polygon", "mask"}


class CVAT(Annotated):
    """Images and the XML file of *CVAT for images 1.1* (https://docs.cvat.ai/docs/other/xml_format).

    Polygons and masks are read, those of a higher `z_order` over others; boxes, lines, points and ellipses are an error
    unless their label is one of `skip_labels`. Images that the file lists without a shape are background.

    Args:
        root: Folder of the data set.
        class_names: The background, then the labels of the shapes.
        file: The XML file in `root`.
        **kwargs: As for `Annotated`.

    Examples:
        >>> settings = dict(split_ratios={"train": 0.8, "val": 0.2}, batch_size=8, crop_size=(256, 256))
        >>> data = CVAT("pets", ["background", "cat", "dog"], **settings)
        >>> data.class_names
        ('background', 'cat', 'dog')
    """

    def __init__(
        self, root: str, class_names: list[str], file: str = "annotations.xml", **kwargs: Any
    ) -> None:
        super().__init__(root, class_names, **kwargs)
        self.file = self.root / file
        self._images: dict[str, ElementTree.Element] | None = None

    def sources(self, images: Mapping[str, Path]) -> Mapping[str, tuple[object, ...]]:
        """Find the entry of each image."""
        every = by_name(self.images, suffix=self.image_suffix)
        known = by_file_name([*self._entries()], every, str(self.file))
        return {name: (self.file, known[name]) for name in images if name in known}

    def regions(self, sample: tuple[Path, Path, str], size: tuple[int, int]) -> list[Region]:
        """Read the shapes of an image."""
        entry, where = self._entries()[sample[2]], f"{self.file}: image {sample[2]}"
        stated = tuple(entry.get(side) for side in ("height", "width"))
        numbers = tuple(int(side) if side and side.isdecimal() else None for side in stated)
        refuse_other_size(where, (numbers[0], numbers[1]), size, sample[0])
        found = []
        for place, shape in enumerate(entry, start=1):
            label = shape.get("label")
            if (
                shape.tag == "tag" or label is None or self.numbers.get(label) == -1
            ):  # a tag is of the whole image
                continue
            spot = f"{where}, shape {place}"
            if shape.tag not in _AREAS:
                raise self.no_area(spot, shape.tag, label)
            try:
                found.append(_region(shape, label, spot))
            except (TypeError, ValueError, AttributeError):
                raise UserError(f"{spot} is damaged: {dict(shape.attrib)}"[:300]) from None
        return found

    def _entries(self) -> dict[str, ElementTree.Element]:
        if self._images is None:
            try:
                tree = ElementTree.parse(self.file).getroot()
            except OSError as error:
                raise UserError(f"{self.file} cannot be read: {error.strerror}.") from None
            except ElementTree.ParseError as error:
                raise UserError(f"{self.file} is no XML, or cut off: {error}.") from None
            if tree.tag != "annotations" or tree.find("track") is not None:
                raise UserError(
                    f"{self.file} is not of 'CVAT for images 1.1' (of a video, or another format). Export that."
                )
            found: dict[str, ElementTree.Element] = {}
            for image in tree.iter("image"):
                if found.setdefault(name := image.get("name", ""), image) is not image:
                    raise UserError(f"{self.file} lists the image {name!r} twice.")
            self._images = found
        return self._images

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"_images": None}  # elements of a tree cannot be copied to workers


def _region(shape: ElementTree.Element, label: str, where: str) -> Region:
    level = int(shape.get("z_order", "0"))
    if shape.tag == "polygon":
        points = [float(value) for point in shape.get("points", "").split(";") for value in point.split(",")]
        return polygon(where, label, [points], level)
    top, left, height, width = (int(shape.get(side, "")) for side in ("top", "left", "height", "width"))
    counts = [
        int(count) for count in shape.get("rle", "").split(",")
    ]  # along the rows, first of what is outside
    if sum(counts) != height * width or min(counts) < 0:
        raise UserError(f"{where}: its run lengths cover {sum(counts)} pixels, its box {height}x{width}.")
    mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    return box(where, label, mask, (top, left), level)
