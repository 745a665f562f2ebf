"""Files of predictions: which images are read, and where the results of each are written."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

from lightning_seg.data.files import list_images, without_ending
from lightning_seg.data.io import count_slices
from lightning_seg.data.volumes import Slice, part_of
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import write_whole

KINDS = ("masks", "overlays", "objects", "segments", "uncertainty", "probabilities")
"""Folders that predictions are written to."""
INDEX = "predictions.json"
"""Lists the predictions of a folder, and marks it as one: its pictures are not read as images to predict."""


@dataclass(frozen=True)
class Outputs:
    """Where the predictions of images are written.

    Attributes:
        folder: The folder of `KINDS`.
        names: For each image, or slice of a stack, the path of its results in the folder of a kind, without ending.
    """

    folder: Path
    names: dict[Path | Slice, Path]

    def file(self, kind: str, image: str | Path | Slice, ending: str) -> Path:
        """Return the file of an image's result, and create the folder that it is in.

        Args:
            kind: One of `KINDS`.
            image: The image, one of `names`.
            ending: Ending of the file, such as ``.png``.
        """
        name = self.names[part_of(str(image))]
        path = self.folder / kind / name.with_name(name.name + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def create(self, kinds: Sequence[str], run: Path) -> None:
        """Create the folders, and list in `INDEX` what each image's results are called.

        Args:
            kinds: Those of `KINDS` that are written.
            run: The run that predicts.

        Raises:
            UserError: They cannot be created.
        """
        try:
            for kind in kinds:
                (self.folder / kind).mkdir(parents=True, exist_ok=True)
            names = {str(image): name.as_posix() for image, name in self.names.items()}
            content = {"run": str(run), "kinds": list(kinds), "images": names}
            write_whole(self.folder / INDEX, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder}: {error.strerror}; choose another --output"
            ) from error


def plan_outputs(source: str | Path, folder: Path) -> Outputs:
    """List the images to predict and name the results of each, so that none overwrites another.

    Results are named as the image without its ending, those of stacks in a folder of this name; images in sub-folders
    have theirs in the same; images that differ in nothing but their
    ending keep it, as in ``a.jpg.png`` and ``a.tif.png``. Earlier predictions inside the source are no images.

    Args:
        source: A folder of images, or one image.
        folder: Where predictions are written.

    Raises:
        UserError: There is no image, or predictions would overwrite images or one another.
    """
    if not str(source):
        raise UserError("IMAGES is empty: name a folder of images, or one image.")
    source = Path(source).expanduser()
    base = (source if source.is_dir() else source.parent).resolve()
    own = folder.resolve()

    @cache
    def predicted(place: Path) -> bool:
        parents = [place.resolve(), *place.resolve().parents]
        return any(
            (parent.parent == own or (parent.parent / INDEX).is_file())
            for parent in parents
            if parent.name in KINDS and not base.is_relative_to(parent)
        )

    found = list_images(source)
    images = [image for image in found if not predicted(image.parent)]
    if not images:
        raise UserError(
            f"all {len(found)} images in {source} are predictions; name the folder of the images."
        )
    for image in images:
        if any(image.resolve().is_relative_to(own / kind) for kind in KINDS):
            raise UserError(
                f"predictions in {folder} would lie among the images, such as {image}: choose another --output."
            )
    names = _names(images, source if source.is_dir() else source.parent)
    slices = {image: _slices(image) for image in images}
    parts = {
        part: names[image] / f"{part.index:04}" if isinstance(part, Slice) else names[image]
        for image, parts in slices.items()
        for part in parts
    }
    _refuse_equal(parts)  # a stack's slices may be named as images in a folder of its name
    return Outputs(folder, parts)


def _slices(image: Path) -> list[Path | Slice]:
    """Take the pages of a TIFF, or the slices of a medical image, apart."""
    if not image.name.lower().endswith((".tif", ".tiff", ".nii", ".nii.gz", ".dcm")):
        return [image]
    try:
        count = count_slices(image)
    except UserError:  # told when it is its turn
        return [image]
    return [Slice(image, index) for index in range(count)] if count > 1 else [image]


def _names(images: Sequence[Path], base: Path) -> dict[Path, Path]:
    """Name the results of images; names may not differ in capitals only, which some file systems do not tell apart."""
    relative = {image: image.relative_to(base) for image in images}
    bare = {image: Path(without_ending(path)) for image, path in relative.items()}
    stems = Counter(str(path).casefold() for path in bare.values())
    names = {
        image: path if stems[str(bare[image]).casefold()] > 1 else bare[image]
        for image, path in relative.items()
    }
    _refuse_equal(names)
    return names


def _refuse_equal(names: Mapping[Path, Path] | Mapping[Path | Slice, Path]) -> None:
    taken: dict[str, Path | Slice] = {}
    for image, name in names.items():
        other = taken.setdefault(str(name).casefold(), image)
        if other != image:
            raise UserError(
                f"the predictions of {other} and {image} would have the same name: rename one of them."
            )


def as_bytes(values: Tensor) -> np.ndarray:
    """Turn values (H, W) in 0..1 into 0..255."""
    return (255 * values).round().byte().cpu().numpy()
