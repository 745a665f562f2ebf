"""Reading images and masks of every common kind into plain arrays.

Whatever a file holds is read as it is, or refused: nothing is cut off, rescaled or guessed without a setting that
says so.
"""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from lightning_seg.data import rasters, volumes
from lightning_seg.data.bands import as_pixels
from lightning_seg.data.containers import (
    ORIENTATION,
    PHOTOMETRIC,
    Tiff,
    pages_of,
    refuse_renumbered_gif,
    refuse_uncertain_tiff,
    tiff_for_gdal,
)
from lightning_seg.data.pixels import RGB, Pixels
from lightning_seg.data.pixels import Image as PixelImage
from lightning_seg.data.png import GREY, is_whole, plain_size
from lightning_seg.data.png import RGB as PNG_RGB
from lightning_seg.data.stored import Stored, layout_of, orientation_of, stored_as
from lightning_seg.data.volumes import Slice, is_array, read_array, read_whole_numbers
from lightning_seg.errors import UserError

MAX_PIXELS = 178_956_970  # Pillow's own limit: half a gigabyte of colors, and a small file can claim any size
MAX_SIDE = 65_535  # that of a JPEG; much longer strips are damaged headers
TOO_LARGE = (
    f": more than {MAX_PIXELS / 1e6:.0f} megapixels or {MAX_SIDE} pixels a side. Cut it into tiles, or leave it out "
    "if it is damaged"
)


def read_image(path: str | os.PathLike[str], pixels: Pixels = RGB) -> np.ndarray:
    """Read any image file.

    Without a choice of bands it becomes RGB: gray, palette, CMYK and 1-bit files are converted and transparency is
    dropped. The orientation that a camera noted (EXIF) is applied. Values stay what they are.

    Args:
        path: The image file, or a `Slice` of it.
        pixels: Which bands are read, and which values are expected.

    Returns:
        Image (H, W, C), ``uint8``, ``uint16``, ``int16`` or ``float32``, as the file has it.

    Raises:
        WideRange: The file has more than 8 bits a channel, and `pixels` do not say what its values mean.
        UserError: The file is missing, damaged, absurdly large, holds several pages, or bands that nobody chose.
    """
    return read_with_void(path, pixels).values


def read_with_void(path: str | os.PathLike[str], pixels: Pixels = RGB) -> PixelImage:
    """Read any image file, and where it has no data; see `read_image`."""
    if pixels.bands is None:
        array = _plain_png(path, "image", PNG_RGB)
        if array is not None:
            return PixelImage(as_pixels(array, pixels, path))
    if is_array(path):
        return PixelImage(as_pixels(read_array(path), pixels, path))
    if tiff := tiff_for_gdal(path, pixels):
        return _read_raster(path, pixels, tiff)
    image, stored = _open(path, "image")
    if ";16" in stored.raw and not image.mode.startswith("I"):  # Pillow would keep the high bytes only
        array = _wide_colors(path, image.mode, stored)
        return PixelImage(as_pixels(array if pixels.bands else array[..., :3], pixels, path))
    if stored.maximum is not None and stored.maximum > 255:
        if image.mode != "I":
            raise UserError(f"{path} is a PPM file of more than 8 bits a channel. Save it as PNG or TIFF.")
        array = np.rint(np.asarray(image) * (stored.maximum / 65535)).astype(np.uint16)
        return PixelImage(as_pixels(array, pixels, path))
    if image.mode == "I" and ";16" in stored.raw:  # which Pillow has made 32 bits
        array = np.asarray(image).astype(np.int16 if "S" in stored.raw else np.uint16)
        return PixelImage(as_pixels(array, pixels, path))
    return PixelImage(to_pixels(image, path, pixels))


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask whose pixels are class numbers: gray, palette (its indices, not its colors) or 1-bit.

    Args:
        path: The mask file.

    Returns:
        Mask (H, W), ``uint8``, with the numbers that are in the file.

    Raises:
        UserError: The file is missing or damaged, holds colors or numbers outside 0..255, or leaves open which number
            a pixel has: transparency, a noted rotation, lossy compression, several pages.
    """
    array = _plain_png(path, "mask", GREY)
    if array is not None:
        return array
    if is_array(path):
        return _as_bytes(read_whole_numbers(path), path)
    image, stored = _open(path, "mask")
    return _as_bytes(_numbers(image, path, stored), path)


def read_numbers(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask that numbers objects, of 1 to 32 bits: (H, W), ``int32``.

    Raises:
        UserError: It shows colors, or see `read_mask`.
    """
    if is_array(path):
        return read_whole_numbers(path).astype(np.int32)
    image, stored = _open(path, "mask")
    if len(image.getbands()) > 1:
        raise UserError(f"{path} should number objects, one number a pixel, but its pixels are {image.mode}.")
    return _numbers(image, path, stored).astype(np.int32)


