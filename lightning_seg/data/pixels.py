"""What the pixels of images are, from the file to the first layer of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from lightning_seg.errors import UserError

Range = tuple[float, float]
DTYPES = ("uint8", "uint16", "int16", "float32")
"""Types that pixels may have between the file and the device; each fits into ``float32`` without loss."""
MEAN = (0.485, 0.456, 0.406)
"""Mean red, green and blue of ImageNet, in 0..1."""
_COLORS = ("red", "green", "blue")


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each band, in the values of the files.

    Args:
        mean: Mean of each band (C,).
        std: Standard deviation of each band (C,).
    """

    mean: list[float]
    std: list[float]


class Scaling(NamedTuple):
    """How the values of files become those that a network computes with: clipped, minus the mean, by the deviation.

    Args:
        mean: What is subtracted from each band (C,), in the values of the files.
        std: What each band is divided by (C,).
        low: Values below are clipped to this (C,); empty for no clipping.
        high: Values above are clipped to this (C,); empty for no clipping.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


class Image(NamedTuple):
    """A decoded image.

    Args:
        values: (H, W, C), of one of `DTYPES`.
        void: Where the file has no data (H, W) ``bool``, or None if it has data everywhere.
    """

    values: np.ndarray
    void: np.ndarray | None = None


@dataclass(frozen=True)
class Pixels:
    """Which bands of a file are read, what their values mean, and how they are normalized.

    A data set makes one of its settings; readers, augmentation, the task and its network, pictures and prediction go by
    it. The default is what a photograph is: red, green and blue of 8 bits.

    Args:
        bands: Bands to read, in this order, by number from 0 or by name; None for colors, gray being repeated.
        value_range: Values of the files that are black and white; None for 0 and 255.
        normalization: "pretraining" for the mean and deviation that the backbone was trained with, "measured" for
            those of each band in the training split, "percentiles" for the former after the 1st and 99th percentile of
            each band became black and white, or a `Statistics`.
        rgb: Which of the chosen bands are red, green and blue in pictures, counted from 0.
    """

    bands: tuple[int | str, ...] | None = None
    value_range: Range | None = None
    normalization: Literal["pretraining", "measured", "percentiles"] | Statistics = "pretraining"
    rgb: tuple[int, int, int] | None = None

    @property
    def count(self) -> int:
        """Number of channels of an image."""
        return 3 if self.bands is None else len(self.bands)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each channel."""
        return _COLORS if self.bands is None else tuple(f"band {band}" for band in self.bands)

    @property
    def has_hue(self) -> bool:
        """Whether the channels are red, green and blue, so that there is a hue to change."""
        return self.bands is None or (self.rgb == (0, 1, 2) and self.count == 3)

    @property
    def is_measured(self) -> bool:
        """Whether the normalization depends on the training split."""
        return self.normalization in ("measured", "percentiles")

    @property
    def takes_any_values(self) -> bool:
        """Whether it is said what values beyond 0 to 255 mean."""
        return self.value_range is not None or self.normalization != "pretraining"

    @property
    def limits(self) -> Range | None:
        """Values that augmentation must not leave: those that a network would clip; None where none are known."""
        return self.value_range or (None if self.takes_any_values else (0.0, 255.0))

    @property
    def black(self) -> float:
        """The value that is black, which brightness leaves alone."""
        return 0.0 if self.value_range is None else self.value_range[0]

    def scaling(
        self, mean: Sequence[float], std: Sequence[float], measured: "Measurement | None" = None
    ) -> Scaling:
        """Say how values are normalized.

        Args:
            mean: Mean of each input channel that the backbone was trained with, for images in 0..1.
            std: Standard deviation likewise.
            measured: What the training split says, where `is_measured`.
        """
        low, high = _each(self.value_range or (0.0, 255.0), self.count)
        clip = (low, high) if self.value_range is not None else ((), ())
        if isinstance(self.normalization, Statistics):
            return Scaling(tuple(self.normalization.mean), tuple(self.normalization.std), *clip)
        if self.is_measured and measured is None:
            return Scaling((0.0,) * self.count, (1.0,) * self.count, *clip)  # until it is known
        if measured is not None and self.normalization == "measured":
            return Scaling(measured.mean, measured.std, *clip)
        if measured is not None and self.normalization == "percentiles":
            low, high = clip = measured.low, measured.high
        mean, std = for_bands(mean, self.count), for_bands(std, self.count)
        spans = [b - a for a, b in zip(low, high, strict=True)]
        return Scaling(
            tuple(a + m * span for a, m, span in zip(low, mean, spans, strict=True)),
            tuple(s * span for s, span in zip(std, spans, strict=True)),
            *clip,
        )

    def picture(self, image: np.ndarray) -> np.ndarray:
        """Show an image (H, W, C) as a picture (H, W, 3), ``uint8``.

        8 bits are shown as they are. Of anything else the 2nd and 98th percentile of each band become black and white.
        """
        if image.dtype != np.uint8 or image.shape[2] != 3 or self.rgb not in (None, (0, 1, 2)):
            image = image[..., list(self.rgb or ((0, 1, 2) if self.count >= 3 else (0, 0, 0)))]
        return image if image.dtype == np.uint8 else stretched(image)

    def describe(self) -> str:
        """Say in words which bands there are and how they are normalized."""
        what = "RGB" if self.bands is None else f"{self.count} bands: {', '.join(map(str, self.bands))}"
        if self.value_range is not None:
            what += f"; {self.value_range[0]:g} is black, {self.value_range[1]:g} white"
        how = self.normalization if isinstance(self.normalization, str) else "given mean and deviation"
        return f"{what}; normalization: {how}"


