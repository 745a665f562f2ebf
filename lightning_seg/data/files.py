"""Reading images and masks of every common kind into plain ``uint8`` arrays."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lightning_seg.errors import UserError

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 500_000_000  # beyond this one image alone would fill the memory of a training machine


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
    image = ImageOps.exif_transpose(_open(path, "image"))
    if image.mode.startswith("I"):  # 16-bit grey; Pillow itself would clip at 255 instead of scaling
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise UserError(f"{path} holds 32-bit values. Convert it to 8 or 16 bits per channel.")
        return np.repeat((array >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point values. Convert it to 8 or 16 bits per channel.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask whose pixels are class numbers: grey, palette (its indices, not its colours) or 1-bit.

    Args:
        path: The mask file.

    Returns:
        Mask (H, W), ``uint8``, with the numbers that are in the file.

    Raises:
        UserError: If the file is missing or damaged, holds colours, or numbers above 255.
    """
    image = _open(path, "mask")
    array = np.array(image)
    if array.ndim == 3 and (array[..., :1] == array[..., 1:3]).all():  # grey, saved as RGB
        array = array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise UserError(
            f"{path} should hold one class number per pixel, but is a {image.mode} image. Save it as a "
            "grey or palette PNG, or read it with lightning_seg.data.folder.Folder, which takes colours."
        )
    if array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise UserError(f"{path} holds class numbers up to {array.max()}; masks may use 0 to 255.")
        array = array.astype(np.uint8)
    return array


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


def _open(path: str | Path, kind: str) -> Image.Image:
    """Open and decode a file; whatever goes wrong becomes an error that names it."""
    try:
        image = Image.open(path)
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            return image
    except FileNotFoundError:
        raise UserError(f"The {kind} {path} does not exist.") from None
    except Image.DecompressionBombError:
        pass
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, EOFError and struct.error
        reason = str(error) or type(error).__name__
        raise UserError(f"The {kind} {path} cannot be read ({reason}). Replace it or leave it out.") from None
    raise UserError(f"The {kind} {path} has more than {MAX_PIXELS / 1e6:.0f} megapixels. Cut it into tiles.")
