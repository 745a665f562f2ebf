"""Is the difference between two experiments real? Paired statistics over test images and seeds.

A score varies for two reasons: other test images and other seeds would have given another one. How much images matter
is found by leaving out one image after the other, the same for all runs, so that what makes an image hard for everyone
cancels out (the jackknife, whose variance is rather too large than too small: Efron and Stein, 1981). How much seeds
matter is the variance between the runs of one group; groups share what they know about it (see `seed_variances`).

An interval adds both parts, each with the quantile of Student's t for the degrees of freedom it was estimated with
(Cochran's approximation to the Behrens-Fisher problem): three seeds are few, and it says so.

Images count as independent of each other. Frames of one video are not, and are left out in blocks (see
`lightning_seg.statistics.blocks`). Runs of two groups that share a seed count as independent, too: what the seed does
to both alike makes the interval wider than it need be, never narrower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import gammaln, ndtri, stdtrit

from lightning_seg.metrics.scores import miou_and_iou, nan_mean, ratio

_LEAST_P = 1e-12
_PRIOR_DF = np.geomspace(1, 64, 19)  # how alike the seed variances of groups may be
_REPEATED = 2  # runs beside the first ones of their groups, from which on seeds are known to vary by how much
_Part = int | np.integer | slice | np.ndarray
Index = _Part | tuple[_Part, ...]
_MANY = 1e9  # degrees of freedom of what is known for certain


@dataclass(frozen=True)
class Estimate:
    """Numbers and how far off they may be. All arrays have one shape.

    Attributes:
        value: The estimates.
        images: Variance that other test images would bring; NaN where it is not known.
        seeds: Variance that other seeds would bring.
        df_images: Degrees of freedom of the first.
        df_seeds: Degrees of freedom of the second.
    """

    value: np.ndarray
    images: np.ndarray
    seeds: np.ndarray
    df_images: np.ndarray
    df_seeds: np.ndarray

    def __getitem__(self, index: Index) -> "Estimate":
        """Take a part."""
        return Estimate(*(part[index] for part in vars(self).values()))

    @property
    def error(self) -> np.ndarray:
        """Standard errors."""
        return np.asarray(np.sqrt(self.images + self.seeds))

    def half_width(self, level: float | np.ndarray = 0.95) -> np.ndarray:
        """Return half the width of the confidence intervals."""
        tail = (1 + np.asarray(level)) / 2
        images = self.images * stdtrit(self.df_images, tail) ** 2
        return np.asarray(np.sqrt(images + self.seeds * stdtrit(self.df_seeds, tail) ** 2))

    def p(self) -> np.ndarray:
        """Return two-sided p-values against zero; 1 where value and error are both 0 or nothing is known."""
        # The level at which the interval ends at zero, by bisection of its logarithm.
        low, high = np.full(np.shape(self.value), np.log(_LEAST_P)), np.zeros(np.shape(self.value))
        distance = np.abs(self.value)
        for _ in range(30):
            middle = (low + high) / 2
            outside = self.half_width(1 - np.exp(middle)) < distance
            low, high = np.where(outside, low, middle), np.where(outside, middle, high)
        return np.where(np.isfinite(self.error), np.exp(high), 1.0)


class GroupScores:
    """Scores of groups of runs, and how they would vary with other images and seeds.

    Args:
        scores: For each group the scores of its runs, (S, M). A group of one run borrows the seed variance of
            those that have several.
        left_out: For each group the scores of its runs without each block of images, (S, J, M), the same for all;
            None if nothing is known about images.

    Attributes:
        value: Mean score of each group over its runs, (G, M); NaN where it has none.
        std: Standard deviation over the runs of each group, (G, M); NaN for a single run.
        seeds: Runs in each group, (G,).
        seeds_known: Whether intervals include the variation of seeds. One pair of runs alone tells nothing of it: with
            a single degree of freedom an interval would be ten times as wide.
        images: How many images, in words.
        bounded: Whether scores lie between 0 and 1.
    """

    images = ""
    bounded = True

    def __init__(self, scores: Sequence[np.ndarray], left_out: Sequence[np.ndarray] | None) -> None:
        self.value = np.stack([nan_mean(runs, 0) for runs in scores])
        self.std = np.stack([np.sqrt(_variance(runs, 0)) for runs in scores])
        self.seeds = np.array([len(runs) for runs in scores])
        self.seeds_known = bool((self.seeds - 1).sum() >= _REPEATED)
        self._df_images: tuple[np.ndarray | float, np.ndarray | float] = (
            _MANY,
            _MANY,
        )  # of groups, of differences
        groups, count = self.value.shape
        within = np.zeros((groups, count))
        if left_out is None:  # then only seeds are known to vary, if they are
            self._covariance = np.full((groups, groups, count), 0.0 if self.seeds_known else np.nan)
        else:
            runs_influence = [runs - nan_mean(runs, 1)[:, None] for runs in left_out]
            influence = np.stack([nan_mean(runs, 0) for runs in runs_influence])  # (G, J, M)
            blocks = influence.shape[1]
            within = np.stack([np.nan_to_num(_variance(runs, 0)).sum(0) for runs in runs_influence])
            within *= (blocks - 1) / blocks
            self._df_images = (_effective_df(influence), _effective_df(influence - nan_mean(influence, 0)))
            self._covariance = _jackknife(influence)
        std = self.std if self.seeds_known else np.full_like(self.std, np.nan)
        found = [seed_variances(b, w, self.seeds) for b, w in zip(std.T**2, within.T, strict=True)]
        self._seed_variance, self._seed_df = (np.stack(part, axis=1) for part in zip(*found, strict=True))

    def group(self, a: int | np.ndarray) -> Estimate:
        """Estimate the scores of groups, (..., M)."""
        return self._estimate(self.value[a], self._covariance[a, a], a)

    def difference(self, a: int | np.ndarray, b: int | np.ndarray) -> Estimate:
        """Estimate how much better groups ``a`` are than groups ``b``, (..., M)."""
        k = self._covariance
        return self._estimate(self.value[a] - self.value[b], k[a, a] + k[b, b] - 2 * k[a, b], a, b)

    def compare(self, a: np.ndarray, b: np.ndarray, level: float = 0.95) -> "Differences":
        """Compare groups ``a`` with groups ``b`` in the first score, all of them at once."""
        found = simultaneous(self.difference(a, b)[:, 0], level)
        return replace(found, low=found.low.clip(-1), high=found.high.clip(max=1)) if self.bounded else found

    def _estimate(self, value: np.ndarray, images: np.ndarray, *groups: int | np.ndarray) -> Estimate:
        seeds, df = np.zeros_like(value), np.full_like(value, _MANY)
        for g in groups:
            runs = self.seeds[g][..., None] if np.ndim(g) else self.seeds[g]
            seeds = seeds + self._seed_variance[g] / runs
            df = np.minimum(df, self._seed_df[g])
        return Estimate(
            value,
            np.maximum(images, 0),
            seeds,
            np.broadcast_to(self._df_images[len(groups) - 1], value.shape),
            df,
        )


class Sample(GroupScores):
    """The scores of groups of runs on the same images, and how they would vary with other images and seeds.

    Args:
        groups: For each group the counts (N, C, 3) of each of its runs: intersection, predicted and true pixels.
            A group without a second run borrows the seed variance of those that have one.
        blocks: For each image the number of its block of neighbors, (N,), which are left out together; each by itself
            unless given.
        score: Turns sums of counts (..., C, 3) into scores (..., M); mIoU and the IoU of each class unless given.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[np.ndarray]],
        blocks: np.ndarray | None = None,
        score: Callable[[np.ndarray], np.ndarray] = miou_and_iou,
    ) -> None:
        images = len(groups[0][0])
        places = np.arange(images) if blocks is None else np.unique(blocks, return_inverse=True)[1]
        count = int(places.max()) + 1
        self.images = _in_words(images, count)
        found = [[_leave_out(counts, places, count, score) for counts in runs] for runs in groups]
        scores, left_out = ([np.stack([run[k] for run in runs]) for runs in found] for k in (0, 1))
        super().__init__(scores, left_out)


