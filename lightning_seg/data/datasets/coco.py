"""COCO: everyday scenes; things as instances, stuff and panoptic annotations as classes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision import tv_tensors

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import default_palette, label_table
from lightning_seg.data.coco_file import CocoFile, read_coco
from lightning_seg.data.coco_index import Annotation, CocoImages, Id, plain
from lightning_seg.data.coco_masks import turn, turn_box
from lightning_seg.data.coco_panoptic import CocoSample, Listed, PanopticFile, panoptic_sample, read_panoptic
from lightning_seg.data.files import glob_visible
from lightning_seg.data.instances import instance_sample
from lightning_seg.data.segments import Numbered, SegmentSample, mask_of
from lightning_seg.data.transforms.batch import Sample
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
    """Common Objects in Context as classes, 118287 / 5000 images for train / val (2017), or a data set in its format.

    Lin et al., "Microsoft COCO", ECCV 2014; Kirillov et al., "Panoptic segmentation", CVPR 2019; Caesar et
    al., "COCO-Stuff", CVPR 2018. The test labels are not public: its test is on val.

    Args:
        root: Folder with `train2017/`, `val2017/` and `annotations/`.
        labels: `instances`: background and the categories that the annotations list, COCO's 80 things or others, in the
            order of their ids; smaller objects over larger ones, crowds are set to `ignore_index`;
            `panoptic`: 133 classes; `stuff`: the 171 classes of COCO-Stuff.
        year: Year in the names of folders and files.
        test_split: Split of the final score.
        **kwargs: As for every data set.

    Raises:
        UserError: An annotation file holds something that has no certain meaning.

    Examples:
        >>> COCO("data/coco", labels="panoptic", batch_size=8, crop_size=(512, 512)).num_outputs
        133
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
        self._files: dict[Path, CocoFile] = {}
        if labels == "instances":
            categories = self._categories() or dict(zip(THING_IDS, THINGS, strict=True))
            self.class_names = ("background", *categories.values())
            self.class_of: dict[Id, int] = {number: label for label, number in enumerate(categories, 1)}
        elif labels == "panoptic":
            self.class_names = (*THINGS, *PANOPTIC_STUFF)
            self.things = tuple(range(len(THINGS)))
            self.class_of = {number: label for label, number in enumerate([*THING_IDS, *PANOPTIC_STUFF_IDS])}
        else:
            self.class_names = (*THINGS, *STUFF)
            numbers = [*THING_IDS, *range(92, 183)]
            self.table = label_table({n - 1: label for label, n in enumerate(numbers)}, others=IGNORE_INDEX)
        self.palette = default_palette(self.num_classes)
        self._segments: dict[Path, PanopticFile] = {}  # by the folder of the masks

    def list_samples(self, split: str) -> Sequence[CocoSample | tuple[Path, Path]]:
        """List (image, annotations, number), (image, mask, number) or (image, mask) of `train` or `val`."""
        images, annotations = self.root / f"{split}{self.year}", self.root / "annotations"
        if not images.is_dir():
            raise self.missing(images)
        if self.labels == "stuff":
            masks = annotations / "stuffthingmaps" / images.name
            if not masks.is_dir():
                raise self.missing(masks)
            found = {path.stem: path for path in glob_visible(masks, "*.png")}
            pictures = {path.stem for path in glob_visible(images, "*.jpg")}
            if alone := sorted(found.keys() ^ pictures):
                where = f"no mask in {masks}" if alone[0] in pictures else f"no image in {images}"
                raise UserError(f"{len(alone)} images and masks have no partner, first {alone[0]}: {where}.")
            return [(images / f"{name}.jpg", path) for name, path in found.items()]
        listing = self._listing(split)
        if not listing.is_file():
            raise self.missing(listing)
        if self.labels == "panoptic":
            masks = self.root / "annotations" / f"panoptic_{images.name}"
            segments = self._segments[masks] = read_panoptic(listing, self.class_of)
            return Listed(len(segments), partial(panoptic_sample, images, masks, segments))
        file = self._file(listing)
        ours = dict(zip(self.class_of, self.class_names[1:], strict=True))
        if file.categories != ours:
            differing = sorted({*file.categories.items()} ^ {*ours.items()}, key=str)
            raise UserError(
                f"{listing} has other categories than the other split: {differing[:6]}. All splits need the same ones."
            )
        return Listed(len(file.images), partial(_instance_sample, images, file.images))

    def read(self, sample: CocoSample) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its mask, or paint the mask."""
        if self.labels == "stuff":
            return super().read(sample)
        image = self.read_image(sample[0])
        if self.labels == "panoptic":
            return image, mask_of(*self._panoptic(sample[1], sample[2])[:2])
        mask = np.zeros(image.shape[:2], np.uint8)
        painted = [(entry, _area(entry, one), one) for entry, one, _ in self._painted(sample, image)]
        for entry, _, one in sorted(painted, key=lambda found: (not found[0].is_crowd, -found[1])):
            mask[one] = IGNORE_INDEX if entry.is_crowd else self.class_of[entry.category]
        return image, mask

    def read_instances(self, sample: CocoSample) -> Sample:
        """Read an image and its things, as a sample of `lightning_seg.data.instances`; for `labels: instances`.

        Boxes are those of the annotation, in fractions of pixels, as COCO's scores want them, and so is "area" (N,);
        where the file has none they are those of the mask.
        """
        if self.labels != "instances":
            raise UserError(
                f"COCO has objects with labels=instances only; data.init_args.labels is {self.labels}."
            )
        image = self.read_image(sample[0])
        painted = [found for found in self._painted(sample, image) if found[1].any()]
        masks = np.array([mask for _, mask, _ in painted], bool).reshape(-1, *image.shape[:2])
        labels = [self.class_of[entry.category] for entry, _, _ in painted]
        found = instance_sample(image, masks, labels, [entry.is_crowd for entry, _, _ in painted])
        boxes = found["boxes"].as_subclass(torch.Tensor).clone()
        for place, (entry, _, box) in enumerate(painted):
            if box is not None:
                left, top, width, height = box
                stated = torch.tensor([left, top, left + width, top + height])
                off, as_corners = (stated - boxes[place]).abs().max(), torch.tensor(box) - boxes[place]
                if off > 3 and as_corners.abs().max() <= 1.5:
                    raise UserError(
                        f"{entry.where}: bbox is {plain(box)}, left, top, right and bottom of its mask; COCO's "
                        "format has left, top, width and height."
                    )
                apart = (stated[:2] >= boxes[place][2:]) | (stated[2:] <= boxes[place][:2])
                if off > 3 and apart.any() and not entry.is_crowd:
                    raise UserError(
                        f"{entry.where}: bbox {plain(box)} lies beside its mask, whose box from left, top to right, "
                        f"bottom is {boxes[place].tolist()}."
                    )
                boxes[place] = stated
        found["boxes"] = tv_tensors.wrap(boxes, like=found["boxes"])
        areas = [_area(entry, mask) for entry, mask, _ in painted]
        found["area"] = torch.tensor(areas, dtype=torch.float64)
        return found

    def _painted(
        self, sample: CocoSample, image: np.ndarray
    ) -> list[tuple[Annotation, np.ndarray, tuple[float, ...] | None]]:
        """Return each annotation of an image with its mask (H, W) and its box, of the upright image."""
        listed = self._file(sample[1]).images[sample[2]]
        size, orientation = listed.frame(sample[0], (image.shape[0], image.shape[1]))
        found = []
        for entry in listed.annotations:
            mask = turn(entry.paint(size), orientation)
            box = entry.box and turn_box(entry.box, orientation, size)
            found.append((entry, mask, box))
        return found

    def category_id(self, label: int) -> int:
        """Return the number of a class in the data set's files, for `labels: panoptic`."""
        return [*THING_IDS, *PANOPTIC_STUFF_IDS][label] if self.labels == "panoptic" else label

    def _listing(self, split: str) -> Path:
        return self.root / "annotations" / f"{self.labels}_{split}{self.year}.json"

    def _file(self, listing: Path) -> CocoFile:
        if listing not in self._files:
            self._files[listing] = read_coco(listing)
        return self._files[listing]

    def _categories(self) -> dict[Id, str]:
        """Read the categories of the smaller file: for COCO itself that of val, a twentieth of the other."""
        splits = "+".join((self.train_split, self.val_split, self.test_split)).split("+")
        there = [file for file in map(self._listing, dict.fromkeys(splits)) if file.is_file()]
        return self._file(min(there, key=lambda file: file.stat().st_size)).categories if there else {}

    def read_segments(self, sample: CocoSample) -> SegmentSample:
        """Read an image and its segments: things one by one for `labels: panoptic`, else one for each class."""
        if self.labels != "panoptic":
            return super().read_segments(sample)
        return SegmentSample(self.read_image(sample[0]), *self._panoptic(sample[1], sample[2]))

    def _panoptic(self, path: Path, number: Id) -> Numbered:
        file = next(file for folder, file in self._segments.items() if path.is_relative_to(folder))
        return file.numbered(path, number, self.class_of)


def _area(entry: Annotation, mask: np.ndarray) -> float:
    """Return the area that the annotation states, or that of its mask, in pixels."""
    return float(mask.sum()) if entry.area is None else entry.area


def _instance_sample(folder: Path, images: CocoImages, row: int) -> tuple[Path, Path, Id]:
    return folder / images.names[row], images.path, images.id_at(row)
