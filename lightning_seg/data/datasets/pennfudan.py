"""Penn-Fudan: pedestrians in front of two universities."""

from pathlib import Path
from typing import Any

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import label_table
from lightning_seg.data.files import glob_visible, tell_alone
from lightning_seg.data.folds import divide
from lightning_seg.data.instances import instance_sample, masks_of_numbers
from lightning_seg.data.io import read_numbers
from lightning_seg.data.transforms.batch import Sample


class PennFudan(SegmentationData):
    """170 photographs with 345 pedestrians, each with a mask of its own.

    Wang, Shi, Song and Shen, "Object detection combining recognition and segmentation", ACCV 2007. There are
    no official splits: `train`, `val` and `test` are 70, 15 and 15 % by a fixed seed, `all` is all of them.

    Args:
        root: Folder with `PNGImages/` and `PedMasks/`.
        **kwargs: As for every data set.

    Examples:
        >>> PennFudan.class_names[:3], PennFudan.palette[1]
        (('background', 'pedestrian'), (220, 20, 60))
    """

    class_names = ("background", "pedestrian")
    palette = ((0, 0, 0), (220, 20, 60))
    table = label_table({0: 0}, others=1)  # the files number the persons
    how_to_get = "Get https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip and unpack it."

    def __init__(self, root: str = "data/PennFudanPed", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of `train`, `val`, `test` or `all`."""
        folder = self.root / "PNGImages"
        if not folder.is_dir():
            raise self.missing(folder)
        images = glob_visible(folder, "*.png")
        pairs = [(path, self.root / "PedMasks" / f"{path.stem}_mask.png") for path in images]
        tell_alone(self.root / "PedMasks", "*_mask.png", pairs)
        parts = divide(pairs, {"train": 0.7, "val": 0.15, "test": 0.15}) | {"all": pairs}
        if split not in parts:
            raise self.unknown(split, parts)
        return parts[split]

    def read_instances(self, sample: tuple[Path, Path]) -> Sample:
        """Read the image and its persons, as a sample of `lightning_seg.data.instances`."""
        masks = masks_of_numbers(read_numbers(sample[1]))
        return instance_sample(self.read_image(sample[0]), masks, [1] * len(masks))
