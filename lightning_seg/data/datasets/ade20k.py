"""ADE20K: scenes of every kind, 150 classes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import default_palette, label_table
from lightning_seg.data.coco_index import Id
from lightning_seg.data.coco_panoptic import CocoSample, Listed, PanopticFile, panoptic_sample, read_panoptic
from lightning_seg.data.download import fetch
from lightning_seg.data.files import glob_visible, tell_alone
from lightning_seg.data.segments import SegmentSample, mask_of

SERVER = "http://data.csail.mit.edu/places/ADEchallenge"
FOLDERS = {"train": "training", "val": "validation"}
# The 100 classes of which ADE20K's panoptic annotations know single objects, counted from 1 as in its files.
THINGS = (
    8, 9, 11, 13, 15, 16, *range(19, 22), *range(23, 26), 28, *range(31, 35), *range(36, 41), *range(42, 47), 48, 50,
    51, 54, *range(56, 60), 63, *range(65, 69), *range(70, 78), 79, *range(81, 85), *range(86, 92), 93, 94, 96, 98, 99,
    *range(103, 106), 108, 109, *range(111, 114), 116, 117, *range(119, 123), *range(124, 129), 130, 131,
    *range(133, 141), *range(143, 146), *range(147, 151),
)  # fmt: skip
HOW_TO_MAKE = """\
Make it of the instance annotations of http://sceneparsing.csail.mit.edu by datasets/prepare_ade20k_pan_seg.py
of https://github.com/facebookresearch/Mask2Former."""


class ADE20K(SegmentationData):
    """The scene parsing benchmark, 20210 / 2000 images for train / val.

    Zhou et al., "Scene parsing through ADE20K dataset", CVPR 2017. "Other objects" (0 in the files) are set
    to `ignore_index`. The test labels are not public: its test is on val.

    Kirillov et al., "Panoptic segmentation", CVPR 2019, for segments: 100 of the classes are things.

    Args:
        root: Folder that holds `ADEChallengeData2016`, or that folder itself.
        download: Download what is missing (0.9 GB), but for panoptic annotations.
        labels: `scenes`: a class for each pixel; `panoptic`: segments, of `ade20k_panoptic_train.json` and the masks in
            the folder of this name, as detectron2, Mask2Former and EoMT use them.
        test_split: Split of the final score.
        **kwargs: As for every data set.

    Examples:
        >>> ADE20K.class_names[:3], ADE20K.palette[1]
        (('wall', 'building', 'sky'), (0, 128, 0))
    """

    class_names = tuple(
        (
            "wall,building,sky,floor,tree,ceiling,road,bed,windowpane,grass,cabinet,sidewalk,person,earth,"
            "door,table,mountain,plant,curtain,chair,car,water,painting,sofa,shelf,house,sea,mirror,rug,"
            "field,armchair,seat,fence,desk,rock,wardrobe,lamp,bathtub,railing,cushion,base,box,column,"
            "signboard,chest of drawers,counter,sand,sink,skyscraper,fireplace,refrigerator,grandstand,"
            "path,stairs,runway,case,pool table,pillow,screen door,stairway,river,bridge,bookcase,blind,"
            "coffee table,toilet,flower,book,hill,bench,countertop,stove,palm,kitchen island,computer,"
            "swivel chair,boat,bar,arcade machine,hovel,bus,towel,light,truck,tower,chandelier,awning,"
            "streetlight,booth,television receiver,airplane,dirt track,apparel,pole,land,bannister,"
            "escalator,ottoman,bottle,buffet,poster,stage,van,ship,fountain,conveyer belt,canopy,washer,"
            "plaything,swimming pool,stool,barrel,basket,waterfall,tent,bag,minibike,cradle,oven,ball,food,"
            "step,tank,trade name,microwave,pot,animal,bicycle,lake,dishwasher,screen,blanket,sculpture,"
            "hood,sconce,vase,traffic light,tray,ashcan,fan,pier,crt screen,plate,monitor,bulletin board,"
            "shower,radiator,glass,clock,flag"
        ).split(",")
    )
    palette = default_palette(151)[1:]
    table = label_table({0: IGNORE_INDEX} | {number: number - 1 for number in range(1, 151)})
    how_to_get = (
        f"Download it with --data.init_args.download=true, or unpack {SERVER}/ADEChallengeData2016.zip."
    )

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        labels: Literal["scenes", "panoptic"] = "scenes",
        test_split: str = "val",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, test_split=test_split, **kwargs)
        self.download = download
        self.labels = labels
        if labels == "panoptic":
            self.things = tuple(number - 1 for number in THINGS)
        self._segments: dict[Path, PanopticFile] = {}  # by the folder of the masks

    @property
    def base(self) -> Path:
        """The folder ADEChallengeData2016."""
        return self.root if (self.root / "annotations").is_dir() else self.root / "ADEChallengeData2016"

    def fetch(self) -> None:
        """Download and unpack what is missing."""
        md5 = "7328b3957e407ddae1d3cbf487f149ef"
        fetch(f"{SERVER}/ADEChallengeData2016.zip", self.root, md5, self.base)

    def list_samples(self, split: str) -> Sequence[CocoSample | tuple[Path, Path]]:
        """List (image, mask) of `train` or `val`, or (image, mask, number) of panoptic annotations."""
        if split not in FOLDERS:
            raise self.unknown(split, FOLDERS)
        folder = self.base / "images" / FOLDERS[split]
        if not folder.is_dir():
            raise self.missing(folder)
        if self.labels == "panoptic":
            masks = self.base / f"ade20k_panoptic_{split}"
            listing = masks.with_name(f"{masks.name}.json")
            if not listing.is_file():
                raise self.missing(listing, HOW_TO_MAKE)
            segments = self._segments[masks] = read_panoptic(listing, range(self.num_classes))
            return Listed(len(segments), partial(panoptic_sample, folder, masks, segments))
        masks = self.base / "annotations" / FOLDERS[split]
        pairs = [(path, masks / f"{path.stem}.png") for path in glob_visible(folder, "*.jpg")]
        tell_alone(masks, "*.png", pairs)
        return pairs

    def read(self, sample: CocoSample) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its mask."""
        if self.labels == "scenes":
            return super().read(sample)
        segments = self.read_segments(sample)
        return segments.image, mask_of(segments.numbers, segments.classes)

    def read_segments(self, sample: CocoSample) -> SegmentSample:
        """Read an image and its segments: things one by one for `labels: panoptic`, else one for each class."""
        if self.labels == "scenes":
            return super().read_segments(sample)
        image, path, number = sample
        file = self._segments[path.parent]
        class_of: dict[Id, int] = {label: label for label in range(self.num_classes)}
        return SegmentSample(self.read_image(image), *file.numbered(path, number, class_of))
