"""COCO: everyday scenes; things as instances, stuff and panoptic annotations as classes."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision import tv_tensors

from lightning_seg.constants import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.instances import instance_sample
from lightning_seg.data.io import default_palette, label_table, read_image
from lightning_seg.errors import UserError

THINGS = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,"
    "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
    "surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,"
    "broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,"
    "mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,"
    "teddy bear,hair drier,toothbrush"
).split(",")
THING_IDS = [i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]
STUFF = (
    "banner,blanket,branch,bridge,building-other,bush,cabinet,cage,cardboard,carpet,ceiling-other,"
    "ceiling-tile,cloth,clothes,clouds,counter,cupboard,curtain,desk-stuff,dirt,door-stuff,fence,"
    "floor-marble,floor-other,floor-stone,floor-tile,floor-wood,flower,fog,food-other,fruit,"
    "furniture-other,grass,gravel,ground-other,hill,house,leaves,light,mat,metal,mirror-stuff,moss,"
    "mountain,mud,napkin,net,paper,pavement,pillow,plant-other,plastic,platform,playingfield,railing,"
    "railroad,river,road,rock,roof,rug,salad,sand,sea,shelf,sky-other,skyscraper,snow,solid-other,stairs,"
    "stone,straw,structural-other,table,tent,textile-other,towel,tree,vegetable,wall-brick,wall-concrete,"
    "wall-other,wall-panel,wall-stone,wall-tile,wall-wood,water-other,waterdrops,window-blind,"
    "window-other,wood"
).split(",")  # ids 92 to 182
PANOPTIC_STUFF = (
    "banner,blanket,bridge,cardboard,counter,curtain,door-stuff,floor-wood,flower,fruit,gravel,house,"
    "light,mirror-stuff,net,pillow,platform,playingfield,railroad,river,road,roof,sand,sea,shelf,snow,"
    "stairs,tent,towel,wall-brick,wall-stone,wall-tile,wall-wood,water-other,window-blind,window-other,"
    "tree-merged,fence-merged,ceiling-merged,sky-other-merged,cabinet-merged,table-merged,"
    "floor-other-merged,pavement-merged,mountain-merged,grass-merged,dirt-merged,paper-merged,"
    "food-other-merged,building-other-merged,rock-merged,wall-other-merged,rug-merged"
).split(",")
PANOPTIC_STUFF_IDS = (
    92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149,
    151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, 184, 185, 186, 187, 188, 189,
    190, 191, 192, 193, 194, 195, 196, 197, 198, 199, 200,
)  # fmt: skip
HOW_TO_GET = """\
Get {year} images and annotations of https://cocodataset.org/#download: the folder should hold train{year}/,
val{year}/ and annotations/{needed}."""
NEEDED = {
    "instances": "instances_train{year}.json and instances_val{year}.json",
    "panoptic": "panoptic_train{year}.json, panoptic_train{year}/ (PNG) and the same for val",
    "stuff": "stuffthingmaps/train{year}/ (PNG) and val{year}/, of https://github.com/nightrome/cocostuff",
}


class COCO(SegmentationData):
    """Common Objects in Context as classes, 118287 / 5000 images for train / val (2017).

    Lin et al., "Microsoft COCO", ECCV 2014; Kirillov et al., "Panoptic segmentation", CVPR 2019; Caesar et
    al., "COCO-Stuff", CVPR 2018. The test labels are not public: its test is on val.

    Args:
        root: Folder with `train2017/`, `val2017/` and `annotations/`.
        labels: `instances`: background and 80 things, smaller ones over larger ones, crowds not counted;
            `panoptic`: 133 classes; `stuff`: the 171 classes of COCO-Stuff.
        year: Year in the names of folders and files.
        test_split: Split of the final score.
        **kwargs: As for every data set.
    """

    def __init__(
        self,
        root: str = "data/coco",
        labels: Literal["instances", "panoptic", "stuff"] = "instances",
        year: int = 2017,
        test_split: str = "val",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, test_split=test_split, **kwargs)
        self.labels = labels
        self.year = year
        self.how_to_get = HOW_TO_GET.format(year=year, needed=NEEDED[labels].format(year=year))
        if labels == "instances":
            self.class_names = ("background", *THINGS)
            self.class_of = {number: label for label, number in enumerate(THING_IDS, 1)}
        elif labels == "panoptic":
            self.class_names = (*THINGS, *PANOPTIC_STUFF)
            self.class_of = {number: label for label, number in enumerate([*THING_IDS, *PANOPTIC_STUFF_IDS])}
        else:
            self.class_names = (*THINGS, *STUFF)
            numbers = [*THING_IDS, *range(92, 183)]
            self.table = label_table({n - 1: label for label, n in enumerate(numbers)}, others=IGNORE_INDEX)
        self.palette = default_palette(self.num_classes)
        self._annotations: dict[int, list[dict]] = {}  # of each image

    def list_samples(self, split: str) -> list[tuple]:
        """List (image, number), (image, mask, number) or (image, mask) of `train` or `val`."""
        images, annotations = self.root / f"{split}{self.year}", self.root / "annotations"
        if not images.is_dir():
            raise self.missing(images)
        if self.labels == "stuff":
            masks = annotations / "stuffthingmaps" / images.name
            if not masks.is_dir():
                raise self.missing(masks)
            return [(images / f"{path.stem}.jpg", path) for path in sorted(masks.glob("*.png"))]
        listing = annotations / f"{self.labels}_{images.name}.json"
        if not listing.is_file():
            raise self.missing(listing)
        contents = json.loads(listing.read_text())
        names = {image["id"]: image["file_name"] for image in contents["images"]}
        if self.labels == "panoptic":
            entries = sorted(contents["annotations"], key=lambda entry: entry["image_id"])
            self._annotations |= {entry["image_id"]: entry["segments_info"] for entry in entries}
            masks = annotations / f"panoptic_{images.name}"
            return [(images / names[e["image_id"]], masks / e["file_name"], e["image_id"]) for e in entries]
        self._annotations |= {number: [] for number in names}
        for entry in contents["annotations"]:
            self._annotations[entry["image_id"]].append(entry)
        return [(images / name, number) for number, name in sorted(names.items())]

    def read(self, sample: tuple) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its mask, or paint the mask."""
        if self.labels == "stuff":
            return super().read(sample)
        image, segments = read_image(sample[0]), self._annotations[sample[-1]]
        if self.labels == "panoptic":
            return image, self._panoptic(sample[1], segments)
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        for entry in sorted(segments, key=lambda entry: (not entry["iscrowd"], -entry["area"])):
            label = IGNORE_INDEX if entry["iscrowd"] else self.class_of[entry["category_id"]]
            mask[paint(entry["segmentation"], (height, width))] = label
        return image, mask

    def read_instances(self, sample: tuple) -> dict[str, Any]:
        """Read an image and its things, as a sample of `lightning_seg.data.instances`; for `labels: instances`.

        Boxes are those of the annotation, in fractions of pixels, as COCO's scores want them, and so is "area" (N,).
        """
        if self.labels != "instances":
            raise UserError(
                f"COCO has objects with labels=instances only; data.init_args.labels is {self.labels}."
            )
        image, entries = read_image(sample[0]), self._annotations[sample[-1]]
        size = image.shape[:2]
        masks = np.array([paint(entry["segmentation"], size) for entry in entries], bool).reshape(-1, *size)
        kept = [bool(mask.any()) for mask in masks]
        masks = masks[kept]
        entries = [entry for entry, keep in zip(entries, kept, strict=True) if keep]
        labels = [self.class_of[entry["category_id"]] for entry in entries]
        found = instance_sample(image, masks, labels, [bool(entry["iscrowd"]) for entry in entries])
        boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found["boxes"] = tv_tensors.wrap(boxes, like=found["boxes"])
        found["area"] = torch.tensor([entry["area"] for entry in entries], dtype=torch.float64)
        return found

    def _panoptic(self, path: Path, segments: list[dict]) -> np.ndarray:
        numbers = read_image(path).astype(np.int32) @ np.array([1, 256, 65536])
        mask = np.full(numbers.shape, IGNORE_INDEX, np.uint8)
        for segment in segments:
            mask[numbers == segment["id"]] = self.class_of[segment["category_id"]]
        return mask


def paint(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Turn a COCO segmentation into a mask, pixel by pixel as COCO's own tools do.

    Args:
        segmentation: Polygons [[x, y, x, y, ...], ...], or run lengths {"size": ..., "counts": ...} down the columns,
            as a list of numbers or compressed.
        size: Height and width, in pixels.

    Returns:
        Mask (H, W), ``bool``.
    """
    from faster_coco_eval.core import mask as coco_mask

    if not segmentation:
        return np.zeros(size, bool)
    height, width = size
    if isinstance(segmentation, dict):
        segmentation = {"size": [height, width], **segmentation}
    return coco_mask.decode(coco_mask.segmToRle(segmentation, width, height)).astype(bool)
