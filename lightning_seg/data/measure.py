"""Mean, deviation and percentiles of each band in the training split, measured once and cached."""

from contextlib import suppress

import numpy as np

from lightning_seg.data.cache import cache_key
from lightning_seg.data.cache_folder import cache_folder, keep_array
from lightning_seg.data.loading import in_parallel
from lightning_seg.data.pixels import Image, Measurement
from lightning_seg.data.protocol import DataSet
from lightning_seg.errors import UserError

_FOR_PERCENTILES = 4096  # pixels of each image


def measure(data: DataSet) -> Measurement:
    """Measure the bands of the training split; pixels without data do not count.

    The mean and the deviation are those of all pixels, the percentiles those of some pixels of each image.

    Args:
        data: The data set.

    Raises:
        UserError: A file cannot be read, or a band has one value throughout.
    """
    samples, limits = data.samples(data.train_split), data.pixels.value_range
    file = cache_folder() / f"bands-{cache_key(data, data.train_split, samples)}-{limits}.npy"
    with suppress(OSError, ValueError):
        kept = np.load(file, allow_pickle=False)
        if kept.shape == (4, data.pixels.count):
            return Measurement(*map(tuple, kept.tolist()))
    count, mean, squares, some = 0, np.zeros(data.pixels.count), np.zeros(data.pixels.count), []
    for number, total, deviations, few in in_parallel(lambda s: _look(data.image_of(s), limits), samples):
        if number:  # Chan, Golub and LeVeque's rule for joining two variances
            difference, both = total - mean, count + number
            squares += deviations + difference**2 * (count * number / both)
            mean, count = mean + difference * (number / both), both
            some.append(few)
    std = np.sqrt(squares / max(count, 1))
    if not (std > 0).all():
        constant = [data.pixels.names[i] for i in np.flatnonzero(~(std > 0))]
        raise UserError(
            f"{', '.join(constant)} of the training split has one value throughout, which cannot be normalized. Leave "
            "it out of data.init_args.bands."
        )
    low, high = np.percentile(np.concatenate(some), (1, 99), axis=0)
    high = np.where(high > low, high, low + std)
    found = np.stack([mean, std, low, high])
    keep_array(file, found)
    return Measurement(*map(tuple, found.tolist()))


def _look(image: Image, limits: tuple[float, float] | None) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Number of pixels, mean and summed squared deviation of each band, and a few pixels."""
    values = image.values.reshape(-1, image.values.shape[2])
    if image.void is not None:
        values = values[~image.void.ravel()]
    if not len(values):
        return 0, np.zeros(0), np.zeros(0), values
    few = values[:: max(1, len(values) // _FOR_PERCENTILES)]
    if limits is not None:
        values = values.clip(*limits)
    mean = values.mean(0, dtype=np.float64)
    return len(values), mean, ((values - mean) ** 2).sum(0), few
