"""COCO's panoptic annotations: which segments each mask has, in arrays that all processes of a machine share."""

import inspect
import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from lightning_seg.data import json_file
from lightning_seg.data.coco_index import Id, order
from lightning_seg.data.compact import Rows, Store, pack_texts, store_if_large
from lightning_seg.data.io import read_image
from lightning_seg.data.json_file import Entries, read_entries
from lightning_seg.data.segments import Numbered, number_segments
from lightning_seg.errors import UserError


class Segment(NamedTuple):
    """A segment of a panoptic mask.

    Attributes:
        number: Its color in the mask, as red + 256 green + 65536 blue.
        category: The id of its category.
        is_crowd: Whether it stands for several objects at once.
    """

    number: int
    category: int
    is_crowd: bool


class PanopticFile:
    """The masks that a file lists, in the order of the ids of their images.

    Args:
        path: The file.
        store: What `read_panoptic` has made of it.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self._store = store

    def __len__(self) -> int:
        return len(self._store.texts("ids"))

    def names(self, row: int) -> tuple[str, str, Id]:
        """File names of the image and of the mask in a row, and the id of the image."""
        image, mask, number = (self._store.texts(key)[row] for key in ("images", "masks", "ids"))
        return image, mask, json.loads(number)

    def segments(self, number: Id) -> list[Segment]:
        """The segments of the image with an id."""
        ids = self._store.texts("ids")
        row = bisect_left(ids, order(number), key=lambda text: order(json.loads(text)))
        first, end = self._store["first"][row : row + 2].tolist()
        columns = (self._store[key][first:end].tolist() for key in ("numbers", "categories", "crowds"))
        return [Segment(*values) for values in zip(*columns, strict=True)]

    def numbered(self, path: Path, number: Id, class_of: Mapping[Id, int]) -> Numbered:
        """Read the mask of the image with an id.

        Args:
            path: The mask's file.
            number: The id.
            class_of: Class of each category.

        Raises:
            UserError: The mask has a segment that is not listed.
        """
        segments = self.segments(number)
        numbers = read_image(path).astype(np.int32) @ np.array([1, 256, 65536])
        listed = [0, *(segment.number for segment in segments)]
        if len(strange := np.setdiff1d(numbers, listed)):
            raise UserError(
                f"{path} has {len(strange)} segments that the JSON does not list, the first being {strange[0]}. Use "
                "the JSON that belongs to these masks."
            )
        return number_segments(
            numbers,
            {segment.number: class_of[segment.category] for segment in segments},
            {segment.number for segment in segments if segment.is_crowd},
        )


CocoSample = tuple[Path, Path, Id]  # image, its annotations or its mask, and its id there


class Listed(Rows[tuple[Path, Path, Id]]):
    """Samples, each made when it is asked for.

    Args:
        count: How many there are.
        make: Makes the one at a place.
    """

    def __init__(self, count: int, make: Callable[[int], tuple[Path, Path, Id]]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def at(self, row: int) -> tuple[Path, Path, Id]:
        """The sample at a place."""
        return self._make(row)


def panoptic_sample(folder: Path, masks: Path, file: PanopticFile, row: int) -> tuple[Path, Path, Id]:
    """Return image, mask and id of a row of a file, whose images and masks lie in two folders."""
    image, mask, number = file.names(row)
    return folder / image, masks / mask, number


def read_panoptic(path: Path, categories: Collection[Id]) -> PanopticFile:
    """Read a file of panoptic annotations; of a large one what was found is kept in the cache.

    Args:
        path: The file.
        categories: The ids that a category may have.

    Raises:
        UserError: It has another format, or a segment no id or another category.
    """
    code = f"{Path(__file__).read_text()} {inspect.getsource(json_file)} {sorted(categories, key=order)}"
    return PanopticFile(path, store_if_large(path, code, partial(_index, path, categories)))


def _index(path: Path, categories: Collection[Id], _: BinaryIO) -> dict[str, np.ndarray]:
    rows, entries = Entries(), Entries()
    contents = read_entries(path, {"images": rows, "annotations": entries})
    numbers, kinds, crowds = array("q"), array("q"), array("b")
    found: list[tuple[Id, str, str, int, int]] = []
    try:
        for key in ("images", "annotations"):
            if not isinstance(contents[key], list):
                raise TypeError(f"{key} is no list")
        names = {image["id"]: image["file_name"] for image in rows}
        for entry in entries:
            mask, start = entry["file_name"], len(numbers)
            for segment in entry["segments_info"]:
                if segment["category_id"] not in categories or type(segment["id"]) is not int:
                    raise UserError(
                        f"{path}: a segment of {mask} is of none of {len(categories)} categories, or has no id: "
                        f"{segment}."
                    )
                numbers.append(segment["id"])
                kinds.append(int(segment["category_id"]))
                crowds.append(bool(segment.get("iscrowd")))
            found.append((entry["image_id"], names[entry["image_id"]], mask, start, len(numbers)))
        found.sort(key=lambda one: order(one[0]))
        if twice := [a for a, b in zip(found, found[1:], strict=False) if a[0] == b[0]]:
            raise UserError(f"{path}: image {twice[0][1]} has two masks, {twice[0][2]} and another.")
        texts: dict[str, tuple[np.ndarray, np.ndarray]] = {
            "ids": pack_texts(json.dumps(one[0]) for one in found),
            "images": pack_texts(one[1] for one in found),
            "masks": pack_texts(one[2] for one in found),
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is not in the format of COCO's panoptic annotations: {error!r}.") from None
    places = np.concatenate([np.zeros(0, int), *(np.arange(one[3], one[4]) for one in found)])
    out = {
        "first": np.cumsum([0, *(one[4] - one[3] for one in found)]),
        "numbers": np.array(numbers, np.int64)[places],
        "categories": np.array(kinds, np.int64)[places],
        "crowds": np.array(crowds, bool)[places],
    }
    for key, (letters, ends) in texts.items():
        out |= {key: letters, f"{key}.ends": ends}
    return out
