"""Reading images and masks of every common kind into plain ``uint8`` arrays."""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from lightning_seg.constants import IGNORE_INDEX
from lightning_seg.errors import UserError

Color = tuple[int, int, int]

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
GREY, RGB = 0, 2  # PNG's numbers of the kinds of pixels
PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"bKGD", b"cHRM", b"gAMA", b"pHYs", b"sRGB", b"tIME"}
MAX_PIXELS = 178_956_970  # Pillow's own limit: half a gigabyte of colors, and a small file can claim any size
MAX_SIDE = 65_535  # that of a JPEG; much longer strips are damaged headers


class Unpaired(UserError):
    """Some images have no mask, or masks no image.

    Args:
        message: What to tell, with some of the files.
        files: All of the files, and what each of them lacks.
    """

    def __init__(self, message: str, files: Mapping[str, str]) -> None:
        super().__init__(message)
        self.files = files


def read_image(path: str | Path) -> np.ndarray:
    """Read any image file as RGB.

    Grey, palette, CMYK, 1-bit and 16-bit files are converted (16-bit keeps the high byte), transparency is
    dropped, and the orientation that a camera noted (EXIF) is applied.

    Args:
        path: The image file.

    Returns:
        Image (H, W, 3), ``uint8``.

    Raises:
        UserError: If the file is missing, damaged, absurdly large or of a kind that has no 8-bit meaning.
    """
    array = _plain_png(path, "image", RGB)
    return to_rgb(open_image(path, "image"), path) if array is None else array


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask whose pixels are class numbers: grey, palette (its indices, not its colors) or 1-bit.

    Args:
        path: The mask file.

    Returns:
        Mask (H, W), ``uint8``, with the numbers that are in the file.

    Raises:
        UserError: If the file is missing or damaged, holds colors, or numbers above 255.
    """
    array = _plain_png(path, "mask", GREY)
    return to_labels(open_image(path, "mask"), path) if array is None else array


def to_rgb(image: Image.Image, name: str | Path) -> np.ndarray:
    """Turn a picture of any kind into RGB (H, W, 3), ``uint8``; see `read_image`.

    Args:
        image: The picture.
        name: What to call it in errors.

    Raises:
        UserError: If it has no 8-bit meaning.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow itself would clip at 255 instead of scaling
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise UserError(f"{name} holds 32-bit values. Convert it to 8 or 16 bits per channel.")
        return np.repeat((array >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise UserError(f"{name} holds floating-point values. Convert it to 8 or 16 bits per channel.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def to_labels(image: Image.Image, name: str | Path) -> np.ndarray:
    """Turn a picture of class numbers into a mask (H, W), ``uint8``; see `read_mask`.

    Args:
        image: The picture.
        name: What to call it in errors.

    Raises:
        UserError: If it holds colors, or numbers above 255.
    """
    array = np.array(image)
    if array.ndim == 3 and (array[..., :1] == array[..., 1:3]).all():  # grey, saved as RGB
        array = array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise UserError(
            f"{name} should hold one class number per pixel, but is a {image.mode} image. Save it as a "
            "grey or palette PNG, or read it with lightning_seg.data.datasets.folder.Folder, which takes colors."
        )
    if array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise UserError(f"{name} holds class numbers up to {array.max()}; masks may use 0 to 255.")
        array = array.astype(np.uint8)
    return array


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

    def read(self, path: str | Path) -> np.ndarray:
        """Read a mask (H, W).

        Raises:
            UserError: If it cannot be read or has a color that is no class.
        """
        colors = _plain_png(path, "mask", RGB)
        if colors is None:
            colors = np.asarray(open_image(path, "mask").convert("RGB"))
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


def list_images(folder: str | Path) -> list[Path]:
    """List the image files of a folder and its subfolders, sorted, or the one file if it is a file.

    Raises:
        UserError: If there is no such folder or file, or no image in it.
    """
    folder = Path(folder).expanduser()
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"There is no folder or image {folder}.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"No image in {folder}. Known endings: {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return found


def _plain_png(path: str | Path, kind: str, pixels: int) -> np.ndarray | None:
    """Decode a PNG of 8 bits with OpenCV, which takes a sixth less time than Pillow and checks all checksums.

    Args:
        path: Any file.
        kind: What to call it in errors.
        pixels: `GREY` for (H, W), `RGB` for (H, W, 3).

    Returns:
        None for files of any other kind, and those with transparency or a noted rotation: they are Pillow's.
    """
    try:
        data = Path(path).read_bytes() if Path(path).suffix.lower() == ".png" else b""
    except OSError:
        return None
    width, height, depth, color = struct.unpack_from(">IIBB", data.ljust(26), 16)
    if (depth, color) != (8, pixels) or _too_large(width, height):
        return None
    if not PLAIN_CHUNKS.issuperset(name for name, _ in _chunks(data)):
        return None
    flag = cv2.IMREAD_UNCHANGED if pixels == GREY else cv2.IMREAD_COLOR_RGB
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if array is None:
        open_image(path, kind)  # raises with a reason, unless Pillow overlooks the damage
        raise UserError(
            f"The {kind} {path} cannot be read (a checksum is wrong). Replace it or leave it out."
        )
    return array


def _chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The names of a PNG's chunks, and where each begins."""
    at = 8
    while at + 8 <= len(data):
        yield data[at + 4 : at + 8], at
        (length,) = struct.unpack_from(">I", data, at)
        at += length + 12


def _is_whole(png: bytes) -> bool:
    """Whether the checksums of all chunks that make the picture are right, up to the one that ends it."""
    for name, at in _chunks(png):
        if name[0] & 32:  # text, time and the like
            continue
        (length,) = struct.unpack_from(">I", png, at)
        content, checksum = png[at + 4 : at + 8 + length], png[at + 8 + length : at + 12 + length]
        if zlib.crc32(content).to_bytes(4, "big") != checksum:
            return False
        if name == b"IEND":
            return True
    return False


def open_image(path: str | Path, kind: str) -> Image.Image:
    """Open and decode a file; whatever goes wrong becomes an error that names it."""
    try:
        image = Image.open(path)
        if not _too_large(*image.size):
            image.load()
            if image.format == "PNG" and not _is_whole(Path(path).read_bytes()):
                raise ValueError("a checksum is wrong")  # Pillow reads on where only pixels are damaged
            return image
        size = "is {}x{} pixels".format(*image.size)
    except FileNotFoundError:
        raise UserError(f"The {kind} {path} does not exist.") from None
    except Image.DecompressionBombError:
        size = "is too large"
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, EOFError and struct.error
        reason = str(error) or type(error).__name__
        raise UserError(f"The {kind} {path} cannot be read ({reason}). Replace it or leave it out.") from None
    raise UserError(
        f"The {kind} {path} {size}: more than {MAX_PIXELS / 1e6:.0f} megapixels or {MAX_SIDE} pixels a side. Cut it"
        " into tiles, or leave it out if it is damaged."
    )


def _too_large(width: int, height: int) -> bool:
    return width * height > MAX_PIXELS or max(width, height) > MAX_SIDE
