"""Data sets of the Hugging Face hub, by name."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from lightning_seg.data.bands import WideRange
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import check_classes, check_labels, default_palette, label_table
from lightning_seg.data.io import read_mask, to_labels, to_pixels
from lightning_seg.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


class HuggingFace(SegmentationData):
    """Images and masks of a Hugging Face data set; needs the package datasets and once a network.

    Args:
        name: Name on the hub, for example `nateraw/pascal-voc-2012`, or a local folder.
        class_names: Names of the classes, in the order of their labels.
        image: Column of the images.
        mask: Column of the masks.
        labels: Class of labels in the masks, for example {0: 255, 1: 0}; 255 is `ignore_index`.
            Labels that are not named stay as they are.
        config: Configuration of the data set, if it has several.
        **kwargs: As for every data set.

    Examples:
        >>> settings = dict(batch_size=8, crop_size=(320, 320))
        >>> data = HuggingFace("nateraw/pascal-voc-2012", ["background", "person"], mask="mask", **settings)
        >>> data.num_outputs
        2
    """

    def __init__(
        self,
        name: str,
        class_names: list[str],
        image: str = "image",
        mask: str = "label",
        labels: dict[int, int] | None = None,
        config: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root="", **kwargs)
        self.name = name
        self.config = config
        self.image = image
        self.mask = mask
        self.class_names = tuple(class_names)
        self.palette = default_palette(len(class_names))
        check_classes(self.class_names)
        check_labels(labels or {}, self.num_classes)
        self.table = label_table(labels) if labels else None
        self._splits: dict[str, Dataset] = {}

    def list_samples(self, split: str) -> list[tuple[str, int]]:
        """List (split, row)."""
        return [(split, row) for row in range(len(self._load(split)))]

    def read(self, sample: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Read the image and the mask of a row."""
        split, row = sample
        entry, where = self._load(split)[row], f"row {row} of {self.name} ({split})"
        picture, mask = (self._cell(entry, column, where) for column in (self.image, self.mask))
        if isinstance(mask, Image.Image):
            labels = to_labels(mask, where)
        else:
            labels = _read_file(read_mask, mask, f"{where}, column {self.mask!r}")
        if isinstance(picture, Image.Image):
            image = to_pixels(picture, where, self.pixels)
        else:
            image = _read_file(self.read_image, picture, f"{where}, column {self.image!r}")
        return image, labels if self.table is None else cv2.LUT(labels, self.table)

    def _cell(self, entry: Mapping[str, object], column: str, where: str) -> Image.Image | dict[str, Any]:
        """A picture, or a file as `{"bytes": ..., "path": ...}`."""
        if column not in entry:
            raise UserError(
                f"{self.name} has no column {column!r}; it has: {', '.join(entry)}. Name those of image and mask with "
                "--data.init_args.image and --data.init_args.mask."
            )
        cell = entry[column]
        if isinstance(cell, Image.Image) or (
            isinstance(cell, dict) and (cell.get("bytes") or cell.get("path"))
        ):
            return cell
        raise UserError(f"{where}: column {column!r} holds no image but a {type(cell).__name__}.")

    def name_of(self, sample: tuple[str, int]) -> str:
        """Name a sample by its split and row."""
        return f"{sample[0]}_{sample[1]:06d}"

    def _load(self, split: str) -> "Dataset":
        if split not in self._splits:
            try:
                import datasets
            except ImportError:
                raise UserError(
                    "Hugging Face data sets need the package datasets. Install it with `uv pip install datasets`."
                ) from None
            try:
                rows = datasets.load_dataset(self.name, self.config, split=split)
            except Exception as error:  # the library raises many kinds, for networks, names and files
                raise UserError(
                    f"The split {split!r} of {self.name} cannot be loaded: {type(error).__name__}: {error}"
                ) from None
            kinds = getattr(rows, "features", None) or {}
            for column in (
                self.image,
                self.mask,
            ):  # decoded by the library, colors of 16 bits lose half of them
                if column in kinds and isinstance(kinds[column], datasets.Image):
                    rows = rows.cast_column(column, datasets.Image(decode=False))
            self._splits[split] = rows
        return self._splits[split]


def _read_file(read: Callable[[Path], np.ndarray], cell: dict[str, Any], where: str) -> np.ndarray:
    """Read an image file that a row holds, or refers to, as the files of other data sets are read."""
    if cell.get("bytes") is None:
        return read(Path(cell["path"]))
    with tempfile.NamedTemporaryFile(suffix=Path(cell.get("path") or "").suffix) as file:
        file.write(cell["bytes"])
        file.flush()
        try:
            return read(Path(file.name))
        except WideRange as error:
            raise WideRange(str(error).replace(file.name, where), error.values) from None
        except UserError as error:
            raise UserError(str(error).replace(file.name, where)) from None
