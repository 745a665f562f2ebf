"""Prediction of images larger than memory: read, predicted and written window by window."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from lightning_seg import IGNORE_INDEX
from lightning_seg.data import rasters
from lightning_seg.data.bands import as_pixels
from lightning_seg.data.pixels import Pixels
from lightning_seg.data.rasters import TILE, Box
from lightning_seg.data.volumes import Slice, map_array
from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import Predict, SlidingWindow, UniformWindow, entropy
from lightning_seg.inference.precision import full_precision
from lightning_seg.inference.predictor import Predictor
from lightning_seg.inference.writing import Outputs, as_bytes
from lightning_seg.plotting.heat import HEAT
from lightning_seg.plotting.pictures import Palette

LARGE = 2**26  # pixels; the logits of 20 classes would take 5 GB
_BUDGET = 2**28  # bytes for the logits of one strip of windows
_SAMPLE = 1024  # pixels a side of the reduced copy whose values an error states

Read = Callable[[Box], np.ndarray]
Write = Callable[[int, int, np.ndarray], None]


def is_large(path: Path | Slice) -> bool:
    """Return whether an image is predicted window by window: any .npy file, and images over 67 megapixels."""
    if isinstance(path, Slice):
        return False
    if path.suffix == ".npy":
        return True
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return image.width * image.height > LARGE
    except Image.DecompressionBombError:
        return True
    except OSError:
        pass  # the reader of images says what is wrong with it
    with suppress(UserError):  # a TIFF whose layout Pillow does not know
        if path.suffix.lower() in (".tif", ".tiff"):
            with rasters.opened(path) as file:
                return bool(file.width * file.height > LARGE)
    return False


def check_windows(model: Predictor, path: Path) -> None:
    """Check that a model can predict an image window by window.

    Raises:
        UserError: It has post-processing.
    """
    if model.postprocess is not None:
        raise UserError(
            f"{path} is predicted window by window, but post-processing needs the whole image: "
            "leave it out by --model.postprocess=null."
        )


def predict_large(
    model: Predictor, path: Path, outputs: Outputs, uncertainty: bool = False, probabilities: bool = False
) -> None:
    """Write the mask of an image of any size.

    Memory holds one window and one strip of logits, independently of the size of the image. Where the inference
    strategy of the model is not a sliding window, windows of 512x512 pixels are used around it. A .npy file gives .npy
    files, any other tiled TIFFs with the georeference of the image, the mask with the class colors as palette and 255
    where the image has no data.

    Args:
        model: The model.
        path: A .npy file (H, W, C), or any raster file that GDAL reads by windows, such as a tiled TIFF.
        outputs: Where to write.
        uncertainty: Also write the normalized entropy of each pixel, scaled to 0..255.
        probabilities: Also write the probability of each class and pixel (C, H, W), ``float32``.

    Raises:
        UserError: The file cannot be read window by window, has bands or values that the model does not expect, or the
            model has post-processing.
    """
    check_windows(model, path)
    classes = len(model.class_names)
    files = {"masks": _File(1, model.palette)} | ({"uncertainty": _File(1, HEAT)} if uncertainty else {})
    files |= {"probabilities": _File(classes, ())} if probabilities else {}
    ending = ".npy" if path.suffix == ".npy" else ".tif"
    targets = [outputs.file(kind, path, ending) for kind in files]
    unfinished = [target.with_name(f".unfinished-{target.name}") for target in targets]
    try:
        with ExitStack() as stack:
            opening = _open_array if ending == ".npy" else _open_raster
            size, read, writers = opening(
                path, dict(zip(unfinished, files.values(), strict=True)), model.pixels, stack
            )
            write = dict(zip(files, writers, strict=True))
            pieces, total = _sweep(model, read, size)
            stack.enter_context(torch.inference_mode())
            stack.enter_context(full_precision(model.device))
            for top, left, logits in track(pieces, path.name, total, disable=not sys.stderr.isatty()):
                write["masks"](top, left, logits[0].max(0)[1].byte().cpu().numpy())
                if uncertainty:
                    write["uncertainty"](top, left, as_bytes(entropy(logits / model.temperature)[0]))
                if probabilities:
                    shares = (logits[0] / model.temperature).softmax(0).cpu().numpy()
                    write["probabilities"](top, left, shares)
        for file, target in zip(unfinished, targets, strict=True):
            file.replace(target)
    finally:
        for file in unfinished:
            file.unlink(missing_ok=True)


def _sweep(
    model: Predictor, read: Read, size: tuple[int, int]
) -> tuple[Iterator[tuple[int, int, torch.Tensor]], int]:
    """Return the pieces of an image's logits, and how many there are; see `SlidingWindow.sweep`."""
    window, predict = SlidingWindow(), cast(Predict, model.network)
    if isinstance(model.inference, SlidingWindow):
        window = model.inference
    elif isinstance(model.inference, UniformWindow) and model.inference.shorter_side is not None:
        raise UserError(
            "UniformWindow resizes whole images to its shorter_side, but this one is too large to be held at once. "
            "Leave shorter_side away and resize the image, or use SlidingWindow."
        )
    elif model.inference is not None:
        predict = partial(model.inference, model.network)

    def images(*box: int) -> torch.Tensor:
        return torch.from_numpy(read(Box(*box))).permute(2, 0, 1)[None].to(model.device)

    strip = _BUDGET // (4 * len(model.class_names) * window.size[0])
    strip = max(strip, 2 * window.size[1])  # a narrow one would compute most windows twice
    columns = math.ceil(strip / TILE) * TILE
    total = math.ceil(size[1] / columns) * len(window.starts(size[0], window.size[0]))
    return window.sweep(predict, images, size, columns), total


