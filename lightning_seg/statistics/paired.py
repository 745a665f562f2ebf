"""Is the difference between two experiments real? Paired statistics over test images and seeds.

A score varies for two reasons: other test images and other seeds would have given another one. Test images are
resampled together for all runs (a paired bootstrap of the data-set mIoU, so that what makes an image hard for
everyone cancels out); the seed's part is the variance between runs of one group, less what the images explain of
it. Both are added, and the interval is Student's with Satterthwaite's degrees of freedom, which is honest about
three seeds being few. Many comparisons are corrected by Holm's method.

Images count as independent of each other. Frames of one video are not: they are to be resampled in blocks, or
intervals are too narrow. Runs of two groups that share a seed count as independent, too: what the seed does to both
alike makes the interval wider than it need be, never narrower, and pairs of three would leave two degrees of freedom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from lightning_seg.metrics.scores import miou_and_iou, nan_mean


@dataclass(frozen=True)
class Estimate:
    """Numbers with their standard errors.

    Attributes:
        value: The estimates; any shape.
        error: Standard errors of the same shape; NaN where they are not known.
        df: Degrees of freedom of the same shape.
    """

    value: np.ndarray
    error: np.ndarray
    df: np.ndarray

    def __getitem__(self, index: Any) -> "Estimate":
        """Take a part."""
        return Estimate(self.value[index], self.error[index], self.df[index])

    def half_width(self, level: float = 0.95) -> np.ndarray:
        """Return half the width of the confidence intervals."""
        return np.asarray(self.error * stdtrit(self.df, (1 + level) / 2))

    def p(self) -> np.ndarray:
        """Return two-sided p-values against zero; 1 where value and error are both 0 or nothing is known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(self.value) / self.error
        return np.where(np.isnan(t), 1.0, 2 * stdtr(self.df, -t))


class Sample:
    """The scores of groups of runs on the same images, and how they would vary with other images and seeds.

    Scores are the data-set mIoU (place 0) and the IoU of each class (places 1 to C).

    Args:
        groups: For each group the counts (N, C, 3) of each of its runs: intersection, predicted and true pixels.
            A group without a second run borrows the seed variance of those that have one.
        replicates: Bootstrap replicates, B.
        seed: Of the resampling: the same runs always give the same intervals.
        block: Neighbouring images that are resampled together.

    Attributes:
        value: Mean score of each group over its runs, (G, 1 + C) fractions; NaN for a class in none of its images.
        std: Standard deviation over the runs of each group, (G, 1 + C); NaN for a single run.
        seeds: Runs in each group, (G,).
        images: How many images, in words.
        seeds_known: Whether any group has more than one run, so that intervals include the variation of seeds.
    """

    def __init__(
        self, groups: Sequence[Sequence[np.ndarray]], replicates: int = 1000, seed: int = 0, block: int = 1
    ) -> None:
        self.seeds = np.array([len(runs) for runs in groups])
        images = len(groups[0][0])
        self.images = f"{images} image{'s' * (images > 1)}" + (f" in blocks of {block}" if block > 1 else "")
        self.seeds_known = bool((self.seeds > 1).any())
        self._blocks = blocks = math.ceil(images / max(block, 1))
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), replicates).astype(np.float32)
        weights = weights.repeat(max(block, 1), axis=1)[:, :images]
        means, stds, deviations, interactions = [], [], [], []
        for runs in groups:
            scores = np.stack([miou_and_iou(counts.sum(0)) for counts in runs])
            resampled = np.stack([_resample(counts, weights) for counts in runs], axis=1)  # (B, S, 1 + C)
            means.append(nan_mean(scores, 0))
            stds.append(np.sqrt(_variance(scores, 0)))
            deviations.append(nan_mean(resampled, 1))
            interactions.append(nan_mean(_variance(resampled - scores, 1), 0))
        self.value, self.std = np.stack(means), np.stack(stds)
        self._covariance = _covariance(np.stack(deviations, axis=-1)) * _unbiased(blocks)
        between, within = self.std**2, np.stack(interactions) * _unbiased(blocks)
        self._pool(between, between - within)

    def _pool(self, between: np.ndarray, own: np.ndarray) -> None:
        """Settle the variance that another seed brings to one run.

        Args:
            between: Variance between the runs of each group, (G, 1 + C); NaN where it has one run.
            own: The part of it that other images would confirm: the rest is in the bootstrap already.
        """
        df = np.where(np.isfinite(own), self.seeds[:, None] - 1.0, 0.0)
        runs = df.sum(0)

        def pooled(variance: np.ndarray) -> np.ndarray:
            return np.asarray(np.where(df > 0, df * variance, 0).sum(0) / np.maximum(runs, 1))

        # Three seeds may agree by luck, and among many groups some do: a group that varies less than groups do
        # on average is moved towards them, as if two more runs had shown it. One that varies more is believed.
        lucky = own < pooled(own)
        share = np.where(df > 0, np.where(lucky, 2 / (2 + df), 0), 1)  # all of it where there is one run
        self._seed_variance, self._raw_seed_variance = (
            np.maximum(0, np.where(df > 0, (1 - share) * v, 0) + share * pooled(v)) for v in (own, between)
        )
        self._seed_df = np.where(df > 0, df + 2 * lucky, np.where(runs > 0, runs, np.inf))

    def group(self, a: int | np.ndarray) -> Estimate:
        """Estimate the scores of groups, (..., 1 + C)."""
        return self._estimate(self.value[a], self._covariance[a, a], (a,))

    def difference(self, a: int | np.ndarray, b: int | np.ndarray) -> Estimate:
        """Estimate how much better groups ``a`` are than groups ``b``, (..., 1 + C)."""
        k = self._covariance
        return self._estimate(self.value[a] - self.value[b], k[a, a] + k[b, b] - 2 * k[a, b], (a, b))

    def _estimate(
        self, value: np.ndarray, images: np.ndarray, groups: tuple[int | np.ndarray, ...]
    ) -> Estimate:
        images = np.maximum(images, 0)
        total, uncertainty = images, images**2 / max(self._blocks - 1, 1)
        for g in groups:
            runs = self.seeds[g][..., None] if np.ndim(g) else self.seeds[g]
            total = total + self._seed_variance[g] / runs
            uncertainty = uncertainty + (self._raw_seed_variance[g] / runs) ** 2 / self._seed_df[g]
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where(uncertainty > 0, total**2 / uncertainty, 1.0)
        return Estimate(value, np.sqrt(total), np.maximum(df, 1.0))


def holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values (M,) for M comparisons: the chance of even one false difference stays at the level.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty(len(p))
    result[order] = np.minimum(adjusted, 1)
    return result


def sentence(
    a: str,
    b: str,
    difference: Estimate,
    p: float,
    comparisons: int,
    seeds: tuple[int, int],
    images: str,
    seeds_known: bool = True,
) -> str:
    """Say in words how two groups differ.

    Args:
        a: Name of the one.
        b: Name of the other.
        difference: The mIoU of ``a`` less that of ``b``, as a fraction.
        p: Its p-value, corrected for many comparisons.
        comparisons: How many they were.
        seeds: Runs of each.
        images: How many test images, in words.
        seeds_known: Whether the interval includes the variation between seeds.
    """
    value, half = 100 * float(difference.value), 100 * float(difference.half_width())
    if not math.isfinite(half):
        return f"{a} and {b} cannot be told apart by {images}: {value:+.1f} mIoU"
    numbers = f"{seeds[0]}" if seeds[0] == seeds[1] else f"{seeds[0]} and {seeds[1]}"
    basis = f"{numbers} seed{'s' * (max(seeds) > 1)}, {images}"
    if not seeds_known:
        basis = f"{images}; 1 seed each, so another seed may change it"
    if p < 0.05:
        word = "better" if value > 0 else "worse"
        low, high = abs(value) - half, abs(value) + half
        return f"{a} is {abs(value):.1f} mIoU {word} than {b}, 95 % CI {low:.1f} to {high:.1f}, {basis}"
    corrected = f" after correction for {comparisons} comparisons" if abs(value) > half else ""
    return f"{a} and {b} are not distinguishable{corrected}: {value:+.1f} ± {half:.1f} mIoU, {basis}"


def _resample(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Score one run on resampled images: counts (N, C, 3) and weights (B, N) give (B, 1 + C)."""
    images, classes, _ = counts.shape
    sums = weights @ counts.reshape(images, classes * 3).astype(np.float32)
    return miou_and_iou(sums.reshape(-1, classes, 3)).astype(np.float32)


def _covariance(values: np.ndarray) -> np.ndarray:
    """Turn replicates (B, 1 + C, G) into covariances (G, G, 1 + C), each pair from the replicates it has."""
    values = np.moveaxis(values, 0, 1).astype(np.float64)  # (1 + C, B, G)
    present = np.isfinite(values)
    centred = np.where(present, values - nan_mean(values, 1)[:, None], 0)
    pairs = present.astype(np.float64)
    together = pairs.transpose(0, 2, 1) @ pairs
    return np.moveaxis(centred.transpose(0, 2, 1) @ centred / np.maximum(together - 1, 1), 0, -1)


def _variance(values: np.ndarray, axis: int) -> np.ndarray:
    """Estimate the variance of what is not NaN; NaN where fewer than two values are left."""
    present = np.isfinite(values)
    centred = np.where(present, values - np.expand_dims(nan_mean(values, axis), axis), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (centred**2).sum(axis) / (present.sum(axis) - 1)
    return np.where(present.sum(axis) > 1, result, np.nan)


def _unbiased(n: int) -> float:
    return n / (n - 1) if n > 1 else float("nan")
