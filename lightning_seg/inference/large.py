"""Prediction of images larger than memory: read, predicted and written window by window."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from lightning_seg.data.io import scale
from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import Predict, SlidingWindow, UniformWindow, entropy
from lightning_seg.inference.precision import full_precision
from lightning_seg.inference.predictor import Predictor
from lightning_seg.inference.writing import Outputs, as_bytes
from lightning_seg.plotting.heat import HEAT
from lightning_seg.plotting.pictures import Palette

LARGE = 2**26  # pixels; the logits of 20 classes would take 5 GB
_BUDGET = 2**28  # bytes for the logits of one strip of windows
_TILE = 256  # pixels a side of what a TIFF file holds in one piece
_SAMPLE = 1024  # pixels a side of the reduced copy whose values an error states

Range = tuple[float, float] | None
Read = Callable[[int, int, int, int], np.ndarray]
Write = Callable[[int, int, np.ndarray], None]


def is_large(path: Path) -> bool:
    """Return whether an image is predicted window by window: any .npy file, and images over 67 megapixels."""
    if path.suffix == ".npy":
        return True
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return image.width * image.height > LARGE
    except Image.DecompressionBombError:
        return True
    except OSError:
        return False  # the reader of images says what is wrong with it


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
    model: Predictor,
    path: Path,
    outputs: Outputs,
    uncertainty: bool = False,
    bands: Sequence[int] | None = None,
) -> None:
    """Write the mask of an image of any size.

    Memory holds one window and one strip of logits, independently of the size of the image. Where the inference
    strategy of the model is not a sliding window, windows of 512x512 pixels are used around it. A .npy file gives a
    .npy mask, any other a tiled TIFF with the class colors as palette and the georeference of the image.

    Args:
        model: The model.
        path: A .npy file (H, W, 3), or any raster file that GDAL reads by windows, such as a tiled TIFF.
        outputs: Where to write.
        uncertainty: Also write the normalised entropy of each pixel, scaled to 0..255.
        bands: Numbers of the bands that are red, green and blue, from 1 on; a file of one or three bands, beside
            transparency, does not need it.

    Raises:
        UserError: The file cannot be read window by window, has more than 8 bits a channel without a `value_range` of
            the model, leaves open which bands are meant, or the model has post-processing.
    """
    check_windows(model, path)
    files: dict[str, Palette] = {"masks": model.palette} | ({"uncertainty": HEAT} if uncertainty else {})
    ending = ".npy" if path.suffix == ".npy" else ".tif"
    targets = [outputs.file(kind, path, ending) for kind in files]
    unfinished = [target.with_name(f".unfinished-{target.name}") for target in targets]
    try:
        with ExitStack() as stack:
            masks = dict(zip(unfinished, files.values(), strict=True))
            size, read, writers = (
                _open_array(path, masks, model.value_range)
                if ending == ".npy"
                else _open_raster(path, masks, model.value_range, bands, stack)
            )
            pieces, total = _sweep(model, read, size)
            stack.enter_context(torch.inference_mode())
            stack.enter_context(full_precision(model.device))
            for top, left, logits in track(pieces, path.name, total, disable=not sys.stderr.isatty()):
                writers[0](top, left, logits[0].max(0)[1].byte().cpu().numpy())
                if uncertainty:
                    writers[1](top, left, as_bytes(entropy(logits / model.temperature)[0]))
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
        return torch.from_numpy(read(*box)).permute(2, 0, 1)[None].to(model.device)

    strip = _BUDGET // (4 * len(model.class_names) * window.size[0])
    strip = max(strip, 2 * window.size[1])  # a narrow one would compute most windows twice
    columns = math.ceil(strip / _TILE) * _TILE
    total = math.ceil(size[1] / columns) * len(window.starts(size[0], window.size[0]))
    return window.sweep(predict, images, size, columns), total


def _open_array(
    path: Path, masks: dict[Path, Palette], value_range: Range
) -> tuple[tuple[int, int], Read, list[Write]]:
    """Open a .npy file and create outputs of its height and width.

    Files are mapped anew for each piece: pages that stay mapped would count as memory of the process.
    """
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind not in "iuf":
        raise UserError(f"{path}: expected an array (H, W, 3) of uint8, got {array.shape} of {array.dtype}.")
    steps = [max(1, length // _SAMPLE) for length in array.shape[:2]]
    _scaled(array[:: steps[0], :: steps[1]], value_range, path)

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return _scaled(np.array(np.load(path, mmap_mode="r")[top:bottom, left:right]), value_range, path)

    def write(file: Path, top: int, left: int, values: np.ndarray) -> None:
        np.load(file, mmap_mode="r+")[top : top + values.shape[0], left : left + values.shape[1]] = values

    for file in masks:
        np.lib.format.open_memmap(file, "w+", np.uint8, array.shape[:2])
    return array.shape[:2], read, [partial(write, file) for file in masks]


def _scaled(array: np.ndarray, value_range: Range, path: Path) -> np.ndarray:
    """Return a part of an image as 8 bits; see `lightning_seg.data.io.scale`."""
    return array if array.dtype == np.uint8 and value_range is None else scale(array, value_range, path)


def _open_raster(
    path: Path,
    masks: dict[Path, Palette],
    value_range: Range,
    bands: Sequence[int] | None,
    stack: ExitStack,
) -> tuple[tuple[int, int], Read, list[Write]]:
    """Open a raster file and create tiled TIFF files of its height, width and georeference."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
        from rasterio.windows import Window
    except ImportError:
        raise UserError(
            f"{path} is too large to be read at once; reading it by windows needs rasterio. Install it with "
            "`uv pip install rasterio`, or save the image as a .npy array (H, W, 3)."
        ) from None
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    stack.enter_context(rasterio.Env(GDAL_CACHEMAX=64))  # megabytes
    try:
        image = stack.enter_context(rasterio.open(path))
    except RasterioIOError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    colors = [i for i, meaning in enumerate(image.colorinterp, 1) if meaning.name != "alpha"]
    if bands is None and len(colors) not in (1, 3):
        raise UserError(
            f"{path} has {len(colors)} bands: which of them are red, green and blue? Say --bands=1,2,3 if it is the "
            "first three."
        )
    chosen = list(bands or (colors if len(colors) == 3 else colors * 3))
    if len(chosen) != 3 or not all(1 <= band <= image.count for band in chosen):
        raise UserError(f"{path} has the bands 1 to {image.count}; expected three of them, got {chosen}.")
    small = (3, min(image.height, _SAMPLE), min(image.width, _SAMPLE))
    _scaled(image.read(chosen, out_shape=small), value_range, path)  # refuses what it cannot scale

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        values = image.read(chosen, window=Window(left, top, right - left, bottom - top))
        return _scaled(values, value_range, path).transpose(1, 2, 0)

    def writer(mask: Path, palette: Palette) -> Write:
        layout = {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "compress": "deflate"}
        place = {"crs": image.crs, "transform": image.transform}
        file = stack.enter_context(
            rasterio.open(
                mask,
                "w",
                "GTiff",
                image.width,
                image.height,
                1,
                dtype="uint8",
                **layout,
                **place,
            )
        )
        file.write_colormap(1, dict(enumerate(palette)))

        def write(top: int, left: int, values: np.ndarray) -> None:
            file.write(values, 1, window=Window(left, top, values.shape[1], values.shape[0]))

        return write

    return (image.height, image.width), read, [writer(*mask) for mask in masks.items()]
