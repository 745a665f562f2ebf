"""Choosing bands of a decoded image, and checking what its values are."""

from collections.abc import Sequence

import numpy as np

from lightning_seg.data.pixels import DTYPES, Pixels
from lightning_seg.data.rasters import places_of
from lightning_seg.errors import UserError


class WideRange(UserError):
    """An image has more than 8 bits a channel, and nothing says which of its values become 0 and 255.

    Args:
        message: What to tell.
        values: Its lowest and highest value.
    """

    def __init__(self, message: str, values: tuple[float, float] = (0, 0)) -> None:
        super().__init__(message)
        self.values = values


def as_pixels(
    array: np.ndarray,
    pixels: Pixels,
    name: object,
    void: np.ndarray | None = None,
    names: Sequence[str | None] = (),
) -> np.ndarray:
    """Choose the bands of an array and check its values.

    Args:
        array: Image (H, W) or (H, W, K).
        pixels: Which bands are taken, and which values are expected.
        name: What to call the image in errors.
        void: Where it has no data (H, W); there it gets the mean of each band.
        names: Names of the bands, where they have any.

    Returns:
        Image (H, W, C), ``uint8``, ``uint16``, ``int16`` or ``float32``.

    Raises:
        WideRange: It has more than 8 bits a channel, and `pixels` do not say what its values mean.
        UserError: It has other bands, or values that are no number or do not fit.
    """
    array = array[..., None] if array.ndim == 2 else array
    if pixels.bands is not None:
        places = places_of(pixels.bands, array.shape[2], names, str(name))
        if places != [*range(array.shape[2])]:
            array = np.ascontiguousarray(array[..., places])
    elif array.shape[2] not in (1, 3):
        raise UserError(
            f"{name} has {array.shape[2]} bands. State which of them to use, and in which order, counted from 0: "
            f"--data.init_args.bands=[{','.join(map(str, range(array.shape[2])))}] for all of them. None is left out "
            "without a word."
        )
    array = _own_type(array, name)
    if void is not None and void.any():
        array = np.array(array)
        array[void] = array[~void].mean(0).astype(array.dtype) if not void.all() else 0
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinite values. Replace them by numbers, then try again.")
    if array.dtype != np.uint8 and not pixels.takes_any_values:
        least, most = float(array.min()), float(array.max())
        raise WideRange(
            f"{name} has more than 8 bits a channel ({array.dtype}), its values go from {least:g} to {most:g}. State "
            "which values become black and white, the same for all images: --data.init_args.value_range=[LOW,HIGH], "
            "for example [0,4095] for a camera of 12 bits, [0,65535] for the full range of 16. Or have mean and "
            "deviation measured: --data.init_args.normalization=measured.",
            (least, most),
        )
    if array.dtype == np.uint8 and pixels.value_range is not None and pixels.value_range[1] > 255:
        raise UserError(
            f"{name} has 8 bits a channel, but data.init_args.value_range is {list(pixels.value_range)}: it would be "
            "nearly black. Export it with the bits of the other images, or leave it out."
        )
    if pixels.bands is None and array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return array


def _own_type(array: np.ndarray, name: object) -> np.ndarray:
    """Keep the type of an array if it is one of `DTYPES`, else take the one that holds all of its values."""
    if array.dtype.name in DTYPES:
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if array.dtype == bool or array.dtype == np.int8:
        return array.astype(np.uint8 if array.dtype == bool else np.int16)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} holds values of the type {array.dtype}, not numbers of one part.")
    if array.dtype.kind != "f" and array.size and max(-int(array.min()), int(array.max())) > 2**24:
        raise UserError(
            f"{name} holds whole numbers up to {array.max()}, and networks compute with 24 bits. Scale them down."
        )
    return array.astype(np.float32)
