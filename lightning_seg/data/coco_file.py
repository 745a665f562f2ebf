"""Annotation files in COCO's format: what is certain is read, anything else is one error that names entry and image.

The format is that of https://cocodataset.org/#format-data. Files of other tools differ from it in small ways, of which
these are read: ids as text, polygons that are not nested or lists of points, run lengths compressed or not, entries
without `iscrowd`, `area`, `bbox` or `id`, images without `height` and `width`, a `bbox` or an `area` of null.
"""

import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from lightning_seg.data.coco_masks import decompress, paint
from lightning_seg.data.json_file import read_json
from lightning_seg.errors import UserError

Id = int | str
_ORIENTATION = 0x0112  # EXIF's tag
MOST_CLASSES = 254  # beside the background; masks have 8 bits, and 255 is `IGNORE_INDEX`


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
    segmentation: Any
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
        if not isinstance(self.segmentation, dict):
            self._check_place(size)
            return
        stated = tuple(self.segmentation["size"] or size)
        if stated != size:
            raise UserError(
                f"{self.where}: its run lengths are for {_pixels(stated)}, the image has {_pixels(size)}."
            )
        if (covered := sum(self.segmentation["counts"])) != size[0] * size[1]:
            raise UserError(
                f"{self.where}: its run lengths cover {covered} pixels, the image has {_pixels(size)}."
            )

    def _check_place(self, size: tuple[int, int]) -> None:
        """Refuse polygons that cannot be meant in pixels of the image."""
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in self.segmentation])
        low, high = points.min(0), points.max(0)
        limits = np.array(size[::-1])
        if (high <= 1).all() and (limits > 2).all():
            raise UserError(
                f"{self.where}: its polygons lie within one pixel. Are they fractions of the image?"
            )
        if (low > limits).any() or (high < 0).any() or (low < -limits).any() or (high > 2 * limits).any():
            raise UserError(
                f"{self.where}: its polygons reach from {low.tolist()} to {high.tolist()} (x, y), outside of the "
                f"image's {_pixels(size)}."
            )


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of the list.

    Attributes:
        where: File and image, for errors.
        name: Path of the image below the folder of images.
        size: Height and width; None if the file does not say.
        annotations: Of this image.
    """

    where: str
    name: str
    size: tuple[int, int] | None
    annotations: list[Annotation] = field(default_factory=list)

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
            turned = image.getexif().get(_ORIENTATION, 1)
        turned = turned if turned in range(2, 9) else 1
        stored = size[::-1] if turned >= 5 else size
        if self.size not in (None, size, stored):
            assert self.size is not None
            raise UserError(
                f"{self.where}: the JSON says {_pixels(self.size)}, the file has {_pixels(stored)}."
            )
        if turned == 1 or not self.annotations:
            return size, 1
        if self.size is None or stored == size:
            raise UserError(
                f"{self.where}: its EXIF orientation {turned} turns the image, and whether the annotations were made "
                "for the turned image is not known. Save it upright, without orientation."
            )
        return (size, 1) if self.size == size else (stored, turned)


@dataclass(frozen=True)
class CocoFile:
    """What a file holds.

    Attributes:
        path: The file.
        categories: Names by id, in the order of the ids. A category 0 that nothing uses is left out: it stands for
            the background, or for all others.
        images: By id, in the order of the ids.
    """

    path: Path
    categories: dict[Id, str]
    images: dict[Id, CocoImage]


def read_coco(path: Path) -> CocoFile:
    """Read a file of instances.

    Raises:
        UserError: Something in it is missing, stands there twice, or has no certain meaning.
    """
    contents = read_json(path)
    entries = _list(contents, "annotations", path)
    used = {_id(entry.get("category_id")) for entry in entries if isinstance(entry, dict)}
    categories = read_categories(contents, path, used)
    images = _images(contents, path)
    known: set[Id] = set()
    for place, entry in enumerate(entries):
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        where = f"{path}: annotation {place + 1 if number is None else number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is no mapping but {_quoted(entry)}.")
        if entry.get("id") is not None:
            if number is None:
                raise UserError(
                    f"{path}: annotation {place + 1} has the id {_quoted(entry['id'])}, no number or name."
                )
            if number in known:
                raise UserError(f"{path}: two annotations have the id {number!r}. Number them anew.")
            known.add(number)
        image = _id(entry.get("image_id"))
        if image is None or image not in images:
            raise UserError(f"{where} is of image {_quoted(entry.get('image_id'))}, which is not listed.")
        where = f"{where} of image {images[image].name}"
        category = _id(entry.get("category_id"))
        if category is None or category not in categories:
            raise UserError(
                f"{where} has the category {_quoted(entry.get('category_id'))}, which is not listed."
            )
        annotation = _annotation(entry, where, category)
        if (size := images[image].size) is not None:
            annotation.check(size)
        images[image].annotations.append(annotation)
    return CocoFile(path, categories, images)


def read_categories(contents: Mapping[str, Any], path: Path, used: set[Id | None]) -> dict[Id, str]:
    """Read names by id, in the order of the ids.

    Args:
        contents: What the file holds.
        path: The file, for errors.
        used: Ids that annotations have.

    Raises:
        UserError: One has no id or name, an id or a name stands there twice, or 0 is a class.
    """
    categories: dict[Id, str] = {}
    for entry in _list(contents, "categories", path):
        number, name = (_id(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if number is None or not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: a category needs an id and a name, this is {_quoted(entry)}.")
        if number in categories:
            raise UserError(
                f"{path}: categories {categories[number]!r} and {name!r} have the same id {number!r}."
            )
        categories[number] = name.strip()
    if 0 in categories and 0 in used:
        raise UserError(
            f"{path}: category 0, {categories[0]!r}, has annotations. COCO's categories begin at 1, and for many "
            "tools 0 is the background. Number the categories from 1."
        )
    categories.pop(0, None)
    ids = sorted(categories, key=lambda number: (isinstance(number, str), number))
    names: dict[str, Id] = {"background": "the background"}
    for number in ids:
        other = names.setdefault(categories[number], number)
        if other != number:
            raise UserError(
                f"{path}: category {number!r} is called {categories[number]!r}, and so is {other!r}."
            )
    if not 1 <= len(ids) <= MOST_CLASSES:
        raise UserError(f"{path} has {len(ids)} categories; 1 to {MOST_CLASSES} are expected.")
    return {number: categories[number] for number in ids}


def _images(contents: Mapping[str, Any], path: Path) -> dict[Id, CocoImage]:
    images: dict[Id, CocoImage] = {}
    owners: dict[str, Id] = {}
    for entry in _list(contents, "images", path):
        number, name = (
            (_id(entry.get("id")), entry.get("file_name")) if isinstance(entry, dict) else (None, None)
        )
        if number is None or not isinstance(name, str) or not name:
            raise UserError(f"{path}: an image needs an id and a file_name, this is {_quoted(entry)}.")
        name = posixpath.normpath(name)
        if number in images:
            raise UserError(f"{path}: images {images[number].name} and {name} have the same id {number!r}.")
        if name in owners:
            raise UserError(
                f"{path}: image {name} is listed twice, with the ids {owners[name]!r} and {number!r}."
            )
        owners[name] = number
        where = f"{path}: image {name}"
        stated = (entry.get("height"), entry.get("width"))
        size = None
        if stated != (None, None):
            height, width = map(_id, stated)
            if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
                raise UserError(
                    f"{where} has a height of {_quoted(stated[0])} and a width of {_quoted(stated[1])}."
                )
            size = (height, width)
        images[number] = CocoImage(where, name, size)
    if not images:
        raise UserError(f"{path} lists no images.")
    return dict(sorted(images.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _annotation(entry: Mapping[str, Any], where: str, category: Id) -> Annotation:
    is_crowd = entry.get("iscrowd")
    if is_crowd not in (None, 0, 1):
        raise UserError(f"{where}: iscrowd is {_quoted(is_crowd)}, neither 0 nor 1.")
    area = entry.get("area")
    if area is not None and not (_is_number(area) and area >= 0):
        raise UserError(f"{where}: area is {_quoted(area)}, no number of pixels.")
    box = entry.get("bbox")
    if box is not None and not (
        isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and min(box[2:]) >= 0
    ):
        raise UserError(f"{where}: bbox is {_quoted(box)}, not left, top, width and height.")
    segmentation = entry.get("segmentation")
    if not segmentation:
        has = "a box but " if box else ""
        raise UserError(
            f"{where} has {has}no segmentation. Leave it out, or give it polygons or run lengths."
        )
    segmentation = (
        _runs(segmentation, where) if isinstance(segmentation, dict) else _polygons(segmentation, where)
    )
    return Annotation(
        where, category, segmentation, bool(is_crowd), area or None, None if box is None else tuple(box)
    )


def _runs(segmentation: Mapping[str, Any], where: str) -> dict[str, Any]:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if isinstance(counts, str):
        try:
            counts = decompress(counts)
        except ValueError as error:
            raise UserError(f"{where}: its compressed run lengths are damaged: {error}.") from None
    if not (isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts)):
        raise UserError(f"{where}: its run lengths are no list of numbers and no text: {_quoted(counts)}.")
    if size is not None and not (
        isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    ):
        raise UserError(f"{where}: the size of its run lengths is {_quoted(size)}, not height and width.")
    return {"size": size, "counts": counts}


def _polygons(segmentation: Any, where: str) -> list[list[float]]:
    """Read polygons, one polygon that is not nested, or polygons of points [x, y]."""

    def wrong(what: Any, why: str) -> NoReturn:
        raise UserError(f"{where}: its polygon {_quoted(what)} {why}.")

    if not isinstance(segmentation, list):
        wrong(segmentation, "is no list")
    if not any(isinstance(part, list) for part in segmentation):
        segmentation = [segmentation]
    elif _is_points(segmentation):
        segmentation = [[value for point in segmentation for value in point]]
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list):
            wrong(polygon, "is no list of coordinates")
        if _is_points(polygon):
            polygon = [value for point in polygon for value in point]
        if not all(map(_is_number, polygon)):
            wrong(polygon, "holds something that is no number")
        if len(polygon) < 6 or len(polygon) % 2:
            wrong(polygon, f"has {len(polygon)} coordinates; three points are six")
        polygons.append(polygon)
    return polygons


def _is_points(part: Sequence[Any]) -> bool:
    """Whether all of a list are [x, y]."""
    return len(part) > 2 and all(
        isinstance(p, list) and len(p) == 2 and all(map(_is_number, p)) for p in part
    )


def _list(contents: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    found = contents.get(key)
    if not isinstance(found, list):
        raise UserError(
            f"{path} has no list of {key}; COCO's format is at https://cocodataset.org/#format-data."
        )
    return found


def _id(value: Any) -> Id | None:
    """Read an id: a whole number, also as text, or a name; None if it is neither."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and text.isascii() and str(int(text)) == text else text or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _quoted(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:60]} ..."


def _pixels(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]} pixels (height x width)"