def to_pixels(image: Image.Image, name: object, pixels: Pixels = RGB) -> np.ndarray:
    """Turn a picture of any kind into an image (H, W, C); see `read_image`.

    Args:
        image: The picture.
        name: What to call it in errors.
        pixels: Which bands are taken, and which values are expected.

    Raises:
        WideRange: It has more than 8 bits a channel, and `pixels` do not say what its values mean.
    """
    if ";16" in layout_of(image)[0] and not image.mode.startswith("I"):
        raise UserError(
            f"{name} has 16 bits a channel, of which Pillow keeps 8. Give the file instead of the picture."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return as_pixels(np.array(image), pixels, name)
    if image.mode in ("1", "P", "PA") or pixels.bands is None:
        if image.has_transparency_data:
            image = image.convert("RGBA")
        image = image.convert("L" if image.mode == "1" and pixels.bands else "RGB")
    return as_pixels(np.array(image), pixels, name)


def _read_raster(path: str | os.PathLike[str], pixels: Pixels, tiff: Tiff) -> PixelImage:
    if tiff.tags.get(ORIENTATION, 1) != 1:
        raise UserError(f"{path} notes a rotation, which is not applied to bands. Save it upright.")
    if tiff.tags.get(PHOTOMETRIC) == 0:
        raise UserError(f"{path} is stored inverted (white is zero). Save it with black as zero.")
    name = f"GTIFF_DIR:{tiff.page + 1}:{os.fspath(path)}" if isinstance(path, Slice) else os.fspath(path)
    with rasters.opened(name) as file:
        pages = tiff.pages or max(1, len(file.subdatasets))
        if pages > 1 and not isinstance(path, Slice):
            raise UserError(f"The image {path} {_several(pages)}.")
        if _too_large(file.width, file.height):
            raise UserError(f"The image {path} is {file.width}x{file.height} pixels{TOO_LARGE}.")
        numbers = rasters.numbers_of(file, pixels.bands, str(path))
        values, void = rasters.read(file, numbers)
    chosen = pixels if pixels.bands is None else replace(pixels, bands=tuple(range(len(numbers))))
    return PixelImage(as_pixels(values, chosen, path, void), void)


def count_slices(path: Path) -> int:
    """Number of slices of a file: pages of a TIFF, planes of a NIfTI, DICOM or .npy stack, 1 for anything else.

    Raises:
        UserError: The file is damaged.
    """
    if is_array(path):
        return volumes.count_slices(path)
    try:
        with Image.open(path) as image:
            return len(pages_of(image)) if isinstance(image, TiffImagePlugin.TiffImageFile) else 1
    except Exception:
        with rasters.opened(path) as file:
            return max(1, len(file.subdatasets))


def _several(pages: int) -> str:
    return (
        f"holds {pages} pages or frames, and one is expected. Save each as a file of its own; of a TIFF, Folder makes "
        "each page a sample with --data.init_args.stacks=true"
    )


def to_labels(image: Image.Image, name: object) -> np.ndarray:
    """Turn a picture of class numbers into a mask (H, W), ``uint8``; see `read_mask`.

    Args:
        image: The picture.
        name: What to call it in errors.

    Raises:
        UserError: See `read_mask`.
    """
    stored = stored_as(image)
    refuse_uncertain_tiff(image, name)
    return _as_bytes(_numbers(image, name, stored), name)


def _as_bytes(array: np.ndarray, name: object) -> np.ndarray:
    least, most = array.min(), array.max()
    if least < 0 or most > 255:
        raise UserError(
            f"{name} holds class numbers from {least} to {most}; masks may use 0 to 255, and 255 is ignore_index. Save "
            "them with other numbers: data.init_args.labels cannot map what has no place in 8 bits."
        )
    return array.astype(np.uint8)


def _numbers(image: Image.Image, name: object, stored: Stored) -> np.ndarray:
    """The numbers (H, W) in a file, if there is no doubt about them."""
    if stored.orientation != 1:
        raise UserError(
            f"{name} notes a rotation (EXIF orientation {stored.orientation}), and it is not certain whether its "
            "pixels are turned already. Store the mask upright, without the note."
        )
    if stored.lossy:
        raise UserError(
            f"{name} is a {image.format} with lossy compression, which changes class numbers. Export the mask again "
            "as PNG from where it was drawn; a conversion of this file does not help."
        )
    if ";16" in stored.raw and not image.mode.startswith("I"):
        raise UserError(f"{name} has colors of 16 bits. Save the mask as gray or palette PNG.")
    if ";I" in stored.raw or stored.raw.endswith(("2I", "4I")):
        raise UserError(f"{name} is stored inverted (white is zero). Save the mask as gray or palette PNG.")
    _refuse_transparency(image, name)
    refuse_renumbered_gif(image, name)
    array = np.array(image)
    if image.mode in ("LA", "PA") or (image.mode[:3] == "RGB" and (array[..., :1] == array[..., 1:3]).all()):
        array = array[..., 0]  # gray, saved as RGB
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise UserError(
            f"{name} should hold one class number per pixel, but is a {image.mode} image. Save it as a gray or palette "
            "PNG, or use lightning_seg.data.datasets.folder.Folder, whose setting `colors` reads colors as classes."
        )
    if stored.raw in ("L;2", "L;4"):  # Pillow spreads 0..3 and 0..15 over 0..255
        array = array // (85 if stored.raw == "L;2" else 17)
    if stored.maximum is not None:
        spread = 255 if image.mode == "L" else 65535
        array = np.rint(array * (stored.maximum / spread)).astype(np.int32)
    return array


def _refuse_transparency(image: Image.Image, name: object, palettes: bool = False) -> None:
    """Refuse a mask with pixels whose color is hidden; for one that shows classes by color also in its palette."""
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or (palettes and image.has_transparency_data):
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if (hidden := alpha < 255).any():
            raise UserError(
                f"{name} has {hidden.sum()} transparent pixels, and what color lies below them is not what you see. "
                "Save the mask without transparency (alpha channel)."
            )


def _wide_colors(path: str | os.PathLike[str], mode: str, stored: Stored) -> np.ndarray:
    """Decode an image of several channels and 16 bits, of which Pillow keeps 8."""
    array = None
    if mode in ("LA", "RGB", "RGBA", "RGBX") and stored.orientation == 1 and "planes" not in stored.raw:
        array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.ndim != 3 or array.shape[2] < 3 or array.dtype != np.uint16:
        raise UserError(
            f"The image {path} has 16 bits a channel in a form that cannot be read whole ({stored.raw}). Save it as "
            "RGB PNG of 16 bits, upright."
        )
    return np.ascontiguousarray(array[..., [2, 1, 0, *range(3, array.shape[2])]])


def read_colors(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask that shows classes by color: (H, W, 3), ``uint8``.

    Raises:
        UserError: The file is missing or damaged, or leaves open which color a pixel has; see `read_mask`.
    """
    array = _plain_png(path, "mask", PNG_RGB)
    if array is not None:
        return array
    image, stored = _open(path, "mask")
    if ";16" in stored.raw or image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"):
        raise UserError(f"{path} should show classes by colors of 8 bits, but its pixels are {stored.raw}.")
    if stored.orientation != 1 or stored.lossy:
        _numbers(image, path, stored)  # raises, with the reason
    _refuse_transparency(image, path, palettes=True)
    return np.asarray(image.convert("RGB"))


def _plain_png(path: str | os.PathLike[str], kind: str, pixels: int) -> np.ndarray | None:
    """Decode a PNG of 8 bits with OpenCV, which takes a sixth less time than Pillow and checks all checksums.

    Args:
        path: Any file.
        kind: What to call it in errors.
        pixels: `GREY` for (H, W), `PNG_RGB` for (H, W, 3).

    Returns:
        None for files of any other kind, and those with transparency or a noted rotation: they are Pillow's.
    """
    try:
        data = Path(path).read_bytes() if os.fspath(path).lower().endswith(".png") else b""
    except OSError:
        return None
    size = plain_size(data, pixels)
    if size is None or _too_large(*size):
        return None
    flag = cv2.IMREAD_UNCHANGED if pixels == GREY else cv2.IMREAD_COLOR_RGB
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if array is None:
        _open(path, kind)  # raises with a reason, unless Pillow overlooks the damage
        raise UserError(
            f"The {kind} {path} cannot be read (a checksum is wrong). Replace it or leave it out."
        )
    return array


def _open(path: str | os.PathLike[str], kind: str) -> tuple[Image.Image, Stored]:
    """Open and decode a file; whatever goes wrong becomes an error that names it."""
    try:
        image = Image.open(path)
        if not _too_large(*image.size):
            pages = pages_of(image)
            if isinstance(path, Slice):
                image.seek(pages[path.index])
                pages = pages[:1]
            stored = stored_as(image)
            if len(pages) == 1:
                image.load()
                refuse_uncertain_tiff(image, f"The {kind} {path}")
                if image.format == "PNG":
                    if not is_whole(Path(path).read_bytes()):
                        raise ValueError(
                            "a checksum is wrong"
                        )  # Pillow reads on where only pixels are damaged
                    stored = stored._replace(orientation=orientation_of(image))
                return image, stored
            size = _several(len(pages))
        else:
            size = "is {}x{} pixels".format(*image.size) + TOO_LARGE
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"The {kind} {path} does not exist.") from None
    except Image.DecompressionBombError:
        size = "is too large" + TOO_LARGE
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, EOFError and struct.error
        reason = str(error) or type(error).__name__
        raise UserError(f"The {kind} {path} cannot be read ({reason}). Replace it or leave it out.") from None
    raise UserError(f"The {kind} {path} {size}.")


def header_of(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """What the beginning of a file tells without decoding it: files of one kind have equal headers."""
    try:
        with Image.open(path) as image:
            palette = tuple(image.getpalette() or ()) if image.mode == "P" else ()
            return (
                image.format,
                image.mode,
                layout_of(image)[0],
                palette,
                "exif" in image.info,
                len(pages_of(image)),
            )
    except Exception:  # the reader says what is wrong with it
        return ()


def _too_large(width: int, height: int) -> bool:
    return width * height > MAX_PIXELS or max(width, height) > MAX_SIDE
