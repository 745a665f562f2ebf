"""What a list of files means: each name exactly one file, or it is an error."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from lightning_seg.data.files import Unpaired, composed, is_image, without_ending
from lightning_seg.errors import UserError

SEPARATORS = r"\s*[,;\t]\s*|\s+"


def read_lines(path: Path) -> list[str]:
    """Read a text file of one entry a line, in UTF-8 or, with a byte order mark, UTF-16; empty lines are left out.

    Raises:
        UserError: The file has another encoding.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path} is not text in {encoding} (line {line}). Save it as UTF-8.") from None
    if "\0" in text:
        raise UserError(f"{path} is not text in UTF-8, probably in UTF-16 without a mark. Save it as UTF-8.")
    return [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]


def read_names(path: Path) -> list[str]:
    """Read a list of samples, one a line.

    Raises:
        UserError: A line stands there twice, by which its sample would count twice, or see `read_lines`.
    """
    lines = read_lines(path)
    if len(known := {*lines}) < len(lines):
        twice = next(line for line in lines if lines.count(line) > 1)
        raise UserError(
            f"{path} has the line {twice!r} {lines.count(twice)} times, and its sample would count as often. Remove "
            f"lines that are there before: {len(lines) - len(known)}."
        )
    return lines


def columns(line: str) -> list[str]:
    """Split a line at tabs, commas, semicolons or spaces."""
    return re.split(SEPARATORS, line)


def listed_pairs(
    listing: Path, images: "Names", masks: "Names", partners: Mapping[str, Path]
) -> list[tuple[Path, Path]]:
    """Find the images and masks that a list names, one or two names a line.

    Args:
        listing: The list.
        images: The images there are.
        masks: The masks there are.
        partners: The mask of each image by its name.

    Raises:
        Unpaired: A name of no file.
        UserError: A line that may mean several things, or two lines that mean one file.
    """
    lines: dict[Path, str] = {}
    pairs: list[tuple[Path, Path]] = []
    missing: dict[str, str] = {}
    for line in read_names(listing):
        name = images.find(line)
        mask = None if name is None else partners.get(name)
        if name is None and (pair := _two_columns(listing, line, images, masks)) is not None:
            name, mask = pair[0], masks.files[pair[1]]
            if partners.get(name, mask) != mask:
                raise UserError(
                    f"{listing} pairs {images.files[name]} with {mask}, but {partners[name]} has its name. Pair them "
                    "as they are named, or rename the files."
                )
        if name is None or mask is None:
            missing[line] = f"no such file in {images.folder if name is None else masks.folder}"
            continue
        image = images.files[name]
        if (before := lines.setdefault(image, line)) != line:
            raise UserError(f"{listing} names {image} twice, as {before!r} and as {line!r}.")
        pairs.append((image, mask))
    if missing:
        first, lack = next(iter(missing.items()))
        raise Unpaired(
            f"{listing} names {len(missing)} files that are not there, first {first!r}: {lack}.", missing
        )
    return pairs


def _two_columns(listing: Path, line: str, images: "Names", masks: "Names") -> tuple[str, str] | None:
    """The names of the image and of the mask in a line of two columns; None if it is none."""
    found, faults = [], []
    for separator in re.finditer(SEPARATORS, line):
        left, right = line[: separator.start()], line[separator.end() :]
        try:
            image, other_mask = images.find(left), masks.find(right)
            mask, other_image = masks.find(left), images.find(right)
        except UserError as error:
            faults.append(f"is not certain: {error}")
            continue
        if image is not None and other_mask is not None:
            found.append((image, other_mask))
        elif mask is not None and other_image is not None:
            faults.append("names the mask first: the image comes first, then its mask")
        elif image is not None:
            faults.append(
                f"goes on after the image {left!r} with {right!r}, which is no mask in {masks.folder}"
            )
    if len(set(found)) > 1:
        raise UserError(f"The line {line!r} of {listing} can be divided into image and mask in several ways.")
    if not found and faults:
        raise UserError(f"The line {line!r} of {listing} {faults[0].rstrip('.')}.")
    return found[0] if found else None


