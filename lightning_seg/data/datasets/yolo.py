"""Images with YOLO's polygons: a text file for each image."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from lightning_seg.data.containers import ORIENTATION
from lightning_seg.data.datasets.annotated import Annotated
from lightning_seg.data.files import composed, glob_visible, without_ending
from lightning_seg.data.lists import read_lines
from lightning_seg.data.regions import Region, polygon
from lightning_seg.errors import UserError


class YOLOPolygons(Annotated):
    """Images and the text files of YOLO's segmentation: ``class x y x y ...`` a line, in fractions of the image.

    See https://docs.ultralytics.com/datasets/segment/. Class 0 is the first after the background. Where `root` has a
    `data.yaml`, its names must be those of `class_names`. An image without a text file holds nothing but background, as
    YOLO has it.

    Args:
        root: Folder of the data set.
        class_names: The background, then the classes in YOLO's order.
        annotations: Folder of the text files in `root`, which has the folders of `images`.
        **kwargs: As for `Annotated`; `images` may be ``{split}/images``, with ``{split}/labels`` for `annotations`.

    Examples:
        >>> settings = dict(split_ratios={"train": 0.8, "val": 0.2}, batch_size=8, crop_size=(256, 256))
        >>> data = YOLOPolygons("pets", ["background", "cat", "dog"], **settings)
        >>> data.class_names
        ('background', 'cat', 'dog')
    """

    def __init__(
        self, root: str, class_names: list[str], annotations: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(root, class_names, **kwargs)
        if annotations is None:
            annotations = "{split}/labels" if self.divided else "labels"
        self.annotations = annotations

    def sources(self, images: Mapping[str, Path]) -> Mapping[str, tuple[object, ...]]:
        """Find the text file of each image."""
        self._check_names()
        folder = self.root / self.annotations.partition("{split}")[0]
        if not folder.is_dir():
            raise self.missing(
                folder, "data.init_args.annotations names the folder of the text files in root."
            )
        found = {
            composed(without_ending(p.relative_to(folder)).as_posix()): p
            for p in glob_visible(folder, "**/*.txt")
        }
        names = {name: self._name_of_labels(name) for name in images}
        if not any(label in found for label in names.values()):
            raise UserError(f"{folder} has no text file with the name of an image in {self.images}.")
        return {name: (found[label],) if label in found else () for name, label in names.items()}

    def _name_of_labels(self, name: str) -> str:
        """Name the text file of an image: as it, but where folders of the split stand before."""
        if not self.divided:
            return name
        split, _, rest = name.partition("/")
        after = self.image_pattern.partition("{split}")[2].strip("/")
        rest = rest.removeprefix(f"{after}/") if after else rest
        inside = self.annotations.partition("{split}")[2].strip("/")
        return "/".join(part for part in (split, inside, rest) if part)

    def regions(self, sample: tuple[Path, *tuple[Path, ...]], size: tuple[int, int]) -> list[Region]:
        """Read the polygons of an image."""
        if len(sample) == 1:
            return []
        path = sample[-1]
        found, names = [], self.class_names[1:]
        for number, line in enumerate(read_lines(path), start=1):
            where = f"{path}: line {number}"
            first, *rest = line.split()
            if not first.isdecimal() or int(first) >= len(names):
                raise UserError(
                    f"{where} begins with {first!r}; classes are 0 to {len(names) - 1} ({', '.join(names)})."
                )
            try:
                values = [float(value) for value in rest]
            except ValueError:
                raise UserError(f"{where} holds something that is no number.") from None
            if len(values) == 4:
                raise UserError(f"{where} is a box, of YOLO's detection: it says nothing of pixels.")
            if not all(0 <= value <= 1 for value in values):
                raise UserError(f"{where} has coordinates outside 0 to 1; YOLO's are fractions of the image.")
            scale = size[1], size[0]
            points = [value * scale[i % 2] for i, value in enumerate(values)]
            found.append(polygon(where, names[int(first)], [points]))
        if found:
            with Image.open(sample[0]) as image:
                if image.getexif().get(ORIENTATION, 1) not in (0, 1):
                    raise UserError(
                        f"{sample[0]} has a rotation noted (EXIF), and whether its polygons were drawn on the turned "
                        "image is not known. Save it upright."
                    )
        return found

    @cached_property
    def _stated_names(self) -> list[str] | None:
        file = self.root / "data.yaml"
        if not file.is_file():
            return None
        try:
            names = yaml.safe_load(file.read_text(encoding="utf-8")).get("names")
            ordered = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
            return None if ordered is None else [*map(str, ordered)]
        except (yaml.YAMLError, AttributeError, TypeError, UnicodeDecodeError):
            raise UserError(
                f"{file} cannot be read: it should be YOLO's description of the data set."
            ) from None

    def _check_names(self) -> None:
        stated = self._stated_names
        if stated is not None and stated != list(self.class_names[1:]):
            raise UserError(
                f"{self.root / 'data.yaml'} has the names {stated}, but class_names after the background is "
                f"{list(self.class_names[1:])}. Give the same names in the same order."
            )