class RunScores(GroupScores):
    """Scores that are no sum over images, such as average precision: each run has one number.

    Args:
        groups: For each group the scores of its runs.
        bounded: Whether they lie between 0 and 1.
        left_out: For each group and run the score without each block of images, (J,); without them the scores are known
            to vary with seeds alone.
        images: How many images there are.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[float]],
        bounded: bool = True,
        left_out: Sequence[Sequence[np.ndarray]] | None = None,
        images: int = 0,
    ) -> None:
        self.bounded = bounded
        blocks = None if left_out is None else [np.stack(runs)[..., None] for runs in left_out]
        self.images = "" if left_out is None else _in_words(images, len(left_out[0][0]))
        super().__init__([np.array(runs)[:, None] for runs in groups], blocks)


def seed_variances(
    between: np.ndarray, within: np.ndarray, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the variance that another seed brings to one run of each group.

    Groups are like the genes of a microarray: each has few runs, many groups together have many. Their variances are
    moderated as Smyth does ("Linear models and empirical Bayes methods", 2004): the more alike they are, the more each
    is moved towards their average; a single run is given that average.

    Args:
        between: Variance between the runs of each group, (G,); NaN where it has one run.
        within: The part of it that comes from the choice of images, and is in the images' variance already, (G,).
        seeds: Runs of each group, (G,).

    Returns:
        The variances and their degrees of freedom, (G,); 0 if no group has a second run.
    """
    df = np.where(np.isfinite(between), seeds - 1.0, 0)
    total = df.sum()
    if not total:
        return np.zeros(len(seeds)), np.full(len(seeds), _MANY)
    several = df > 0
    known = np.where(several, between, 0)
    prior, prior_df = _prior(known[several], df[several])
    if np.isinf(prior_df):
        moderated, moderated_df = np.full(len(df), prior), np.full(len(df), total)
    else:
        moderated = (prior_df * prior + df * known) / (prior_df + df)
        moderated_df = np.minimum(prior_df + df, total)
    images = (df * np.where(several, within, 0)).sum() / total
    # A difference of two uncertain variances may be far too small by luck: with few runs less is taken away.
    return np.maximum(moderated - images * total / (total + 4), 0), moderated_df


