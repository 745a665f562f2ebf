"""ISBI 2012: membranes of neurons in electron microscopy."""

from pathlib import Path
from typing import Any

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.classes import label_table
from lightning_seg.data.files import glob_visible, tell_alone


class ISBI(SegmentationData):
    """Slices of 512x512 pixels through the ventral nerve cord of a Drosophila larva.

    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
    connectomics", Frontiers in Neuroanatomy 2015. White is cell, which is 78 % of all pixels: "all cell" has
    an IoU of 0.78 for cell, so look at the membrane.

    The labels of the challenge's test are not public. `train` is all slices but the last fifth, `val` the
    last fifth (neighbors look alike, so a random division would flatter), `all` all of them. Folds are blocks
    of consecutive slices.

    Args:
        root: Folder with `image/` and `label/`.
        test_split: Split of the final score.
        **kwargs: As for every data set.

    Examples:
        >>> ISBI.class_names[:3], ISBI.palette[1]
        (('membrane', 'cell'), (235, 235, 210))
    """

    class_names = ("membrane", "cell")
    palette = ((230, 60, 60), (235, 235, 210))
    table = label_table({255: 1})
    sequence = True
    how_to_get = (
        "Get the training volume and labels of https://imagej.net/events/isbi-2012-segmentation-challenge\n"
        "and save one PNG a slice: image/0.png, label/0.png and so on."
    )

    def __init__(self, root: str = "data/ISBI2012", test_split: str = "val", **kwargs: Any) -> None:
        super().__init__(root, test_split=test_split, **kwargs)

    def list_samples(self, split: str) -> list[tuple[Path, Path]]:
        """List (image, mask) of `train`, `val` or `all`, in the order of the slices."""
        folder = self.root / "image"
        if not folder.is_dir():
            raise self.missing(folder)
        images = sorted(glob_visible(folder, "*.png"), key=lambda path: (len(path.stem), path.stem))
        pairs = [(path, self.root / "label" / path.name) for path in images]
        tell_alone(self.root / "label", "*.png", pairs)
        first = len(pairs) - len(pairs) // 5
        parts = {"train": pairs[:first], "val": pairs[first:], "all": pairs}
        if split not in parts:
            raise self.unknown(split, parts)
        return parts[split]
