"""What TIFF and WebP files say of their pixels, where Pillow reads them without telling."""

import logging
import os
from collections.abc import Mapping
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin, WebPImagePlugin

from lightning_seg.data.pixels import Pixels
from lightning_seg.data.volumes import Slice
from lightning_seg.errors import UserError

BITS, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT, NODATA = 258, 262, 277, 338, 339, 42113  # numbers of TIFF's tags
ORIENTATION = 0x0112  # that of EXIF, too
LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp"}
COLORS = {
    2: 3,
    5: 4,
    6: 3,
    8: 3,
}  # channels by photometric interpretation: RGB, CMYK, YCbCr, Lab; others have one
ALPHA = (1, 2)
# Pillow logs each file of more than 5 bands.
logging.getLogger(TiffImagePlugin.__name__).setLevel(logging.CRITICAL)


class Tiff(NamedTuple):
    """Tags of a page of a TIFF, its number among all pages, and how many are pictures; None where GDAL has to say."""

    tags: Mapping[int, object]
    page: int
    pages: int | None


def tiff_for_gdal(path: str | os.PathLike[str], pixels: Pixels) -> Tiff | None:
    """Look into a TIFF whose bands or nodata Pillow does not read, and GDAL does; None for every other file."""
    if not os.fspath(path).lower().endswith((".tif", ".tiff")) or not os.path.isfile(path):
        return None
    place = path.index if isinstance(path, Slice) else 0
    try:
        with Image.open(path) as image:
            if not isinstance(image, TiffImagePlugin.TiffImageFile):
                return None
            pages = pages_of(image) if isinstance(path, Slice) or pixels.bands else [0]
            image.seek(pages[place])
            tags, mode = dict(image.tag_v2), image.mode
    except Image.DecompressionBombError:
        return None
    except Exception:  # a layout that Pillow does not know, or a damaged file: GDAL says
        return Tiff({}, place, None)
    samples, deep = tags.get(SAMPLES, 1), max(tags.get(BITS, (1,))) > 8
    whole = samples == 1 or (not deep and samples <= len(mode) and len(tags.get(EXTRA, ())) < 2)
    if whole and not pixels.bands and NODATA not in tags:
        return None
    return Tiff(tags, pages[place], len(pages))


def refuse_uncertain_tiff(image: Image.Image, name: object) -> None:
    """Refuse a decoded TIFF whose values Pillow changes, or whose further bands it drops or takes for transparency.

    Args:
        image: The picture, of any format.
        name: What to call it in errors.

    Raises:
        UserError: It has signed values of 8 bits, unsigned ones above 2^31, more than 8 bits with white as zero, or
            a band that is neither color nor transparency.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    bits, signed = max(tags.get(BITS, (1,))), 2 in tags.get(FORMAT, (1,))
    bands, extra = tags.get(SAMPLES, 1), tags.get(EXTRA, ())
    colors = COLORS.get(tags.get(PHOTOMETRIC, 1), 1)
    if bands > colors and not (bands == colors + 1 and len(extra) == 1 and extra[0] in ALPHA):
        raise UserError(
            f"{name} has {bands} bands, of which {colors} can be read as gray or color; the others are not marked as "
            "transparency. Save the bands to use as a gray or RGB file."
        )
    if signed and bits <= 8:
        raise UserError(f"{name} holds signed values of 8 bits, -128 to 127. Save it with unsigned values.")
    if tags.get(PHOTOMETRIC) == 0 and bits > 8:
        raise UserError(
            f"{name} is stored inverted (white is zero) with {bits} bits. Save it with black as zero."
        )
    if image.mode == "I" and bits == 32 and not signed and image.getextrema()[0] < 0:  # type: ignore[operator]
        raise UserError(
            f"{name} holds values above 2147483647, the largest that can be read. Save smaller numbers."
        )


def pages_of(image: Image.Image) -> list[int]:
    """Number the pages or frames of a file that are pictures of their own: no previews, pyramids or alpha masks."""
    count: int = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO":  # a photograph and what the camera adds to it
        return [0]
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return [*range(count)]
    kinds = []
    for page in range(count):
        image.seek(page)
        kinds.append(image.tag_v2.get(254, 0))  # NewSubfileType: 1 a smaller copy, 4 a transparency mask
    image.seek(0)
    return [0, *(page for page, kind in enumerate(kinds) if page and not kind & 5)]


def is_lossy(image: Image.Image) -> bool:
    """Whether the compression of a picture that is not decoded yet changes values."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.info.get("compression") in LOSSY_TIFF
    if isinstance(image, WebPImagePlugin.WebPImageFile) and image.fp is not None:
        return _is_lossy_webp(image.fp)
    return image.format in ("JPEG", "MPO", "JPEG2000", "AVIF")


def _is_lossy_webp(file: IO[bytes]) -> bool:
    """Whether a WebP file holds lossy pixels: a chunk "VP8 ", wherever it stands."""
    at = 12
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[:4] == b"VP8 ":
            return len(head) == 8
        size = int.from_bytes(head[4:], "little")
        at += 24 if head[:4] == b"ANMF" else 8 + size + size % 2  # a frame has chunks of its own


def refuse_renumbered_gif(image: Image.Image, name: object) -> None:
    """Refuse a GIF mask that shows grays by other numbers: programs renumber what they save as GIF.

    Raises:
        UserError: Its numbers and its grays differ, and which are the classes is not known; or it has numbers that
            its palette lacks.
    """
    if image.format != "GIF" or image.mode != "P":
        return
    used = np.unique(np.asarray(image))
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    if used[-1] >= len(palette):
        raise UserError(
            f"{name} is damaged: it has the number {used[-1]}, and its palette only {len(palette)} colors. "
            "Replace it or leave it out."
        )
    colors = palette[used]
    if (colors == colors[:, :1]).all() and (colors[:, 0] != used).any():
        raise UserError(
            f"{name} is a GIF in which number {used[0]} is the gray {colors[0, 0]}; which of them is the class is not "
            "certain. Save the mask as gray PNG."
        )
