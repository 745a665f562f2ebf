"""How a picture file stores its pixels, where Pillow's mode does not tell."""

from typing import NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin

from lightning_seg.data.containers import BITS, ORIENTATION, is_lossy

WITH_ORIENTATION = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}  # keys of Pillow's `info`


class Stored(NamedTuple):
    """How a file stores its pixels, where Pillow's mode does not tell.

    Args:
        raw: Pillow's name of the layout in the file, such as "L;4" for 4 bits a pixel.
        maximum: Largest value of a PGM or PPM file that Pillow rescales.
        orientation: Rotation noted in EXIF, 1 for none.
        lossy: Whether the compression changes values.
    """

    raw: str = ""
    maximum: int | None = None
    orientation: int = 1
    lossy: bool = False


def stored_as(image: Image.Image) -> Stored:
    """Tell how a file stores its pixels, as long as they are not decoded."""
    raw, maximum = layout_of(image)
    return Stored(raw, maximum, orientation_of(image), is_lossy(image))


def orientation_of(image: Image.Image) -> int:
    """The rotation noted in EXIF or XMP, 1 for none; a TIFF forgets it when it is decoded, a PNG may tell it last."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) or image.info.keys() & WITH_ORIENTATION:
        return image.getexif().get(ORIENTATION, 1) or 1
    return 1


def layout_of(image: Image.Image) -> tuple[str, int | None]:
    """Pillow's name of the layout in the file, and the largest value of a PGM or PPM file that it rescales."""
    tile = image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    args = () if tile is None else tile.args if isinstance(tile.args, tuple) else (tile.args,)
    raw = args[0] if args and isinstance(args[0], str) else image.mode
    if isinstance(image, TiffImagePlugin.TiffImageFile) and tile is not None and image.mode[0] not in "IF":
        bits, planes = image.tag_v2.get(BITS, (1,)), image.tag_v2.get(284)  # PlanarConfiguration
        raw += ";16 in planes" if max(bits) > 8 and planes == 2 else ""
    return raw, args[1] if tile is not None and tile.codec_name.startswith("ppm") else None
