"""What a checked file in COCO's format holds, in arrays that all processes of a machine share."""

import json
from array import array
from bisect import bisect_left
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from lightning_seg.data.coco_masks import Segmentation, paint
from lightning_seg.data.compact import Rows, Store, TextWriter, pack_texts
from lightning_seg.data.containers import ORIENTATION
from lightning_seg.errors import UserError

Id = int | str
_HEADER = 9  # numbers before those of a segmentation: see `pack`


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object, or a crowd of them.

    Attributes:
        where: File, entry and image, for errors.
        category: Its category's id.
        segmentation: Polygons [[x, y, x, y, ...], ...] in pixels, or run lengths {"size": [H, W], "counts": [...]}.
        is_crowd: Whether it shows several objects at once.
        area: In pixels; None if the file does not say.
        box: Left, top, width and height in pixels; None if the file does not say.
    """

    where: str
    category: Id
    segmentation: Segmentation
    is_crowd: bool
    area: float | None
    box: tuple[float, ...] | None

    def paint(self, size: tuple[int, int]) -> np.ndarray:
        """Return the mask (H, W) ``bool``, pixel by pixel as COCO's own tools paint it.

        Args:
            size: Height and width that the annotation was made for.

        Raises:
            UserError: The segmentation is of another size.
        """
        self.check(size)
        return paint(self.segmentation, size)

    def check(self, size: tuple[int, int]) -> None:
        """Refuse a segmentation that was not made for an image of this height and width.

        Raises:
            UserError: As `paint`.
        """
        if isinstance(self.segmentation, list):
            refuse_misplaced(self.where, self.segmentation, size)
            return
        stated = tuple(self.segmentation["size"] or size)
        if stated != size:
            raise UserError(
                f"{self.where}: its run lengths are for {pixels(stated)}, the image has {pixels(size)}."
            )
        if (covered := sum(self.segmentation["counts"])) != size[0] * size[1]:
            raise UserError(
                f"{self.where}: its run lengths cover {covered} pixels, the image has {pixels(size)}."
            )


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of the list.

    Attributes:
        where: File and image, for errors.
        name: Path of the image below the folder of images.
        size: Height and width; None if the file does not say.
        annotations: Of this image; each is made anew when it is asked for.
    """

    where: str
    name: str
    size: tuple[int, int] | None
    annotations: Sequence[Annotation]

    def frame(self, path: Path, size: tuple[int, int]) -> tuple[tuple[int, int], int]:
        """Find out for which pixels the annotations were made: those of the file, or of the upright image.

        Args:
            path: The image.
            size: Its height and width, upright.

        Returns:
            Height and width to paint masks in, and the EXIF orientation that turns them upright (1 for none).

        Raises:
            UserError: The image has another size than the annotations say, or they do not say which way is up.
        """
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1)
        turned = turned if turned in range(2, 9) else 1
        stored = size[::-1] if turned >= 5 else size
        if self.size not in (None, size, stored):
            assert self.size is not None
            raise UserError(
                f"{self.where}: the JSON says {pixels(self.size)}, the file has {pixels(stored)}."
            )
        if turned == 1 or not self.annotations:
            return size, 1
        if self.size is None or stored == size:
            raise UserError(
                f"{self.where}: its EXIF orientation {turned} turns the image, and whether the annotations were made "
                "for the turned image is not known. Save it upright, without orientation."
            )
        return (size, 1) if self.size == size else (stored, turned)


class CocoImages(Mapping[Id, CocoImage]):
    """The images of a file by id, in the order of the ids.

    Args:
        path: The file.
        store: What `pack` made of it.
        categories: The ids of the categories, in the order that `pack` was given them.
    """

    def __init__(self, path: Path, store: Store, categories: Sequence[Id]) -> None:
        self.path = path
        self.categories = categories
        self._store = store
        self._open()

    def _open(self) -> None:
        self.names = self._store.texts("names")
        self._ids = self._store.texts("ids")
        self._labels = self._store.texts("labels")
        self._sizes, self._first = self._store["sizes"], self._store["first"]
        self._by_image = self._store["by_image"]
        self._starts, self._lengths = self._store["starts"], self._store["lengths"]

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Id]:
        return map(self.id_at, range(len(self)))

    def __getitem__(self, number: Id) -> CocoImage:
        row = bisect_left(self._ids, order(number), key=lambda text: order(json.loads(text)))
        if row == len(self) or self.id_at(row) != number:
            raise KeyError(number)
        return self.at(row)

    def items(self) -> ItemsView[Id, CocoImage]:
        """Ids and images; without looking for each id."""
        return _Items(self)

    def at(self, row: int) -> CocoImage:
        """The image at a place."""
        height, width = self._sizes[row].tolist()
        name = self.names[row]
        where = f"{self.path}: image {name}"
        return CocoImage(where, name, (height, width) if height else None, _Annotations(self, row))

    def __getstate__(self) -> dict[str, object]:  # workers that are not forked open the arrays again
        return {"path": self.path, "categories": self.categories, "_store": self._store}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        vars(self).update(state)
        self._open()

    def id_at(self, row: int) -> Id:
        """The id of an image by its place."""
        number: Id = json.loads(self._ids[row])
        return number

    def span(self, row: int) -> tuple[int, int]:
        """The first annotation of an image, and the one behind its last."""
        return int(self._first[row]), int(self._first[row + 1])

    def annotation(self, place: int, row: int) -> Annotation:
        """The annotation at a place of a span, which is of the image at a row."""
        place = int(self._by_image[place])
        record = self._store.values(int(self._starts[place]), int(self._lengths[place]))
        category, is_crowd, area = int(record[0]), bool(record[1]), float(record[2])
        box = None if np.isnan(record[3]) else tuple(record[3:7].tolist())
        kind, count = record[7:_HEADER].astype(int).tolist()
        segmentation: Segmentation
        if kind:
            height, width, *counts = record[_HEADER:].astype(np.int64).tolist()
            segmentation = {"size": [height, width] if height else None, "counts": counts}
        else:
            ends = record[_HEADER : _HEADER + count].astype(int).cumsum()[:-1]
            segmentation = [part.tolist() for part in np.split(record[_HEADER + count :], ends)]
        return Annotation(
            f"{self.path}: annotation {self._labels[place]} of image {self.names[row]}",
            self.categories[category],
            segmentation,
            is_crowd,
            None if np.isnan(area) else area,
            box,
        )


