"""Oxford-IIIT Pet: cats and dogs before all kinds of backgrounds."""

from pathlib import Path
from typing import Any

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import label_table
from lightning_seg.data.download import fetch
from lightning_seg.data.folds import divide
from lightning_seg.data.lists import read_names

SERVER = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
ARCHIVES = {
    "images": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
    "annotations": "95a8c909bbe2e81eed6a22bccdf3f68f",
}


class OxfordPet(SegmentationData):
    """3680 / 3669 photographs of 37 breeds for trainval / test.

    Parkhi, Vedaldi, Zisserman and Jawahar, "Cats and dogs", CVPR 2012. The trimaps' border, which their
    authors could not decide, is set to `ignore_index`. `train` and `val` are 90 and 10 % of `trainval` by a fixed seed.

    Args:
        root: Folder with `images/` and `annotations/`.
        download: Download what is missing (0.8 GB).
        **kwargs: As for every data set.

    Examples:
        >>> OxfordPet.class_names[:3], OxfordPet.palette[1]
        (('background', 'pet'), (255, 167, 38))
    """

    class_names = ("background", "pet")
    palette = ((0, 0, 0), (255, 167, 38))
    table = label_table({1: 1, 2: 0, 3: IGNORE_INDEX})
    how_to_get = (
        "Download it with --data.init_args.download=true, or unpack images.tar.gz and annotations.tar.gz of\n"
        f"{SERVER}."
    )

    def __init__(self, root: str = "data/oxford-iiit-pet", download: bool = False, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.download = download

    def fetch(self) -> None:
        """Download and unpack what is missing."""
        for name, md5 in ARCHIVES.items():
            fetch(f"{SERVER}/{name}.tar.gz", self.root, md5, self.root / name)

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of `train`, `val`, `trainval` or `test`."""
        if split not in ("train", "val", "trainval", "test"):
            raise self.unknown(split, ("train", "val", "trainval", "test"))
        listing = self.root / "annotations" / f"{'test' if split == 'test' else 'trainval'}.txt"
        if not listing.is_file():
            raise self.missing(listing)
        names = [line.split()[0] for line in read_names(listing)]
        if split in ("train", "val"):
            names = divide(names, {"train": 0.9, "val": 0.1})[split]
        trimaps = self.root / "annotations" / "trimaps"
        return [(self.root / "images" / f"{name}.jpg", trimaps / f"{name}.png") for name in names]
