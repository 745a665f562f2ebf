"""What a data set's classes are: their names and colors, and how the masks' labels or colors become classes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.io import read_colors
from lightning_seg.errors import UserError

Color = tuple[int, int, int]


def check_classes(names: Sequence[str]) -> None:
    """Refuse names that cannot be the classes of a data set.

    Raises:
        UserError: No list, fewer than two, more than 255, an empty name, or one that stands there twice.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UserError(f"class_names must be a list, such as [background, thing]; got {names!r}.")
    if len(names) < 2:
        raise UserError(
            f"There must be two classes at least, got {list(names)}. The background is a class, too: "
            "class_names: [background, thing]."
        )
    if len(names) > IGNORE_INDEX:
        raise UserError(
            f"There are {len(names)} class_names; at most {IGNORE_INDEX} have place in masks of 8 bits beside "
            f"ignore_index, {IGNORE_INDEX}."
        )
    bare = [str(name).strip() for name in names]
    twice = [name for i, name in enumerate(bare) if name in bare[:i]]
    broken = [name for name in bare if len(name.splitlines()) > 1]
    if twice or broken or not all(bare):
        fault = f"{twice[0]!r} stands there twice" if twice else "one of them is empty"
        fault = f"{broken[0]!r} has a line break" if broken else fault
        raise UserError(
            f"Each class needs a name of its own, but in class_names {fault}: {list(names)[:20]}."
        )


def check_labels(labels: Mapping[int, int], num_classes: int) -> None:
    """Refuse a setting `labels` that says what masks cannot hold.

    Raises:
        UserError: A label outside 0..255, or a class that does not exist.
    """
    for label, target in labels.items():
        if type(label) is not int or type(target) is not int:
            raise UserError(
                f"data.init_args.labels maps labels to classes, both whole numbers; got {label!r}: {target!r}."
            )
        if not 0 <= label <= 255:
            raise UserError(
                f"data.init_args.labels names the label {label}, but masks hold labels 0 to 255. A file of 16 bits or "
                "with negative labels must be saved anew."
            )
        if not (0 <= target < num_classes or target == IGNORE_INDEX):
            raise UserError(
                f"data.init_args.labels makes {label} the class {target}, but classes are 0 to {num_classes - 1}, and "
                f"{IGNORE_INDEX} is ignore_index."
            )


def check_colors(colors: Sequence[Color], void: Sequence[Color] = ()) -> None:
    """Refuse colors that do not tell classes apart.

    Raises:
        UserError: Values outside 0..255, or a color given twice.
    """
    for i, color in enumerate(every := [*map(tuple, colors), *map(tuple, void)]):
        if len(color) != 3 or not all(0 <= part <= 255 and part == int(part) for part in color):
            raise UserError(f"A color is red, green and blue, each 0 to 255; got {list(color)}.")
        if color in every[:i]:
            raise UserError(
                f"The color {list(color)} stands twice in data.init_args.colors and void_colors: it can be one "
                "class, or void."
            )


def label_table(classes: Mapping[int, int], others: int | None = None) -> np.ndarray:
    """Make the table (256,) that turns the labels of a file into classes.

    Args:
        classes: Class, or `IGNORE_INDEX`, for labels of the file.
        others: What all other labels become; None leaves them as they are.
    """
    table = np.arange(256) if others is None else np.full(256, others)
    table[list(classes)] = list(classes.values())
    return table.astype(np.uint8)


class ColorMask:
    """Reads masks that show classes by color.

    Args:
        colors: RGB color of each class.
        void: Colors of pixels that become `ignore_index`.
    """

    def __init__(self, colors: Sequence[Color], void: Sequence[Color] = ()) -> None:
        self.table = np.full(1 << 24, len(colors), np.uint8)  # 16 MB, and one look-up a pixel
        self.unknown = len(colors)
        for label, color in [*enumerate(colors), *((IGNORE_INDEX, color) for color in void)]:
            self.table[_pack(np.array(color))] = label

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read a mask (H, W).

        Raises:
            UserError: If it cannot be read or has a color that is no class.
        """
        colors = read_colors(path)
        mask: np.ndarray = self.table[_pack(colors)]
        if (strange := mask == self.unknown).any():
            raise UserError(
                f"{path} has {strange.sum()} pixels of colors that are no class, first {colors[strange][0]}. "
                "Make the color a class or a void color; masks must not be JPEG or smoothed."
            )
        return mask


def _pack(colors: np.ndarray) -> np.ndarray:
    """Red, green and blue (..., 3) as one number (...)."""
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    packed: np.ndarray = red << 16 | green << 8 | blue
    return packed


def default_palette(count: int) -> tuple[Color, ...]:
    """The colors of Pascal VOC, continued: black, then colors that differ as much as they can."""
    labels = np.arange(count)[:, None] >> np.arange(
        3
    )  # bit 3 i + channel of the label is bit 7 - i of the color
    colors = np.sum([((labels >> 3 * i) & 1) << (7 - i) for i in range(3)], axis=0)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors)


def palette_of(path: str | Path, mask: np.ndarray, table: np.ndarray | None) -> dict[int, tuple[int, ...]]:
    """The colors of the numbers that occur in a palette file, if it was read by its numbers.

    Args:
        path: The file.
        mask: What was read from it (H, W).
        table: The class of each number (256,), or None if the numbers are the classes.
    """
    try:
        with Image.open(path) as image:
            if image.mode != "P" or image.size != mask.shape[::-1]:
                return {}
            numbers = np.asarray(image)
            palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    except (OSError, SyntaxError, ValueError):
        return {}
    if not np.array_equal(mask, numbers if table is None else table[numbers]):
        return {}
    return {i: tuple(palette[i].tolist()) for i in np.unique(numbers).tolist() if i < len(palette)}
