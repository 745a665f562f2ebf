"""Cityscapes: streets of 50 cities, 1024x2048 pixels, 19 classes."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import label_table
from lightning_seg.data.download import unpack
from lightning_seg.data.files import glob_visible, tell_alone
from lightning_seg.data.io import read_numbers
from lightning_seg.data.segments import SegmentSample, number_segments

ARCHIVES = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class Cityscapes(SegmentationData):
    """Fine annotations, 2975 / 500 images for train / val.

    Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016. Read from the
    `labelIds` files, and segments from `instanceIds`, so that no preparation is needed; ids that are not evaluated are
    set to `ignore_index`. The test labels are not public: its test is on val.

    Args:
        root: Folder with `leftImg8bit/` and `gtFine/`, or with the two zip files, which are then unpacked.
        test_split: Split of the final score.
        **kwargs: As for every data set.

    Examples:
        >>> Cityscapes.class_names[:3], Cityscapes.palette[1]
        (('road', 'sidewalk', 'building'), (244, 35, 232))
    """

    class_names = (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    )  # fmt: skip
    palette = (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
        (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    )  # fmt: skip
    table = label_table({number: label for label, number in enumerate(IDS)}, others=IGNORE_INDEX)
    things = tuple(range(class_names.index("person"), len(class_names)))
    download = True  # only unpacks: the owner asks for a login
    how_to_get = (
        "Register at https://www.cityscapes-dataset.com/login/, get leftImg8bit_trainvaltest.zip (11 GB)\n"
        "and gtFine_trainvaltest.zip (241 MB), and put both into one folder; they are unpacked by themselves."
    )

    def __init__(self, root: str = "data/cityscapes", test_split: str = "val", **kwargs: Any) -> None:
        super().__init__(root, test_split=test_split, **kwargs)

    def fetch(self) -> None:
        """Unpack the zip files if that was not done."""
        for folder, name in ARCHIVES.items():
            archive, unfinished = self.root / name, self.root / f"{name}.unpacking"
            if archive.is_file() and (unfinished.exists() or not (self.root / folder).is_dir()):
                unfinished.touch()
                unpack(archive, self.root)
                unfinished.unlink()

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of `train` or `val`."""
        folder = self.root / "leftImg8bit" / split
        if not folder.is_dir():
            raise self.missing(folder)
        masks = self.root / "gtFine" / split
        pairs = []
        for image in glob_visible(folder, "*/*_leftImg8bit.png"):
            frame = image.name.removesuffix("_leftImg8bit.png")
            pairs.append((image, masks / image.parent.name / f"{frame}_gtFine_labelIds.png"))
        tell_alone(masks, "*/*_gtFine_labelIds.png", pairs)
        return pairs

    def category_id(self, label: int) -> int:
        """Return the number of a class in the data set's files."""
        return IDS[label]

    def read_segments(self, sample: tuple[Path, Path]) -> SegmentSample:
        """Read an image and its segments; what the annotators could not separate is a crowd.

        Raises:
            UserError: The file of the objects is missing.
        """
        image, labels = sample
        path = labels.with_name(labels.name.replace("labelIds", "instanceIds"))
        if not path.is_file():
            raise self.missing(path)
        numbers = read_numbers(path)
        # An object has its label times 1000 plus a number, all else its label.
        label_of = {int(n): int(n) // 1000 if n >= 1000 else int(n) for n in np.unique(numbers)}
        classes = {number: IDS.index(label) for number, label in label_of.items() if label in IDS}
        crowds = {number for number, label in classes.items() if number < 1000 and label in self.things}
        return SegmentSample(self.read_image(image), *number_segments(numbers, classes, crowds))
