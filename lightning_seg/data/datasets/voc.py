"""Pascal VOC segmentation: everyday photographs, 20 classes and background."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import default_palette
from lightning_seg.data.download import fetch
from lightning_seg.data.lists import columns, read_names
from lightning_seg.data.loading import in_parallel
from lightning_seg.errors import UserError

SERVER = "https://thor.robots.ox.ac.uk/pascal/VOC"
ARCHIVES = {
    (2012, "trainval"): ("VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),
    (2007, "trainval"): ("VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
    (2007, "test"): ("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
}
SBD = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
SBD_MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"
AUGMENTED = (
    "Make it with --data.init_args.download=true (1.4 GB, from the SBD benchmark release), or put the list of 10582 "
    "names there and the masks into SegmentationClassAug/."
)


class VOC(SegmentationData):
    """Pascal Visual Object Classes 2012 (1464 / 1449 images for train / val) or 2007 (209 / 213 / 210 test).

    Everingham et al., "The Pascal Visual Object Classes challenge: a retrospective", IJCV 2015. The void
    border around objects is set to `ignore_index`. The labels of the 2012 test set are not public: its test is on val.

    The split `train_aug` (10582 images) adds the annotations of Hariharan et al., "Semantic contours from
    inverse detectors", ICCV 2011, as the folder `SegmentationClassAug` and the list `train_aug.txt` that most
    published results were trained with.

    Args:
        root: Folder that holds `VOCdevkit/VOC2012`, or `VOC2012` itself.
        year: 2012 or 2007.
        download: Download what is missing (2 GB for 2012) into `root`.
        test_split: Split of the final score; 2007 also has `test`.
        **kwargs: As for every data set.

    Examples:
        >>> VOC.class_names[:3], VOC.palette[1]
        (('background', 'aeroplane', 'bicycle'), (128, 0, 0))
    """

    class_names = (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus",
        "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
        "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )  # fmt: skip
    palette = default_palette(21)

    def __init__(
        self,
        root: str = "data",
        year: Literal[2007, 2012] = 2012,
        download: bool = False,
        test_split: str = "val",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, test_split=test_split, **kwargs)
        self.year = year
        self.download = download
        self.how_to_get = (
            f"Download it with --data.init_args.download=true, or unpack {ARCHIVES[year, 'trainval'][0]}\n"
            f"of {SERVER}/voc{year}/ so that there is a folder {self.root}/VOCdevkit/VOC{year}."
        )

    @property
    def base(self) -> Path:
        """The folder VOC2012 or VOC2007."""
        nested = self.root / "VOCdevkit" / f"VOC{self.year}"
        return self.root if (self.root / "ImageSets").is_dir() and not nested.is_dir() else nested

    def fetch(self) -> None:
        """Download and unpack what is missing."""
        for (year, part), (name, md5) in ARCHIVES.items():
            if year == self.year:
                listing = self.base / "ImageSets" / "Segmentation" / f"{part}.txt"
                fetch(f"{SERVER}/voc{year}/{name}", self.root, md5, listing)
        if "train_aug" in self.train_split:
            fetch(SBD, self.root, SBD_MD5, self.root / "benchmark_RELEASE")
            make_augmented(self.base, self.root / "benchmark_RELEASE" / "dataset")

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of `train`, `val`, `trainval`, `train_aug` or (2007) `test`."""
        listing = self.base / "ImageSets" / "Segmentation" / f"{split}.txt"
        augmented = split.endswith("aug")
        if not listing.is_file():
            raise self.missing(listing, AUGMENTED if augmented and self.base.is_dir() else self.how_to_get)
        masks = "SegmentationClassAug" if augmented else "SegmentationClass"
        names = read_names(listing)
        if odd := [name for name in names if len(columns(name)) > 1]:
            raise UserError(f"{listing} should have one name a line; got {odd[0]!r}.")
        return [
            (self.base / "JPEGImages" / f"{name}.jpg", self.base / masks / f"{name}.png") for name in names
        ]


def make_augmented(base: Path, sbd: Path) -> None:
    """Make `train_aug.txt` and `SegmentationClassAug`: SBD's images that are not in val, and all of VOC's train.

    Args:
        base: The folder VOC2012.
        sbd: The folder `dataset` of the SBD benchmark release.
    """
    lists, masks = base / "ImageSets" / "Segmentation", base / "SegmentationClassAug"
    if (lists / "train_aug.txt").exists():
        return
    from PIL import Image
    from scipy.io import loadmat

    def convert(name: str) -> None:
        mask = loadmat(sbd / "cls" / f"{name}.mat")["GTcls"]["Segmentation"][0, 0]
        Image.fromarray(mask).save(masks / f"{name}.png")

    masks.mkdir(exist_ok=True)
    train, val = ((lists / f"{part}.txt").read_text().split() for part in ("train", "val"))
    names = {name for part in ("train", "val") for name in (sbd / f"{part}.txt").read_text().split()}
    added = sorted(names - {*train, *val})
    for _ in in_parallel(convert, added):
        pass
    for name in train:
        shutil.copy(base / "SegmentationClass" / f"{name}.png", masks)
    unfinished = lists / "train_aug.unfinished"
    unfinished.write_text("\n".join([*train, *added]) + "\n")
    os.replace(unfinished, lists / "train_aug.txt")
