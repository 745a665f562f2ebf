"""Regions that annotation tools write down: a label and where it is, painted into masks of one kind or another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.coco_index import refuse_misplaced
from lightning_seg.data.coco_masks import paint
from lightning_seg.errors import UserError

Size = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """One region of an image.

    Attributes:
        where: File and entry, for errors.
        label: The class, by the name that the file has for it.
        paint: Gives its mask (H, W) ``bool`` for a height and width in pixels.
        level: Which regions lie above it: those of a higher level.
        crowd: Whether it only roughly shows several objects, so that it is void for its class.
    """

    where: str
    label: str
    paint: Callable[[Size], np.ndarray]
    level: int = 0
    crowd: bool = False


def polygon(where: str, label: str, parts: Sequence[Sequence[float]], level: int = 0) -> Region:
    """Make a region of polygons [x, y, x, y, ...] in pixels, painted pixel by pixel as COCO's own tools do.

    Args:
        where: File and entry.
        label: The class.
        parts: The polygons, whose union it is.
        level: See `Region`.

    Raises:
        UserError: A polygon has less than three points, or something that is no finite number.
    """
    for part in parts:
        if len(part) < 6 or len(part) % 2:
            raise UserError(f"{where}: a polygon has {len(part)} coordinates; three points are six.")
        if not np.isfinite(np.asarray(part, float)).all():
            raise UserError(f"{where}: a polygon has a coordinate that is no number.")

    def painted(size: Size) -> np.ndarray:
        refuse_misplaced(where, parts, size)
        return paint([list(map(float, part)) for part in parts], size)

    return Region(where, label, painted, level)


def box(where: str, label: str, mask: np.ndarray, corner: tuple[int, int], level: int = 0) -> Region:
    """Make a region of a mask (h, w) ``bool`` of which the first row and column of the image are told by a corner."""

    def painted(size: Size) -> np.ndarray:
        (top, left), (height, width) = corner, mask.shape
        if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
            raise UserError(
                f"{where}: its mask of {height}x{width} pixels from row {top} and column {left} on does not fit into "
                f"the image's {size[0]}x{size[1]} (height x width)."
            )
        out = np.zeros(size, bool)
        out[top : top + height, left : left + width] = mask
        return out

    return Region(where, label, painted, level)


def whole(where: str, label: str, mask: np.ndarray, level: int = 0) -> Region:
    """Make a region of a mask (H, W) ``bool`` of the whole image."""

    def painted(size: Size) -> np.ndarray:
        if mask.shape != size:
            raise UserError(
                f"{where}: its mask has {mask.shape[0]}x{mask.shape[1]} pixels, the image {size[0]}x{size[1]} (height "
                "x width)."
            )
        return mask

    return Region(where, label, painted, level)


Painted = Sequence[tuple[Region, int, np.ndarray]]
"""Regions, the class of each, `IGNORE_INDEX` for void, and its mask (H, W)."""


def classes_of(regions: Sequence[Region], numbers: Mapping[str, int], size: Size) -> Painted:
    """Paint regions.

    Args:
        regions: The regions.
        numbers: Class of each label; `IGNORE_INDEX` for void, -1 for what is left out.
        size: Height and width of the image.

    Raises:
        UserError: A label has no class.
    """
    for region in regions:
        if region.label not in numbers:
            known = ", ".join(name for name, number in numbers.items() if 0 < number < IGNORE_INDEX)
            raise UserError(
                f"{region.where} has the label {region.label!r}, which is no class ({known}). Add it to class_names, "
                f"or name it with --data.init_args.void_labels=[{region.label!r}] (void), or skip_labels (left out)."
            )
    kept = [(region, numbers[region.label]) for region in regions if numbers[region.label] >= 0]
    return [(region, number, region.paint(size)) for region, number in kept]


def one_class(painted: Painted, size: Size) -> np.ndarray:
    """Paint a mask (H, W) of one class a pixel.

    Crowds, which are void, lie below all; then it goes by level, and within one the smaller lies over the larger; void
    labels lie above all.
    """

    def place(one: tuple[Region, int, np.ndarray]) -> tuple[bool, bool, int, float]:
        region, number, mask = one
        return number == IGNORE_INDEX, not region.crowd, region.level, -int(mask.sum())

    out = np.zeros(size, np.uint8)
    for region, number, mask in sorted(painted, key=place):
        out[mask] = IGNORE_INDEX if region.crowd else number
    return out


def overlapping(painted: Painted, size: Size, num_classes: int) -> np.ndarray:
    """Paint masks (H, W, K) of classes that may overlap: void labels are void for all, crowds for their class."""
    out = np.zeros((*size, num_classes - 1), np.uint8)
    for region, number, mask in sorted(painted, key=lambda one: (one[1] == IGNORE_INDEX, not one[0].crowd)):
        if number == IGNORE_INDEX:
            out[mask] = IGNORE_INDEX
        else:
            out[mask, number - 1] = IGNORE_INDEX if region.crowd else 1
    return out


def refuse_other_size(where: str, stated: tuple[object, object], size: Size, path: Path) -> None:
    """Refuse an annotation that states another height and width than the upright image has.

    Raises:
        UserError: It does.
    """
    if stated != (None, None) and stated != size:
        turned = stated == size[::-1]
        why = " A rotation that the camera noted (EXIF) may be the reason: save the image upright." * turned
        raise UserError(
            f"{where} is for {stated[0]}x{stated[1]} pixels (height x width), but {path} has {size[0]}x{size[1]}.{why}"
        )
