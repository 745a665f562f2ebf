"""The program that `export` prints: it reads an image as `predict` does and runs an exported file on it."""

from pathlib import Path
from typing import Literal

import torch

from lightning_seg.data.pixels import RGB, Pixels
from lightning_seg.plotting.pictures import Palette

_LOAD = {
    "onnx": "onnxruntime.InferenceSession({name!r})",
    "pt2": "torch.export.load({name!r}).module()",
}
_CALL = {
    "onnx": 'network.run(None, {"images": images})[0]',
    "pt2": "network(torch.from_numpy(images)).detach().numpy()",
}
_READ = '''
def read(path):
    """Read an image (height, width, 3) as it looks: turned upright, gray as RGB, without transparency."""
    image = Image.open(path)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        sys.exit(f"{path} holds several pages or frames, and one is expected")
    deep = image.mode == "F" or image.mode.startswith("I")  # gray of more than 8 bits
    if deep and image.format == "PPM":
        sys.exit(f"{path} has more than 8 bits: save it as PNG or TIFF")
    if not deep and any(";16" in str(tile) for tile in image.tile):  # colors of 16 bits, of which Pillow keeps 8
        import cv2

        if image.getexif().get(0x0112, 1) != 1:
            sys.exit(f"{path} has 16 bits and a noted rotation: save it upright")
        array, deep = cv2.imread(path, cv2.IMREAD_UNCHANGED)[..., 2::-1], True
    else:
        image = ImageOps.exif_transpose(image)
        if deep:
            array = np.repeat(np.asarray(image)[..., None], 3, axis=2)
        else:
            image = image.convert("RGBA") if image.has_transparency_data else image
            array = np.array(image.convert("RGB"))
    if deep and not ANY_VALUES:
        sys.exit(f"{path} has more than 8 bits a channel, and the network was trained on 8")
    if not deep and VALUE_RANGE and VALUE_RANGE[1] > 255:
        sys.exit(f"{path} has 8 bits a channel, but the network was trained on values of {VALUE_RANGE}")
    if not np.isfinite(array).all():
        sys.exit(f"{path} holds NaN or infinite values")
    return array
'''
_READ_BANDS = '''
def read(path):
    """Read bands of an image (height, width, bands) with the values of the file; where it has no data, their mean."""
    if path.endswith(".npy"):
        return np.load(path)[..., BANDS]
    with rasterio.open(path) as file:
        names = [*file.descriptions]
        numbers = [1 + (band if isinstance(band, int) else names.index(band)) for band in BANDS]
        array = np.moveaxis(file.read(numbers), 0, -1)
        void = np.zeros(array.shape[:2], bool)
        for band, number in enumerate(numbers):
            nodata = file.nodatavals[number - 1]
            if nodata is not None:
                void |= (array[..., band] == nodata) | np.isnan(array[..., band])
    if void.any():
        array[void] = array[~void].mean(0).astype(array.dtype)
    return array
'''


def standalone(
    path: Path,
    form: Literal["onnx", "pt2"],
    labels: bool,
    dtype: torch.dtype,
    palette: Palette,
    pixels: Pixels = RGB,
    thresholds: dict[str, float] | None = None,
) -> str:
    """Return a Python program that runs an exported file without this package.

    Args:
        path: The exported file.
        form: Its format.
        labels: Whether it gives labels instead of logits.
        dtype: Type of the images that it takes.
        palette: Colors of the classes.
        pixels: Which bands are read, and which values are expected.
        thresholds: Least logit of each class by its name, if classes may overlap.
    """
    numbers = str(dtype).removeprefix("torch.")
    read, settings = (
        _READ,
        f"ANY_VALUES = {pixels.takes_any_values}  # whether more than 8 bits are expected\n",
    )
    settings += f"VALUE_RANGE = {pixels.value_range}  # values of the image file that are black and white"
    reader = "from PIL import Image, ImageOps"
    if pixels.bands is not None:
        read, reader = _READ_BANDS, "import rasterio\nfrom PIL import Image"
        settings = f"BANDS = {[*pixels.bands]}  # those that are read, counted from 0"
    written = f"""\
mask = {_CALL[form]}[0]{"" if labels else ".argmax(0).astype(np.uint8)"}
picture = Image.fromarray(mask)  # its values are the classes
picture.putpalette({[value for color in palette for value in color]})
picture.save("mask.png")
"""
    if thresholds is not None:
        least = [0.5] * len(thresholds) if labels else list(thresholds.values())
        written = f"""\
maps = {_CALL[form]}[0]  # one for each class: {"1 where it is" if labels else "its logits"}
least = {least}  # from which on a class is there
for name, values, threshold in zip({[name.replace("/", "_") for name in thresholds]}, maps, least):
    Image.fromarray((values >= threshold).astype(np.uint8) * 255).save(f"mask_{{name}}.png")
"""
    return f"""\
import sys

import numpy as np
import {"onnxruntime" if form == "onnx" else "torch"}
{reader}

{settings}

{read}

network = {_LOAD[form].format(name=path.name)}
images = read(sys.argv[1]).astype(np.{numbers}).transpose(2, 0, 1)[None]  # (1, bands, height, width)
{written}"""