RGB = Pixels()
"""Photographs: red, green and blue of 8 bits, normalized as for pretraining."""


class Measurement(NamedTuple):
    """What the training split says of each band, nodata excluded.

    Args:
        mean: Mean of each band (C,), clipped to the value range if there is one.
        std: Standard deviation of each band (C,), likewise.
        low: 1st percentile of each band (C,).
        high: 99th percentile of each band (C,).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def make_pixels(
    bands: Sequence[int | str] | None,
    value_range: Range | None,
    normalization: Literal["pretraining", "measured", "percentiles"] | Statistics | None,
    rgb: Sequence[int] | None,
) -> Pixels:
    """Make `Pixels` of a data set's settings, with the normalization that suits them unless one is chosen.

    Where bands are chosen and no value range is given, nothing is known of their values: they are measured.

    Raises:
        UserError: The settings make no sense, or not together.
    """
    if bands is not None and (not bands or len(set(bands)) < len(bands)):
        raise UserError(f"data.init_args.bands must name each band once, as [0, 1, 2, 3]; got {list(bands)}.")
    if bands is not None and any(isinstance(band, int) and band < 0 for band in bands):
        raise UserError(f"data.init_args.bands are counted from 0; got {list(bands)}.")
    if normalization is None:
        normalization = "measured" if bands is not None and value_range is None else "pretraining"
    pixels = Pixels(
        None if bands is None else tuple(bands),
        None if value_range is None else (value_range[0], value_range[1]),
        normalization,
        None if rgb is None else (rgb[0], rgb[1], rgb[2]),
    )
    if isinstance(normalization, Statistics):
        for name, values in (("mean", normalization.mean), ("std", normalization.std)):
            if len(values) != pixels.count or not np.isfinite(values).all():
                raise UserError(
                    f"data.init_args.normalization.{name} must be {pixels.count} numbers, one a band; got {values}."
                )
        if min(normalization.std) <= 0:
            raise UserError(
                f"data.init_args.normalization.std must be above 0; got {list(normalization.std)}."
            )
    if rgb is not None and not all(0 <= place < pixels.count for place in rgb):
        raise UserError(
            f"data.init_args.rgb are places among the {pixels.count} bands that are read, 0 to {pixels.count - 1}; got "
            f"{list(rgb)}."
        )
    return pixels


def restored(content: Mapping[str, object]) -> Pixels:
    """Make `Pixels` of what `dataclasses.asdict` has made of them, perhaps with lists in place of tuples."""
    known: dict[str, Any] = {}
    for name, value in content.items():
        known[name] = tuple(value) if isinstance(value, list) else value
    if isinstance(given := known.get("normalization"), Mapping):
        known["normalization"] = Statistics(given["mean"], given["std"])
    return Pixels(**known)


def for_bands(values: Sequence[float], count: int) -> tuple[float, ...]:
    """Stretch what is known of red, green and blue to any number of bands: their mean for one or two, else in turn."""
    if count < len(values):
        return (sum(values) / len(values),) * count
    return tuple(values[i % len(values)] for i in range(count))


def stretched(image: np.ndarray, percent: float = 2) -> np.ndarray:
    """Scale each band of an image (H, W, C) from its lower to its upper percentile, to ``uint8``.

    Args:
        image: The image; NaN becomes black.
        percent: How many pixels may become black, and as many white, in percent.
    """
    values = image.astype(np.float32)
    few = values[:: max(1, values.shape[0] // 512), :: max(1, values.shape[1] // 512)]
    low, high = np.nanpercentile(few, (percent, 100 - percent), axis=(0, 1))
    scaled = (values - low) / np.maximum(high - low, 1e-12)
    shown: np.ndarray = (255 * np.nan_to_num(scaled).clip(0, 1)).round().astype(np.uint8)
    return shown


def _each(limits: Range, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (float(limits[0]),) * count, (float(limits[1]),) * count
