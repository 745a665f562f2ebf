"""Images with annotations in COCO's format, wherever the files lie: of Roboflow, CVAT, Label Studio and others."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg.data.coco_file import CocoFile, read_coco
from lightning_seg.data.coco_index import Annotation, Id
from lightning_seg.data.coco_masks import turn
from lightning_seg.data.datasets.annotated import Annotated, by_file_name
from lightning_seg.data.files import by_name
from lightning_seg.data.regions import Region
from lightning_seg.errors import UserError


class COCOFormat(Annotated):
    """Images and files in COCO's format with any categories; `COCO` is the data set itself, as it lies on disk.

    Images that the file lists without an annotation are background.

    Args:
        root: Folder of the data set.
        class_names: The background, then the names of the categories, in any order.
        file: The file in `root`; with ``{split}`` one for each split, as Roboflow's, whose splits are the folders
            `train`, `valid` and `test`, with the images beside the file: set `images` to ``{split}`` and `val_split` to
            `valid`.
        **kwargs: As for `Annotated`.

    Raises:
        UserError: `file` is one for each split, but `images` has no ``{split}``.

    Examples:
        >>> settings = dict(split_ratios={"train": 0.8, "val": 0.2}, batch_size=8, crop_size=(256, 256))
        >>> data = COCOFormat("pets", ["background", "cat", "dog"], file="annotations.json", **settings)
        >>> data.class_names
        ('background', 'cat', 'dog')
    """

    def __init__(
        self, root: str, class_names: list[str], file: str = "{split}/_annotations.coco.json", **kwargs: Any
    ) -> None:
        super().__init__(root, class_names, **kwargs)
        self.file = file
        if "{split}" in file and not self.divided:
            raise UserError(
                f"data.init_args.file is {file}, one file for each split, so images must be, too: for example "
                "--data.init_args.images={split}, or {split}/images."
            )
        self._known: dict[Path, CocoFile] = {}

    def sources(self, images: Mapping[str, Path]) -> Mapping[str, tuple[object, ...]]:
        """Find the entry of each image."""
        if "{split}" not in self.file:
            every = by_name(self.images, suffix=self.image_suffix)
            return self._of_file(self.root / self.file, every, images)
        found: dict[str, tuple[object, ...]] = {}
        before = self.image_pattern.partition("{split}")[0].strip("/")
        for split in {name.removeprefix(f"{before}/" if before else "").split("/")[0] for name in images}:
            mine = {n: p for n, p in images.items() if f"{n}/".startswith(f"{before}/{split}/".lstrip("/"))}
            found |= self._of_file(self.root / self.file.format(split=split), mine, mine)
        return found

    def _of_file(
        self, path: Path, every: Mapping[str, Path], images: Mapping[str, Path]
    ) -> dict[str, tuple[object, ...]]:
        file = self._file(path)
        ids = {entry.name: number for number, entry in file.images.items()}
        known = by_file_name([*ids], every, str(path))
        return {name: (path, ids[known[name]]) for name in images if name in known}

    def regions(self, sample: tuple[Path, Path, Id], size: tuple[int, int]) -> list[Region]:
        """Read the annotations of an image."""
        file = self._file(sample[1])
        listed = file.images[sample[2]]
        frame, orientation = listed.frame(sample[0], size)
        return [
            Region(
                entry.where,
                file.categories[entry.category],
                partial(_paint, entry, frame, orientation),
                crowd=entry.is_crowd,
            )
            for entry in listed.annotations
        ]

    def _file(self, path: Path) -> CocoFile:
        if path not in self._known:
            if not path.is_file():
                raise self.missing(path, f"data.init_args.file says where it is in root (now {self.file}).")
            self._known[path] = read_coco(path)
        return self._known[path]


def _paint(entry: Annotation, frame: tuple[int, int], orientation: int, size: tuple[int, int]) -> np.ndarray:
    return turn(entry.paint(frame), orientation)