class _Items(ItemsView[Id, CocoImage]):
    def __init__(self, images: CocoImages) -> None:
        super().__init__(images)
        self._images = images

    def __iter__(self) -> Iterator[tuple[Id, CocoImage]]:
        return ((self._images.id_at(row), self._images.at(row)) for row in range(len(self._images)))


class _Annotations(Rows[Annotation]):
    def __init__(self, images: CocoImages, row: int) -> None:
        self._images, self._row = images, row

    def __len__(self) -> int:
        first, end = self._images.span(self._row)
        return end - first

    def at(self, row: int) -> Annotation:
        return self._images.annotation(self._images.span(self._row)[0] + row, self._row)


def pack(
    images: Mapping[Id, tuple[str, tuple[int, int] | None]],
    categories: Sequence[Id],
    annotations: Iterable[tuple[Id, str, Annotation]],
    values: BinaryIO,
) -> dict[str, np.ndarray]:
    """Put images and annotations into arrays; see `CocoImages`.

    The values of an annotation are the place of its category, whether it is a crowd, its area, its box, whether it has
    run lengths, the number of its polygons, and then the length of each polygon and all coordinates, or height, width
    and the run lengths. What the file does not say is nan, or 0 for a size.

    Args:
        images: Name and size by id, in the order of the ids.
        categories: The ids of the categories.
        annotations: Id of the image, a label for errors, and the annotation.
        values: Where the values are written.
    """
    row_of = {number: row for row, number in enumerate(images)}
    place_of = {number: place for place, number in enumerate(categories)}
    rows, lengths, labels = array("q"), array("q"), TextWriter()
    for number, label, entry in annotations:
        found = entry.segmentation
        parts: Sequence[Sequence[float]]
        if isinstance(found, list):
            lengths_of_parts, parts = [*map(len, found)], found
        else:
            lengths_of_parts, parts = [], [found["size"] or (0, 0), found["counts"]]
        area = np.nan if entry.area is None else entry.area
        record = array("d", [place_of[entry.category], entry.is_crowd, area, *(entry.box or [np.nan] * 4)])
        record.extend([not isinstance(found, list), len(lengths_of_parts), *lengths_of_parts])
        for part in parts:
            record.extend(part)
        values.write(record.tobytes())
        rows.append(row_of[number])
        lengths.append(len(record))
        labels.append(label)
    of_image, sizes = np.array(rows, np.int64), np.array(lengths, np.int64)
    by_image = of_image.argsort(kind="stable")
    texts = {
        "ids": pack_texts(map(json.dumps, images)),
        "names": pack_texts(name for name, _ in images.values()),
        "labels": labels.arrays(),
    }
    out = {
        "sizes": np.array([size or (0, 0) for _, size in images.values()], np.int64),
        "first": np.searchsorted(of_image[by_image], np.arange(len(images) + 1)),
        "by_image": by_image,
        "starts": np.cumsum(sizes) - sizes,
        "lengths": sizes,
    }
    for key, (letters, ends) in texts.items():
        out |= {key: letters, f"{key}.ends": ends}
    return out


def order(number: Id) -> tuple[bool, Id]:
    """Key that sorts ids: numbers before names."""
    return isinstance(number, str), number


def pixels(size: Sequence[int]) -> str:
    """Say a size in words."""
    return f"{size[0]}x{size[1]} pixels (height x width)"


def plain(numbers: Iterable[float]) -> list[float]:
    """Numbers for people, whole ones without a point."""
    return [int(number) if number == int(number) else float(number) for number in numbers]


def refuse_misplaced(where: str, polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> None:
    """Refuse polygons that cannot be meant in pixels of the image.

    Args:
        where: File and entry, for errors.
        polygons: The polygons [[x, y, x, y, ...], ...].
        size: Height and width of the image.

    Raises:
        UserError: They lie within one pixel, or outside of the image.
    """
    limits = size[::-1]
    low = [min(min(polygon[axis::2]) for polygon in polygons) for axis in (0, 1)]
    high = [max(max(polygon[axis::2]) for polygon in polygons) for axis in (0, 1)]
    if max(high) <= 1 and min(limits) > 2:
        raise UserError(f"{where}: its polygons lie within one pixel. Are they fractions of the image?")
    ends = zip(low, high, limits, strict=True)
    if any(first > end or last < 0 or first < -end or last > 2 * end for first, last, end in ends):
        raise UserError(
            f"{where}: its polygons reach from {plain(low)} to {plain(high)} (x, y), outside of the image's "
            f"{pixels(size)}."
        )