class Names:
    """Finds the file that a name in a list means.

    A name may be a path from the data set's root, from the folder of the files or from the root of a disk, with or
    without ending, or the end of such a path. Of a path from another machine the last parts are compared: all of the
    file's path in its folder must be among them, and what comes before has no spaces, commas or tabs. Where a file's
    name alone is the same, its folder must have the same name, too.

    Args:
        files: Files by their names, as `by_name` gives them.
        folder: The folder that the names count from.
        root: Folder of the data set.
    """

    def __init__(self, files: Mapping[str, Path], folder: Path, root: Path) -> None:
        self.files, self.folder, self.root = files, folder, root
        self._alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in files:
            self._alike[PurePosixPath(name).name].append(name)

    def find(self, text: str) -> str | None:
        """Find the name of the one file that is meant; None if there is none.

        Raises:
            UserError: Several files may be meant, or a file that lies elsewhere.
        """
        text = composed(text)
        if "\\" in text and not any(stem in self.files for stem in _stems(text)):
            text = text.replace("\\", "/")  # a list made on Windows
        absolute = text.startswith("/")
        text = os.path.normpath(text)
        if text == ".":
            return None
        places, within = self._places(text)
        hits = [(stem, place) for place in places for stem in _stems(place) if stem in self.files]
        named = [stem for stem, place in hits if composed(self.files[stem].name) == PurePosixPath(place).name]
        found = list(dict.fromkeys(named or [stem for stem, _ in hits]))
        if found and "/" not in text:  # a bare name may be meant for any folder
            found = self._alike[PurePosixPath(found[0]).name]
        if found:
            return self._only(text, found)
        if within:
            return None
        there = Path(text) if absolute else self.root / text
        if there.is_file() and not any(there.samefile(path) for path in self.files.values()):
            raise UserError(f"{text!r} is {there}, which is not one of the files in {self.folder}.")
        return self._by_the_end(text)

    def _places(self, text: str) -> tuple[list[str], bool]:
        """Paths in the folder that a name states, and whether it cannot mean anything else."""
        if text.startswith("/"):
            folders = [self.folder.absolute(), self.folder.resolve()]
            inside = [
                os.path.relpath(text, folder) for folder in folders if Path(text).is_relative_to(folder)
            ]
            ours = any(
                Path(text).is_relative_to(root) for root in (self.root.absolute(), self.root.resolve())
            )
            return inside[:1], ours
        own = os.path.relpath(self.folder, self.root)
        inside = (
            [os.path.relpath(text, own)] if PurePosixPath(text).is_relative_to(own) and own != "." else []
        )
        first, *rest = PurePosixPath(text).parts
        return [text, *inside], first == ".." or bool(rest and (self.root / first).is_dir())

    def _by_the_end(self, text: str) -> str | None:
        """Find the file whose path ends as the name, or is the end of it."""
        fits: defaultdict[int, list[str]] = defaultdict(list)
        alike: set[str] = set()
        strange: dict[str, str] = {}
        for stem in _stems(text):
            parts = PurePosixPath(stem).parts
            for name in self._alike[parts[-1]]:
                alike.add(name)
                of_file = PurePosixPath(name).parts
                common = min(len(parts), len(of_file))
                foreign = parts[:-common]
                if parts[-common:] != of_file[-common:] or len(columns("/".join(foreign))) > 1:
                    continue
                if common == 1 and foreign and foreign[-1] not in (self.folder.name, "/"):
                    strange[name] = foreign[-1]  # of another folder, which may hold another file of this name
                else:
                    fits[common].append(name)
        if not fits and strange:
            name, folder = next(iter(strange.items()))
            raise UserError(
                f"{text!r} lies in {folder!r}, and {self.files[name]}, which has its name, does not. If it is meant, "
                f"write {PurePosixPath(name).name!r}."
            )
        if not fits:
            return None
        longest = max(fits)
        certain = longest > 1 or len(alike) == 1
        return self._only(text, fits[longest] if certain else sorted(alike))

    def _only(self, text: str, names: list[str]) -> str:
        if len(names) > 1:
            files = " and ".join(str(self.files[name]) for name in names[:2])
            raise UserError(f"{text!r} may mean {files}. Write its whole path.")
        return names[0]


def _stems(text: str) -> list[str]:
    """A name as it is, and without its ending if that is one of an image."""
    path = PurePosixPath(text)
    return [text, without_ending(path).as_posix()] if is_image(path) else [text]
