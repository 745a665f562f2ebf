"""Classes that may overlap: counts of each class by itself, average precision, and thresholds, all from integers.

Each class has a map of its own, 1 where it is, 0 where it is not, `IGNORE_INDEX` where that is not known; what is void
for one class counts for the others. Logits are looked at in steps of 1/1024, in which a pixel's class is decided, too:
so counts, average precision and thresholds are those of the same numbers, and are sums of integers that depend on
neither batch size, order nor the number of processes.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.confusion import ImageCounts
from lightning_seg.metrics.scores import class_dice, ratio

STEPS = 1024  # of one logit: a probability of 0.5 is known to 0.00025, a small one to a thousandth of itself
_HALF = 32 * STEPS  # logits from -32 to 32; those beyond fall into the last step
_BINS = 2 * _HALF


class LogitHistograms(Metric):
    """How often each logit occurs where a class is and where it is not, for each class by itself.

    Args:
        num_classes: K.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        empty = torch.zeros(num_classes, 2, _BINS, dtype=torch.int64)
        self.add_state("counts", empty, dist_reduce_fx="sum")

    def update(self, logits: Tensor, masks: Tensor) -> None:
        """Add logits (B, K, H, W) and masks (B, K, H, W) of 0, 1 and `IGNORE_INDEX`."""
        bins = (logits.float() * STEPS).floor().clamp(-_HALF, _HALF - 1).long() + _HALF
        for k in range(self.num_classes):  # one class at a time: the indices take eight bytes a pixel
            truth = masks[:, k]
            # void falls into a third row that is cut off, so that nothing waits for the device
            index = truth.clamp(max=2).long() * _BINS + bins[:, k]
            self.counts[k] += torch.bincount(index.flatten(), minlength=3 * _BINS)[: 2 * _BINS].view(2, _BINS)

    def compute(self) -> Tensor:
        """Return counts (K, 2, bins) int64: for each class those of pixels where it is not, and where it is."""
        return self.counts


class MultiLabelCounts(ImageCounts):
    """Intersection, predicted and true pixels of each class in each image, (N, K, 3), the same on every process.

    Args:
        num_images: Images of the split, N.
        num_classes: K.
    """

    def update(self, predictions: Tensor, targets: Tensor, index: Tensor) -> None:
        """Store the counts of a batch of images.

        Args:
            predictions: Whether each class is predicted, (B, K, H, W) bool.
            targets: 0, 1 or `IGNORE_INDEX`, (B, K, H, W).
            index: Position of each image in its split, (B,).
        """
        true, predicted = targets == 1, predictions & (targets != IGNORE_INDEX)
        parts = [part.flatten(2).sum(2) for part in (true & predicted, predicted, true)]
        self.counts[index] = torch.stack(parts, dim=-1)


def decide(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Tell which classes are predicted, from logits, both (B, K, H, W), and the least logit of each class (K,)."""
    return logits.float() >= thresholds[:, None, None]


def counts_at(histograms: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count intersection, predicted and true pixels (K, 3) at the least logit of each class (K,), a multiple of a step.

    Args:
        histograms: Those of `LogitHistograms`, (K, 2, bins).
        thresholds: Least logit of each class (K,).
    """
    first = np.ceil(thresholds * STEPS).astype(int).clip(-_HALF, _HALF) + _HALF
    found = []
    for (without, with_it), start in zip(histograms, first, strict=True):
        intersection = with_it[start:].sum()
        found.append((intersection, intersection + without[start:].sum(), with_it.sum()))
    return np.array(found, np.int64).reshape(-1, 3)


def best_thresholds(histograms: np.ndarray) -> np.ndarray:
    """Find the least logit (K,) of each class at which its Dice score, and so its IoU, is highest.

    Between neighboring values of pixels it lies in the middle; of equally good ones the one nearest to a probability
    of 0.5 is taken. A class that is nowhere in the truth keeps 0, a probability of 0.5.

    Args:
        histograms: Those of `LogitHistograms`, (K, 2, bins).
    """
    found = np.zeros(len(histograms))
    steps = np.arange(_BINS) - _HALF
    for k, (without, with_it) in enumerate(histograms):
        if not with_it.any():
            continue
        intersection, others = (np.cumsum(part[::-1])[::-1] for part in (with_it, without))
        dice = class_dice(
            np.stack([intersection, intersection + others, np.full(_BINS, with_it.sum())], axis=-1)
        )
        (best,) = np.nonzero(dice == dice.max())  # a run of steps between two values gives the same counts
        runs = np.split(best, np.nonzero(np.diff(best) > 1)[0] + 1)
        middles = [(steps[run[0]] + steps[run[-1]]) // 2 for run in runs]
        found[k] = min(middles, key=abs) / STEPS
    return found


def average_precision(histograms: np.ndarray) -> np.ndarray:
    """Compute the average precision (K,) of each class over all pixels; NaN for a class that is nowhere in the truth.

    It is the sum over the thresholds of precision times the gain of recall, as scikit-learn's
    ``average_precision_score`` computes it, of logits cut to steps of 1/1024.

    Args:
        histograms: Those of `LogitHistograms`, (K, 2, bins).
    """
    without, with_it = histograms[:, 0, ::-1].astype(np.float64), histograms[:, 1, ::-1].astype(np.float64)
    hits = with_it.cumsum(1)
    precision = np.nan_to_num(ratio(hits, hits + without.cumsum(1)))
    return ratio((precision * with_it).sum(1), with_it.sum(1))


def probabilities_of(thresholds: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities."""
    return np.asarray(1 / (1 + np.exp(-thresholds.astype(np.float64))))


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Turn probabilities between 0 and 1 into logits, rounded to a step."""
    exact = np.log(probabilities) - np.log1p(-probabilities)
    return np.asarray(np.round(exact * STEPS) / STEPS)
