"""The program that `export` prints: it reads an image as `predict` does and runs an exported file on it."""

from pathlib import Path
from typing import Literal

import torch

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
    """Read an image (height, width, 3) of 0 to 255 as it looks: turned upright, grey as RGB, without transparency."""
    image = Image.open(path)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        sys.exit(f"{path} holds several pages or frames, and one is expected")
    deep = image.mode == "F" or image.mode.startswith("I")  # grey of more than 8 bits
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
    if VALUE_RANGE is None:
        if deep:
            sys.exit(f"{path} has more than 8 bits a channel: set VALUE_RANGE to what becomes black and white")
        return array
    low, high = VALUE_RANGE
    if not deep and high > 255:
        sys.exit(f"{path} has 8 bits a channel, but the network was trained on values from {low} to {high}")
    return np.clip((array.astype(np.float64) - low) * (255.999 / (high - low)), 0, 255).astype(np.uint8)
'''


def standalone(
    path: Path,
    form: Literal["onnx", "pt2"],
    labels: bool,
    dtype: torch.dtype,
    palette: Palette,
    value_range: tuple[float, float] | None,
) -> str:
    """Return a Python program that runs an exported file without this package.

    Args:
        path: The exported file.
        form: Its format.
        labels: Whether it gives labels instead of logits.
        dtype: Type of the images that it takes.
        palette: Colors of the classes.
        value_range: Values of image files that become 0 and 255.
    """
    numbers = str(dtype).removeprefix("torch.")
    return f"""\
import sys

import numpy as np
import {"onnxruntime" if form == "onnx" else "torch"}
from PIL import Image, ImageOps

VALUE_RANGE = {value_range}  # values of the image file that become 0 and 255

{_READ}

network = {_LOAD[form].format(name=path.name)}
images = read(sys.argv[1]).astype(np.{numbers}).transpose(2, 0, 1)[None]  # (1, 3, height, width) in 0..255
mask = {_CALL[form]}[0]{"" if labels else ".argmax(0).astype(np.uint8)"}
picture = Image.fromarray(mask)  # its values are the classes
picture.putpalette({[value for color in palette for value in color]})
picture.save("mask.png")
"""