def _open_array(
    path: Path, files: dict[Path, "_File"], pixels: Pixels, stack: ExitStack
) -> tuple[tuple[int, int], Read, list[Write]]:
    """Open a .npy file and create outputs of its height and width.

    Files are mapped anew for each piece: pages that stay mapped would count as memory of the process.
    """
    array = map_array(path)
    steps = [max(1, length // _SAMPLE) for length in array.shape[:2]]
    as_pixels(np.array(array[:: steps[0], :: steps[1]]), pixels, path)  # refuses what does not fit

    def read(box: Box) -> np.ndarray:
        return as_pixels(np.array(map_array(path)[box.top : box.bottom, box.left : box.right]), pixels, path)

    def write(file: Path, top: int, left: int, values: np.ndarray) -> None:
        place = (..., slice(top, top + values.shape[-2]), slice(left, left + values.shape[-1]))
        np.load(file, mmap_mode="r+")[place] = values

    for file, form in files.items():
        shape = array.shape[:2] if form.palette else (form.bands, *array.shape[:2])
        np.lib.format.open_memmap(file, "w+", form.dtype, shape)
    return (array.shape[0], array.shape[1]), read, [partial(write, file) for file in files]


def _open_raster(
    path: Path, files: dict[Path, "_File"], pixels: Pixels, stack: ExitStack
) -> tuple[tuple[int, int], Read, list[Write]]:
    """Open a raster file and create tiled TIFF files of its height, width and georeference."""
    image = stack.enter_context(rasters.opened(path))
    numbers = rasters.numbers_of(image, pixels.bands, path)
    chosen = pixels if pixels.bands is None else replace(pixels, bands=tuple(range(len(numbers))))
    small = (len(numbers), min(image.height, _SAMPLE), min(image.width, _SAMPLE))
    sample = np.moveaxis(image.read(numbers, out_shape=small), 0, -1)
    as_pixels(np.nan_to_num(sample), chosen, path)  # refuses what does not fit
    has_void = any(image.nodatavals[number - 1] is not None for number in numbers)

    def read(box: Box) -> np.ndarray:
        found = rasters.read(image, numbers, box)
        return as_pixels(found.values, chosen, path, found.void)

    def write(file: Any, form: _File, top: int, left: int, values: np.ndarray) -> None:
        if has_void and form.palette is not HEAT:
            box = Box(top, left, top + values.shape[-2], left + values.shape[-1])
            void = rasters.read(image, numbers, box).void
            assert void is not None
            values = np.where(void, np.array(IGNORE_INDEX if form.palette else np.nan, values.dtype), values)
        rasters.write(file, values, top, left)

    writers: list[Write] = []
    for file, form in files.items():
        opened = stack.enter_context(rasters.created(file, image, form.bands, form.dtype, form.palette))
        writers.append(partial(write, opened, form))
    return (image.height, image.width), read, writers


class _File(NamedTuple):
    """A file to create: its number of bands, and the palette of a file of 8 bits."""

    bands: int
    palette: Palette

    @property
    def dtype(self) -> str:
        return "uint8" if self.palette else "float32"
