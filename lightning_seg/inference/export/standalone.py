"""The program that `export` prints: it runs an exported file without this package."""

from pathlib import Path

import torch

from lightning_seg.plotting.pictures import Palette


def standalone(path: Path, labels: bool, dtype: torch.dtype, palette: Palette) -> str:
    """Return a Python program that runs an exported file without this package.

    Args:
        path: The exported file.
        labels: Whether it gives labels instead of logits.
        dtype: Type of the images that it takes.
        palette: Colors of the classes.
    """
    onnx = path.suffix == ".onnx"
    load = (
        f"onnxruntime.InferenceSession({path.name!r})"
        if onnx
        else f"torch.export.load({path.name!r}).module()"
    )
    call = (
        'network.run(None, {"images": images})[0]'
        if onnx
        else "network(torch.from_numpy(images)).detach().numpy()"
    )
    numbers = str(dtype).removeprefix("torch.")
    return f"""\
import sys

import numpy as np
import {"onnxruntime" if onnx else "torch"}
from PIL import Image

network = {load}
image = Image.open(sys.argv[1]).convert("RGB")
images = np.array(image, dtype=np.{numbers}).transpose(2, 0, 1)[None]  # (1, 3, height, width) in 0..255
mask = {call}[0]{"" if labels else ".argmax(0).astype(np.uint8)"}
picture = Image.fromarray(mask)  # its values are the classes
picture.putpalette({[value for color in palette for value in color]})
picture.save("mask.png")
"""
