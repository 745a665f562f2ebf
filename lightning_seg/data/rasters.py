"""TIFF files of any number of bands, by GDAL: whole, by windows, and with their place on earth."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader, DatasetWriter

TILE = 256
"""Pixels a side of what a written TIFF file holds in one piece."""


class Box(NamedTuple):
    """A part of an image: rows top to bottom and columns left to right, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int


class Raster(NamedTuple):
    """What was read of a raster file.

    Args:
        values: (H, W, C), the bands that were asked for.
        void: Where one of these bands has the file's nodata value or is NaN (H, W), or None where the file has none.
    """

    values: np.ndarray
    void: np.ndarray | None


@contextmanager
def opened(path: str | Path) -> Iterator["DatasetReader"]:
    """Open a raster file with rasterio.

    Raises:
        UserError: It cannot be read.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(path) as file:  # megabytes
                yield file
        except (RasterioError, OSError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"The image {path} cannot be read ({reason}). Replace it or leave it out."
            ) from None


def numbers_of(file: "DatasetReader", bands: Sequence[int | str] | None, name: str | Path) -> list[int]:
    """Find bands of an open raster file by number or name, or all but transparency; GDAL counts from 1.

    Raises:
        UserError: There is no such band.
    """
    if bands is None:
        return [number for number, part in enumerate(file.colorinterp, 1) if part.name != "alpha"]
    return [1 + place for place in places_of(bands, file.count, file.descriptions, name)]


def places_of(
    bands: Sequence[int | str], count: int, names: Sequence[str | None], name: str | Path
) -> list[int]:
    """Find bands by number from 0 or by name.

    Args:
        bands: What is asked for.
        count: Number of bands of the image.
        names: Names of its bands, where it has any.
        name: What to call the image in errors.

    Raises:
        UserError: There is no such band.
    """
    known = {str(text).casefold(): place for place, text in enumerate(names) if text}
    places = [band if isinstance(band, int) else known.get(band.casefold(), -1) for band in bands]
    for band, place in zip(bands, places, strict=True):
        if not 0 <= place < count:
            named = f", named {', '.join(map(str, names))}" if known else "; they have no names"
            raise UserError(
                f"{name} has {count} bands, 0 to {count - 1}{named}. data.init_args.bands asks for {band!r}."
            )
    return places


def read(file: "DatasetReader", numbers: Sequence[int], box: Box | None = None) -> Raster:
    """Read bands of an open raster file.

    Args:
        file: See `opened`.
        numbers: Numbers of the bands, from 1; see `numbers_of`.
        box: The part to read; all of it unless given.
    """
    window = None if box is None else ((box.top, box.bottom), (box.left, box.right))
    values = file.read(list(numbers), window=window)
    nodata = [file.nodatavals[number - 1] for number in numbers]
    void = None
    if any(value is not None for value in nodata):
        void = np.zeros(values.shape[1:], bool)
        for band, value in zip(values, nodata, strict=True):
            if value is not None:
                void |= np.isnan(band) if np.isnan(value) else band == value
            if band.dtype.kind == "f":
                void |= np.isnan(band)
    return Raster(np.ascontiguousarray(np.moveaxis(values, 0, -1)), void)


@contextmanager
def created(
    path: Path,
    like: "DatasetReader",
    bands: int = 1,
    dtype: str = "uint8",
    palette: Sequence[Sequence[int]] = (),
) -> Iterator["DatasetWriter"]:
    """Create a tiled, compressed GeoTIFF of the size and the place of an open raster file.

    Args:
        path: The file.
        like: The open file.
        bands: Number of bands.
        dtype: Type of their values.
        palette: Color of each value of a file of one band, whose nodata value is then 255, as `ignore_index`.

    Yields:
        The file, open for writing.
    """
    import rasterio

    layout = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate"}
    place = {"crs": like.crs, "transform": like.transform}
    nodata = IGNORE_INDEX if palette else None
    size = {"width": like.width, "height": like.height, "count": bands}
    with rasterio.open(
        path, "w", "GTiff", **size, dtype=dtype, nodata=nodata, BIGTIFF="IF_SAFER", **layout, **place
    ) as file:
        if like.gcps[0]:
            file.gcps = like.gcps
        if palette:
            file.write_colormap(1, {value: tuple(color) for value, color in enumerate(palette)})
        yield file


def write(file: "DatasetWriter", values: np.ndarray, top: int = 0, left: int = 0) -> None:
    """Write a part (H, W) or (C, H, W) of an open file, from its upper left corner on."""
    values = values[None] if values.ndim == 2 else values
    file.write(values, window=((top, top + values.shape[1]), (left, left + values.shape[2])))


def void_of(
    file: "DatasetReader", bands: Sequence[int | str] | None, box: Box | None = None
) -> np.ndarray | None:
    """Where the bands that are read of an open raster file have no data (H, W); None where it has none to mark it."""
    numbers = numbers_of(file, bands, file.name)
    return read(file, numbers, box).void if any(v is not None for v in file.nodatavals) else None


def is_place_known(path: str | Path) -> bool:
    """Whether a file is a TIFF that says where on earth it is."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return False
    with opened(path) as file:
        return file.crs is not None or not file.transform.is_identity or bool(file.gcps[0])


def write_like(
    source: str | Path, target: Path, values: np.ndarray, palette: Sequence[Sequence[int]] = ()
) -> None:
    """Write an array (H, W) with a palette, or (C, H, W), as a GeoTIFF of the place of another file."""
    bands = 1 if values.ndim == 2 else len(values)
    with opened(source) as like, created(target, like, bands, values.dtype.name, palette) as file:
        write(file, values)
