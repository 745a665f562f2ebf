"""What TIFF and WebP files say of their pixels, where Pillow reads them without telling."""

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, TiffImagePlugin, WebPImagePlugin

from lightning_seg.errors import UserError

BITS, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT = 258, 262, 277, 338, 339  # numbers of TIFF's tags
LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp"}
COLORS = {
    2: 3,
    5: 4,
    6: 3,
    8: 3,
}  # channels by photometric interpretation: RGB, CMYK, YCbCr, Lab; others have one
ALPHA = (1, 2)


def refuse_uncertain_tiff(image: Image.Image, name: str | Path) -> None:
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
            f"{name} has {bands} bands, of which {colors} can be read as grey or color; the others are not marked as "
            "transparency. Save the bands to use as a grey or RGB file."
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


def refuse_renumbered_gif(image: Image.Image, name: str | Path) -> None:
    """Refuse a GIF mask that shows greys by other numbers: programs renumber what they save as GIF.

    Raises:
        UserError: Its numbers and its greys differ, and which are the classes is not known.
    """
    if image.format != "GIF" or image.mode != "P":
        return
    used = np.unique(np.asarray(image))
    colors = np.array(image.getpalette("RGB")).reshape(-1, 3)[used]
    if (colors == colors[:, :1]).all() and (colors[:, 0] != used).any():
        raise UserError(
            f"{name} is a GIF in which number {used[0]} is the grey {colors[0, 0]}; which of them is the class is not "
            "certain. Save the mask as grey PNG."
        )
