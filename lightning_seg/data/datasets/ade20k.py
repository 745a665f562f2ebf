"""ADE20K: scenes of every kind, 150 classes."""

from pathlib import Path
from typing import Any

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import default_palette, label_table
from lightning_seg.data.download import fetch
from lightning_seg.data.files import glob_visible, tell_alone

SERVER = "http://data.csail.mit.edu/places/ADEchallenge"
FOLDERS = {"train": "training", "val": "validation"}


class ADE20K(SegmentationData):
    """The scene parsing benchmark, 20210 / 2000 images for train / val.

    Zhou et al., "Scene parsing through ADE20K dataset", CVPR 2017. "Other objects" (0 in the files) are set
    to `ignore_index`. The test labels are not public: its test is on val.

    Args:
        root: Folder that holds `ADEChallengeData2016`, or that folder itself.
        download: Download what is missing (0.9 GB).
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
        self, root: str = "data", download: bool = False, test_split: str = "val", **kwargs: Any
    ) -> None:
        super().__init__(root, test_split=test_split, **kwargs)
        self.download = download

    @property
    def base(self) -> Path:
        """The folder ADEChallengeData2016."""
        return self.root if (self.root / "annotations").is_dir() else self.root / "ADEChallengeData2016"

    def fetch(self) -> None:
        """Download and unpack what is missing."""
        md5 = "7328b3957e407ddae1d3cbf487f149ef"
        fetch(f"{SERVER}/ADEChallengeData2016.zip", self.root, md5, self.base)

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of `train` or `val`."""
        if split not in FOLDERS:
            raise self.unknown(split, FOLDERS)
        folder = self.base / "images" / FOLDERS[split]
        if not folder.is_dir():
            raise self.missing(folder)
        masks = self.base / "annotations" / FOLDERS[split]
        pairs = [(path, masks / f"{path.stem}.png") for path in glob_visible(folder, "*.jpg")]
        tell_alone(masks, "*.png", pairs)
        return pairs
