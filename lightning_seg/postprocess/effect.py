"""Effect of post-processing chains on the scores of a split, with confidence intervals."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_seg.constants import IGNORE_INDEX
from lightning_seg.metrics.boundary import BoundaryF1, f1
from lightning_seg.metrics.images import counted, overlap
from lightning_seg.postprocess.chain import Chain
from lightning_seg.statistics.paired import Estimate, Sample, holm, sentence

Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]
"""One image: probabilities (C, H, W) float32, the image (H, W, 3) uint8, the true mask (H, W) uint8."""

ALONE = "the network alone"
_REPLICATES = 1000


@dataclass
class Effect:
    """Counts of each image after a chain.

    Attributes:
        name: Name of the chain.
        overlaps: (C, 3) of each image: intersection, predicted, true pixels.
        outlines: (C, 4) of each image, as `BoundaryF1` measures them.
        answered: Labelled pixels of each image that have a prediction, and all of them.
        seconds: Duration of the chain for each image.
    """

    name: str
    overlaps: list[np.ndarray] = field(default_factory=list)
    outlines: list[np.ndarray] = field(default_factory=list)
    answered: list[tuple[int, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def measure(
    predictions: Iterable[Prediction], chains: Sequence[tuple[str, Chain]], boundary: BoundaryF1
) -> list[Effect]:
    """Apply chains to the same predictions.

    Args:
        predictions: One image after the other; iterated once.
        chains: Names and chains.
        boundary: Score of the boundaries.

    Returns:
        The counts without post-processing, then those of each chain.
    """
    chains = [(ALONE, Chain([])), *chains]
    effects = [Effect(name) for name, _ in chains]
    for probabilities, image, truth in predictions:
        inside = truth != IGNORE_INDEX
        for effect, (_, chain) in zip(effects, chains, strict=True):
            start = time.perf_counter()
            labels = chain(probabilities, image)
            effect.seconds.append(time.perf_counter() - start)
            effect.overlaps.append(overlap(counted(labels, truth), truth, len(probabilities)))
            effect.outlines.append(boundary.measure(labels, truth, len(probabilities)))
            effect.answered.append((int((labels[inside] != IGNORE_INDEX).sum()), int(inside.sum())))
    return effects


def compare(effects: Sequence[Effect], block: int = 1) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare effects with the first one by a bootstrap over images.

    Args:
        effects: Those of `measure`.
        block: Number of neighbouring images that are resampled together.

    Returns:
        A row of scores in percent for each effect, and a sentence for each but the first.
    """
    sample = Sample([[np.stack(effect.overlaps)] for effect in effects], _REPLICATES, block=block)
    others = np.arange(1, len(effects))
    changes = {
        "miou": sample.difference(others, np.zeros_like(others))[:, 0],
        "boundary_f1": _boundary_changes(np.stack([np.stack(e.outlines) for e in effects]), block),
    }
    p = {name: holm(change.p()) for name, change in changes.items()}
    rows, sentences = [], []
    for i, effect in enumerate(effects):
        answered, pixels = np.sum(effect.answered, axis=0)
        row: dict[str, Any] = {
            "name": effect.name,
            "miou": 100 * float(sample.value[i, 0]),
            "boundary_f1": 100 * float(_mean_f1(np.sum(effect.outlines, axis=0))),
            "iou": (100 * sample.value[i, 1:]).tolist(),
            "answered": 100 * float(answered / pixels),
            "milliseconds": 1000 * float(np.mean(effect.seconds)),
        }
        for name, change in changes.items() if i else ():
            row[f"{name}_change"] = 100 * float(change.value[i - 1])
            row[f"{name}_half_width"] = 100 * float(change.half_width()[i - 1])
            row[f"{name}_p"] = float(p[name][i - 1])
            row[f"{name}_verdict"] = _verdict(float(change.value[i - 1]), row[f"{name}_p"])
        rows.append(row)
        if i:
            words = (changes["miou"][i - 1], row["miou_p"], len(others), (1, 1), sample.images, False)
            sentences.append(sentence(effect.name, ALONE, *words))
    return rows, sentences


def _boundary_changes(outlines: np.ndarray, block: int) -> Estimate:
    """Estimate the changes of boundary F1 from outlines (E, N, C, 4), resampling images as `Sample` does."""
    images = outlines.shape[1]
    blocks = math.ceil(images / block)
    weights = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), _REPLICATES)
    weights = weights.repeat(block, axis=1)[:, :images]
    resampled = _mean_f1(np.einsum("bn,enck->ebck", weights, outlines, optimize=True))  # (E, B)
    score = _mean_f1(outlines.sum(1))
    error = (resampled[1:] - resampled[:1]).std(axis=1) * math.sqrt(blocks / max(blocks - 1, 1))
    known = np.where(blocks > 1, error, np.nan)
    return Estimate(score[1:] - score[0], known, np.full(len(error), max(blocks - 1.0, 1.0)))


def _mean_f1(counts: np.ndarray) -> np.ndarray:
    """Average the boundary F1 of counts (..., C, 4) over the classes where it is defined."""
    values = f1(counts)
    there = np.isfinite(values)
    return np.where(there, values, 0).sum(-1) / np.maximum(there.sum(-1), 1)


def _verdict(change: float, p: float) -> str:
    if p >= 0.05:
        return "not certain" if change else "no change"
    return "helps" if change > 0 else "hurts"
