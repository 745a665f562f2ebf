"""Images annotated with LabelMe: a JSON file beside each."""

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_seg.data.datasets.annotated import Annotated
from lightning_seg.data.files import composed, glob_visible, without_ending
from lightning_seg.data.json_file import read_json
from lightning_seg.data.regions import Region, box, polygon, refuse_other_size, whole
from lightning_seg.errors import UserError


class LabelMe(Annotated):
    """Images with the JSON files of LabelMe (https://github.com/wkentaro/labelme), one an image, of the same name.

    Polygons, rectangles, circles and masks are read; points and lines have no area and are an error unless their
    label is one of `skip_labels`. Shapes that overlap: see `Annotated`.

    Args:
        root: Folder of the data set.
        class_names: The background, then the labels of the shapes.
        annotations: Folder of the JSON files in `root`; that of the images unless given.
        **kwargs: As for `Annotated`.

    Examples:
        >>> settings = dict(split_ratios={"train": 0.8, "val": 0.2}, batch_size=8, crop_size=(256, 256))
        >>> data = LabelMe("pets", ["background", "cat", "dog"], **settings)
        >>> data.class_names
        ('background', 'cat', 'dog')
    """

    def __init__(
        self, root: str, class_names: list[str], annotations: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(root, class_names, **kwargs)
        self.annotations = self.images if annotations is None else self.root / annotations

    def sources(self, images: Mapping[str, Path]) -> Mapping[str, tuple[object, ...]]:
        """Find the JSON file of each image."""
        found = {
            composed(without_ending(path.relative_to(self.annotations)).as_posix()): path
            for path in glob_visible(self.annotations, "**/*.json")
        }
        return {name: (found[name],) for name in images if name in found}

    def regions(self, sample: tuple[Path, Path], size: tuple[int, int]) -> list[Region]:
        """Read the shapes of an image."""
        path: Path = sample[1]
        contents = read_json(path)
        shapes = contents.get("shapes")
        if not isinstance(shapes, list):
            raise UserError(f"{path} has no list of shapes: it is no file of LabelMe.")
        refuse_other_size(
            str(path), (contents.get("imageHeight"), contents.get("imageWidth")), size, sample[0]
        )
        found = []
        for place, shape in enumerate(shapes):
            where = f"{path}: shape {place + 1}"
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise UserError(f"{where} has no label.")
            if self.numbers.get(shape["label"]) == -1:
                continue
            kind = shape.get("shape_type") or "polygon"
            if kind not in _AREAS:
                raise self.no_area(where, kind, shape["label"])
            found.append(_region(shape, kind, where, size))
        return found


_AREAS = ("polygon", "rectangle", "circle", "mask")


def _region(shape: dict[str, Any], kind: str, where: str, size: tuple[int, int]) -> Region:
    label = shape["label"]
    try:
        points = np.array(shape["points"], float).reshape(-1, 2)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where} has no points [[x, y], ...].") from None
    if kind == "polygon":
        return polygon(where, label, [points.ravel().tolist()])
    if len(points) != 2:
        raise UserError(f"{where} is a {kind} of {len(points)} points; it has two.")
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points.tolist()
        return polygon(where, label, [[x1, y1, x2, y1, x2, y2, x1, y2]])
    if kind == "circle":
        rows, columns = np.indices(size) + 0.5  # centers of the pixels
        (x, y), radius = points[0], np.hypot(*(points[1] - points[0]))
        return whole(where, label, np.hypot(columns - x, rows - y) <= radius)
    try:
        content = io.BytesIO(base64.b64decode(shape["mask"], validate=True))
        with Image.open(content) as picture:
            mask = np.asarray(picture) != 0
    except (KeyError, TypeError, binascii.Error, OSError, ValueError):
        raise UserError(f"{where} is a mask without the picture of it, a PNG in base64.") from None
    left, top, right, bottom = (points + 0.5).astype(int).ravel().tolist()
    if mask.shape != (bottom - top + 1, right - left + 1):
        raise UserError(f"{where}: its mask is of {mask.shape} pixels, but its points say otherwise.")
    return box(where, label, mask, (top, left))