def _prior(variances: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """Return around what the true variances lie, and how many degrees of freedom that is worth.

    By the likelihood of a scaled F distribution. Smyth's moments of logarithms, meant for thousands of genes, are ruled
    by the smallest variance where groups are few: two runs that agree by chance would make all groups look unlike.
    """
    pooled = float((df * variances).sum() / df.sum())
    if len(df) < 2 or not pooled:
        return pooled, np.inf
    prior_df = _PRIOR_DF[:, None]
    low, high = (np.full(len(prior_df), np.log(pooled) + end) for end in (-15, 2))
    for _ in range(40):  # the center that is likeliest with each of the degrees of freedom, by bisection
        center = (low + high) / 2
        spread = df * variances / (prior_df * np.exp(center)[:, None])
        above = ((df + prior_df) * spread / (spread + 1)).sum(1) > df.sum()
        low, high = np.where(above, center, low), np.where(above, high, center)
    likelihood = (
        gammaln((df + prior_df) / 2)
        - gammaln(prior_df / 2)
        - df / 2 * (center[:, None] + np.log(prior_df))
        - (df + prior_df) / 2 * np.log1p(spread)
    ).sum(1)
    best = int(likelihood.argmax())
    if likelihood[best] <= -(df / 2).sum() * (np.log(2 * pooled) + 1):  # that of equal variances
        return pooled, np.inf
    return float(np.exp(center[best])), float(_PRIOR_DF[best])


@dataclass(frozen=True)
class Differences:
    """Differences (M,) of which all intervals together hold with the chosen level.

    Attributes:
        value: The differences.
        low: Lower ends of the intervals.
        high: Upper ends of the intervals.
        p: p-values, corrected likewise: below 0.05 exactly where an interval of 95 % is on one side of 0.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray

    def __getitem__(self, index: Index) -> "Differences":
        """Take a part."""
        return Differences(*(part[index] for part in vars(self).values()))

    @property
    def certain(self) -> np.ndarray:
        """Where a difference is distinguishable from 0."""
        return self.p < 0.05


def simultaneous(estimate: Estimate, level: float = 0.95) -> Differences:
    """Correct for many comparisons by Bonferroni: the chance of even one false difference is at most 1 - level.

    Tukey's intervals are at most a few percent narrower, and hold only where all differences have one variance. Holm's
    method finds more, but has no intervals that say the same as its verdicts.

    Args:
        estimate: The differences (M,).
        level: Chance that all intervals hold.
    """
    count = max(len(estimate.value), 1)
    half = estimate.half_width(1 - (1 - level) / count)
    p = np.minimum(count * estimate.p(), 1)
    return Differences(estimate.value, estimate.value - half, estimate.value + half, p)


def score_interval(estimate: Estimate, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the confidence intervals of scores between 0 and 1, computed on the logit scale."""
    value, half = estimate.value, estimate.half_width(level)
    inside = np.clip(value, 1e-9, 1 - 1e-9)
    center, width = np.log(inside / (1 - inside)), half / (inside * (1 - inside))
    low, high = (1 / (1 + np.exp(-np.clip(end, -700, 700))) for end in (center - width, center + width))
    return np.minimum(low, value), np.maximum(high, value)


def seeds_needed(difference: float, images: float, seeds: float, most: int = 100) -> int | None:
    """Return with how many runs each a difference of two groups would be found in four of five studies.

    Args:
        difference: The true difference.
        images: Variance of the difference that comes from the test images, which more seeds do not reduce.
        seeds: Variance between the runs of a group.
        most: Runs beyond which nobody goes.

    Returns:
        The number, at least 2; None if more than ``most`` would be too few.
    """
    for n in range(2, most + 1):
        needed = stdtrit(2 * n - 2, 0.975) + ndtri(0.8)
        if needed**2 * (images + 2 * seeds / n) <= difference**2:
            return n
    return None


def _leave_out(
    counts: np.ndarray, places: np.ndarray, blocks: int, score: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Score one run, (M,), and once more without each block, (J, M)."""
    sums = counts.astype(np.float64)
    if blocks < len(counts):
        sums = np.zeros((blocks, *counts.shape[1:]))
        np.add.at(sums, places, counts)
    total = sums.sum(0)
    return score(total), score(total - sums)


def _in_words(images: int, blocks: int) -> str:
    return f"{images} image{'s' * (images > 1)}" + (
        f" in {blocks} block{'s' * (blocks > 1)} of neighbors" if blocks < images else ""
    )


def _jackknife(influence: np.ndarray) -> np.ndarray:
    """Turn influences (G, J, M) into covariances (G, G, M); NaN for a class that all but one block lack."""
    blocks = influence.shape[1]
    known = np.isfinite(influence).all(1) & (blocks > 1)  # (G, M)
    filled = np.moveaxis(np.nan_to_num(influence), 2, 0)  # (M, G, J)
    covariance = np.moveaxis(filled @ filled.transpose(0, 2, 1), 0, -1) * (blocks - 1) / blocks
    return np.where(known[:, None] & known[None], covariance, np.nan)


def _effective_df(influence: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom of jackknife variances of influences (G, J, M), (M,).

    Few large objects may rule a score: then its variance is known as if there were fewer images (by their kurtosis).
    """
    count = influence.shape[1]
    squares, fourths = np.nan_to_num(influence**2).sum(1), np.nan_to_num(influence**4).sum(1)
    kurtosis = np.nan_to_num(nan_mean(count * ratio(fourths, squares**2), 0), nan=3.0)
    return np.asarray(np.clip(2 * count / np.maximum(kurtosis - 1, 1e-9), 1, max(count - 1, 1)))


def _variance(values: np.ndarray, axis: int) -> np.ndarray:
    """Estimate the variance of what is not NaN; NaN where fewer than two values are left."""
    present = np.isfinite(values)
    centered = np.where(present, values - np.expand_dims(nan_mean(values, axis), axis), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (centered**2).sum(axis) / (present.sum(axis) - 1)
    return np.where(present.sum(axis) > 1, result, np.nan)
