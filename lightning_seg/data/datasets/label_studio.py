"""Images annotated with Label Studio: one JSON file for all."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from lightning_seg.data.datasets.annotated import Annotated, by_file_name
from lightning_seg.data.files import by_name
from lightning_seg.data.json_file import read_any_json
from lightning_seg.data.regions import Region, polygon, refuse_other_size, whole
from lightning_seg.errors import UserError

Task = dict[str, Any]  # of Label Studio's making, with parts that are there or not
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file


class LabelStudio(Annotated):
    """Images and the file of Label Studio's export as JSON: polygons and brushes.

    See https://labelstud.io/guide/export. Boxes, ellipses and points are an error unless their label is one of
    `skip_labels`. A task that nobody has annotated, or several people have, is an error; one whose annotation holds no
    region is background.

    Args:
        root: Folder of the data set.
        class_names: The background, then the labels of the regions.
        file: The JSON file in `root`.
        **kwargs: As for `Annotated`.

    Examples:
        >>> settings = dict(split_ratios={"train": 0.8, "val": 0.2}, batch_size=8, crop_size=(256, 256))
        >>> data = LabelStudio("pets", ["background", "cat", "dog"], **settings)
        >>> data.class_names
        ('background', 'cat', 'dog')
    """

    def __init__(
        self, root: str, class_names: list[str], file: str = "annotations.json", **kwargs: Any
    ) -> None:
        super().__init__(root, class_names, **kwargs)
        self.file = self.root / file
        self._tasks: dict[str, Task] | None = None

    def sources(self, images: Mapping[str, Path]) -> Mapping[str, tuple[object, ...]]:
        """Find the task of each image: by the name of the file, without what Label Studio has put before it."""
        every = by_name(self.images, suffix=self.image_suffix)
        known = by_file_name([*self._entries()], every, str(self.file))
        bare: dict[str, str] = {}
        for name in self._entries().keys() - known.values():
            folder, slash, file = name.rpartition("/")
            if (original := _UPLOADED.sub("", file, count=1)) != file:
                if original in bare:
                    raise UserError(
                        f"{self.file}: {bare[original]!r} and {name!r} were both called {original!r}."
                    )
                bare[original] = name
        for image, name in by_file_name([*bare], every, str(self.file)).items():
            if known.setdefault(image, bare[name]) != bare[name]:
                raise UserError(f"{self.file}: {known[image]!r} and {bare[name]!r} both mean {every[image]}.")
        return {name: (self.file, known[name]) for name in images if name in known}

    def regions(self, sample: tuple[Path, Path, str], size: tuple[int, int]) -> list[Region]:
        """Read the regions of an image."""
        where, task = f"{self.file}: {sample[2]}", self._entries()[sample[2]]
        done = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
        if len(done) != 1:
            raise UserError(
                f"{where} has {len(done)} annotations that were not skipped, and one is expected. Finish it, or choose "
                "one in Label Studio, and export again."
            )
        found = []
        for place, result in enumerate(done[0].get("result") or [], start=1):
            spot, kind, value = f"{where}, region {place}", result.get("type"), result.get("value") or {}
            labels = value.get(kind) or next((v for k, v in value.items() if k.endswith("labels")), None)
            if kind in ("choices", "textarea", "rating", "relation") or "original_width" not in result:
                continue  # of the whole image
            if not labels or len(labels) != 1 or not isinstance(labels[0], str):
                raise UserError(f"{spot} has the labels {labels}; one is expected.")
            if self.numbers.get(labels[0]) == -1:
                continue
            refuse_other_size(
                spot, (result.get("original_height"), result.get("original_width")), size, sample[0]
            )
            if result.get("image_rotation"):
                raise UserError(
                    f"{spot}: the image was turned in Label Studio. Save it as it is shown there."
                )
            if kind not in ("polygonlabels", "brushlabels"):
                raise self.no_area(spot, kind, labels[0])
            try:
                if kind == "polygonlabels":
                    points = np.array(value["points"], float) * np.array(size[::-1]) / 100
                    found.append(polygon(spot, labels[0], [points.ravel().tolist()]))
                else:
                    found.append(whole(spot, labels[0], decode_brush(value["rle"], size)))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise UserError(f"{spot}: its points or brush cannot be read ({error}).") from None
        return found

    def _entries(self) -> dict[str, Task]:
        if self._tasks is None:
            tasks = read_any_json(self.file)
            if not isinstance(tasks, list) or not all(isinstance(t, dict) and "data" in t for t in tasks):
                raise UserError(
                    f"{self.file} is no list of tasks: export as JSON from Label Studio, not as JSON-MIN or COCO."
                )
            found: dict[str, Task] = {}
            for task in tasks:
                names = [text for text in task["data"].values() if isinstance(text, str)]
                image = task["data"].get("image", names[0] if len(names) == 1 else None)
                if not isinstance(image, str):
                    raise UserError(
                        f"{self.file}: task {task.get('id')} does not say its image in data.image."
                    )
                name = _path_of(image)
                if found.setdefault(name, task) is not task:
                    raise UserError(f"{self.file}: two tasks are of the image {name!r}.")
            self._tasks = found
        return self._tasks


def _path_of(address: str) -> str:
    """The path of an image in its address, such as ``/data/local-files/?d=a/b.jpg`` or ``/data/upload/1/x-b.jpg``."""
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path)


def decode_brush(rle: list[int], size: tuple[int, int]) -> np.ndarray:
    """Decode the run lengths of a brush: those of thi.ng's `rle-pack` of the picture's bytes, red to opacity.

    Args:
        rle: The bytes.
        size: Height and width of the image.

    Returns:
        Where it is painted (H, W) ``bool``: where the picture is not transparent.
    """
    bits = np.unpackbits(np.array(rle, np.uint8))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("it is cut off")
        value = int("".join(map(str, bits[place : place + count])), 2)
        place += count
        return value

    total = take(32)
    if total != 4 * size[0] * size[1]:
        raise ValueError(f"it has {total} values; four for each of {size[0]}x{size[1]} pixels are expected")
    word = take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    out, at = np.zeros(total, np.uint8), 0
    while at < total:
        repeated = take(1)
        end = at + 1 + take(lengths[take(2)])
        if end > total:
            raise ValueError("a run is too long")
        if repeated:
            out[at:end] = take(word)
        else:
            out[at:end] = [take(word) for _ in range(end - at)]
        at = end
    painted: np.ndarray = out.reshape(*size, 4)[..., 3] > 0
    return painted
