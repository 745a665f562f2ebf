"""Data sets of the Hugging Face hub, by name."""

from typing import Any

import cv2
import numpy as np

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import check_classes, check_labels, default_palette, label_table
from lightning_seg.data.io import to_labels, to_rgb
from lightning_seg.errors import UserError


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
        self._splits: dict[str, Any] = {}

    def list_samples(self, split: str) -> list[tuple[str, int]]:
        """List (split, row)."""
        return [(split, row) for row in range(len(self._load(split)))]

    def read(self, sample: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Read the image and the mask of a row."""
        split, row = sample
        entry, where = self._load(split)[row], f"row {row} of {self.name} ({split})"
        labels = to_labels(entry[self.mask], where)
        return to_rgb(entry[self.image], where, self.value_range), labels if self.table is None else cv2.LUT(
            labels, self.table
        )

    def name_of(self, sample: tuple[str, int]) -> str:
        """Name a sample by its split and row."""
        return f"{sample[0]}_{sample[1]:06d}"

    def _load(self, split: str) -> Any:
        if split not in self._splits:
            try:
                import datasets
            except ImportError:
                raise UserError(
                    "Hugging Face data sets need the package datasets. Install it with `uv pip install datasets`."
                ) from None
            try:
                self._splits[split] = datasets.load_dataset(self.name, self.config, split=split)
            except Exception as error:  # the library raises many kinds, for networks, names and files
                raise UserError(
                    f"The split {split!r} of {self.name} cannot be loaded: {type(error).__name__}: {error}"
                ) from None
        return self._splits[split]
