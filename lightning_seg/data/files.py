"""Which image files a folder holds, and by which names."""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from lightning_seg.errors import UserError

IMAGE_SUFFIXES = {
    ".bmp", ".dcm", ".gif", ".jpeg", ".jpg", ".nii", ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
HIDDEN = {"__MACOSX", "@eaDir"}  # what archives of macOS and network drives of Synology add


class Unpaired(UserError):
    """Some images have no mask, or masks no image.

    Args:
        message: What to tell, with some of the files.
        files: All of the files, and what each of them lacks.
    """

    def __init__(self, message: str, files: Mapping[str, str]) -> None:
        super().__init__(message)
        self.files = files


def list_images(folder: str | Path) -> list[Path]:
    """List the image files of a folder and its subfolders, sorted, or the one file if it is a file.

    Hidden files and folders are left out, links to folders are followed.

    Raises:
        UserError: There is no such folder or file, no image in it, a link that leads nowhere or in a circle, or a
            folder that may not be read.
    """
    folder = Path(folder).expanduser()
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"There is no folder or image {folder}.")
    found = sorted(path for path in _walk(folder, ()) if is_image(path))
    if not found:
        raise UserError(f"No image in {folder}. Known endings: {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return found


def is_image(path: PurePath) -> bool:
    """Whether a file has the ending of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES or path.name.lower().endswith(".nii.gz")


def without_ending(path: PurePath) -> PurePath:
    """The path of a file without its ending."""
    bare = path.with_suffix("")
    return bare.with_suffix("") if path.name.lower().endswith(".nii.gz") else bare


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is the system's or an editor's, such as `._x.png`, and nobody's data."""
    return name.startswith(".") or name in HIDDEN


def glob_visible(folder: Path, pattern: str) -> list[Path]:
    """The files that match a pattern, its ending in small or capital letters, sorted, without hidden ones."""
    start, dot, ending = pattern.rpartition(".")
    either = "".join(f"[{letter.lower()}{letter.upper()}]" for letter in ending)
    return sorted(
        path
        for path in folder.glob(start + dot + either)
        if not any(map(is_hidden, path.relative_to(folder).parts)) and not path.is_dir()
    )


def tell_alone(folder: Path, pattern: str, pairs: Sequence[tuple[Path, Path]]) -> None:
    """Warn of masks without an image, which are in no split.

    Args:
        folder: Of the masks.
        pattern: That the names of all masks in it match.
        pairs: The images and their masks.
    """
    from lightning.pytorch.utilities import rank_zero_warn

    used = {mask for _, mask in pairs}
    alone = sorted(path for path in folder.glob(pattern) if path not in used and not is_hidden(path.name))
    if alone:
        rank_zero_warn(f"{len(alone)} masks in {folder} have no image and are left out: {alone[0].name} ...")


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f"{folder} is a link to {real}, a folder that it lies in. Remove the link.")
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from None
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, real))
        elif entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link to {os.readlink(entry.path)}, which does not exist.")
        else:
            yield Path(entry.path)


def by_name(folder: Path, part: str = "", suffix: str = "") -> dict[str, Path]:
    """Image files below a folder by their names: the path in the folder without ending, composed (Unicode NFC).

    Args:
        folder: The folder.
        part: Only files in this subfolder of it.
        suffix: Only files whose names end so; the names come without it.

    Raises:
        UserError: Two files have one name.
    """
    names: dict[str, Path] = {}
    for path in list_images(folder / part):
        name = composed(without_ending(path.relative_to(folder)).as_posix())
        if not name.endswith(suffix):
            continue
        name = name.removesuffix(suffix)
        if name in names:
            raise UserError(
                f"{names[name]} and {path} have one name, and which of them is meant is not certain. Move one of them "
                "away."
            )
        names[name] = path
    return names


def composed(name: str) -> str:
    """A name as Linux and Windows write it (Unicode NFC); macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Key that sorts names as people count: frame_9 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
