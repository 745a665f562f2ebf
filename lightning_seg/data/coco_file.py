"""Annotation files in COCO's format: what is certain is read, anything else is one error that names entry and image.

The format is that of https://cocodataset.org/#format-data. Files of other tools differ from it in small ways, of which
these are read: ids as text, polygons that are not nested or lists of points, run lengths compressed or not, entries
without `iscrowd`, `area`, `bbox` or `id`, images without `height` and `width`, a `bbox` or an `area` of null.
"""

import inspect
import json
import math
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeGuard

import numpy as np

from lightning_seg.data import coco_index, coco_masks, json_file
from lightning_seg.data.coco_index import Annotation, CocoImages, Id, order, pack
from lightning_seg.data.coco_masks import RunLengths, decompress
from lightning_seg.data.compact import pack_texts, store_if_large
from lightning_seg.data.json_file import Entries, read_entries
from lightning_seg.errors import UserError

MOST_CLASSES = 254  # beside the background; masks have 8 bits, and 255 is `IGNORE_INDEX`
_MOST_EXACT = 1 << 53  # above which not all whole numbers are numbers of 64 bits with a point


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
    images: CocoImages


def read_coco(path: Path) -> CocoFile:
    """Read a file of instances; of a large one what was found is kept in the cache, for all processes of a machine.

    Raises:
        UserError: Something in it is missing, stands there twice, or has no certain meaning.
    """
    code = [Path(__file__).read_text(), *map(inspect.getsource, (coco_index, coco_masks, json_file))]
    store = store_if_large(path, "".join(code), partial(_index, path))
    categories = dict(map(json.loads, store.texts("categories")))
    return CocoFile(path, categories, CocoImages(path, store, [*categories]))


def _index(path: Path, values: BinaryIO) -> dict[str, np.ndarray]:
    """Read and check a file whole; see `store_once`."""
    rows, entries = Entries(), Entries()
    contents = read_entries(path, {"images": rows, "annotations": entries})
    _list(contents, "annotations", path)
    used = {_id(entry.get("category_id")) for entry in entries if isinstance(entry, dict)}
    categories = read_categories(contents, path, used)
    _list(contents, "images", path)
    images = _images(rows, path)
    annotations = _annotations(_shown(entries, path), path, images, categories)
    named = [json.dumps([number, name]) for number, name in categories.items()]
    letters, ends = pack_texts(named)
    packed = pack(images, [*categories], annotations, values)
    return {**packed, "categories": letters, "categories.ends": ends}


def _shown(entries: Entries, path: Path) -> Iterable[object]:
    """The entries, with a progress bar if there are many."""
    if len(entries) < 50_000:
        return entries
    from rich.progress import track

    return track(entries, f"Indexing {path.name}, once", len(entries), transient=True)


def _annotations(
    entries: Iterable[object],
    path: Path,
    images: Mapping[Id, tuple[str, tuple[int, int] | None]],
    categories: Mapping[Id, str],
) -> Iterator[tuple[Id, str, Annotation]]:
    """Check entries, and read each as the id of its image, its name, and what it says."""
    known: set[Id] = set()
    for place, entry in enumerate(entries):
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        label = str(place + 1 if number is None else number)
        where = f"{path}: annotation {label}"
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
        name, size = images[image]
        where = f"{where} of image {name}"
        category = _id(entry.get("category_id"))
        if category is None or category not in categories:
            raise UserError(
                f"{where} has the category {_quoted(entry.get('category_id'))}, which is not listed."
            )
        annotation = _annotation(entry, where, category)
        if size is not None:
            annotation.check(size)
        yield image, label, annotation


def read_categories(contents: Mapping[str, object], path: Path, used: set[Id | None]) -> dict[Id, str]:
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
    ids = sorted(categories, key=order)
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


def _images(rows: Iterable[object], path: Path) -> dict[Id, tuple[str, tuple[int, int] | None]]:
    """Read names and sizes by id, in the order of the ids."""
    images: dict[Id, tuple[str, tuple[int, int] | None]] = {}
    owners: dict[str, Id] = {}
    for entry in rows:
        known = entry if isinstance(entry, dict) else {}
        number, name = _id(known.get("id")), known.get("file_name")
        if number is None or not isinstance(name, str) or not name:
            raise UserError(f"{path}: an image needs an id and a file_name, this is {_quoted(entry)}.")
        name = posixpath.normpath(name)
        if number in images:
            raise UserError(f"{path}: images {images[number][0]} and {name} have the same id {number!r}.")
        if name in owners:
            raise UserError(
                f"{path}: image {name} is listed twice, with the ids {owners[name]!r} and {number!r}."
            )
        owners[name] = number
        stated = known.get("height"), known.get("width")
        size = None
        if stated != (None, None):
            height, width = map(_id, stated)
            if not all(isinstance(side, int) and 0 < side < _MOST_EXACT for side in (height, width)):
                raise UserError(
                    f"{path}: image {name} has a height of {_quoted(stated[0])} and a width of {_quoted(stated[1])}."
                )
            size = (int(height or 0), int(width or 0))
        images[number] = (name, size)
    if not images:
        raise UserError(f"{path} lists no images.")
    return dict(sorted(images.items(), key=lambda item: order(item[0])))


def _annotation(entry: Mapping[str, object], where: str, category: Id) -> Annotation:
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


def _runs(segmentation: Mapping[str, object], where: str) -> RunLengths:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if isinstance(counts, str):
        try:
            counts = decompress(counts)
        except ValueError as error:
            raise UserError(f"{where}: its compressed run lengths are damaged: {error}.") from None
    if not (
        isinstance(counts, list) and all(type(count) is int and 0 <= count < _MOST_EXACT for count in counts)
    ):
        raise UserError(f"{where}: its run lengths are no list of numbers and no text: {_quoted(counts)}.")
    if size is not None and not (
        isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int and 0 < side < _MOST_EXACT for side in size)
    ):
        raise UserError(f"{where}: the size of its run lengths is {_quoted(size)}, not height and width.")
    return {"size": size, "counts": counts}


def _polygons(segmentation: object, where: str) -> list[list[float]]:
    """Read polygons, one polygon that is not nested, or polygons of points [x, y]."""

    def wrong(what: object, why: str) -> NoReturn:
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
        if not _are_numbers(polygon):
            wrong(polygon, "holds something that is no number")
        if len(polygon) < 6 or len(polygon) % 2:
            wrong(polygon, f"has {len(polygon)} coordinates; three points are six")
        polygons.append(polygon)
    return polygons


def _is_points(part: Sequence[object]) -> bool:
    """Whether all of a list are [x, y]."""
    return len(part) > 2 and all(
        isinstance(p, list) and len(p) == 2 and all(map(_is_number, p)) for p in part
    )


def _list(contents: Mapping[str, object], key: str, path: Path) -> list[object]:
    found = contents.get(key)
    if not isinstance(found, list):
        raise UserError(
            f"{path} has no list of {key}; COCO's format is at https://cocodataset.org/#format-data."
        )
    return found


def _id(value: object) -> Id | None:
    """Read an id: a whole number, also as text, or a name; None if it is neither."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and text.isascii() and str(int(text)) == text else text or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) is float and math.isfinite(value) or type(value) is int and abs(value) < _MOST_EXACT


def _are_numbers(values: Sequence[Any]) -> bool:
    quickly = {*map(type, values)} == {float} and math.isfinite(sum(values))
    return quickly or all(map(_is_number, values))


def _quoted(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:60]} ..."
