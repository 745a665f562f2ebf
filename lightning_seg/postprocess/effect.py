"""Effect of post-processing chains on the scores of a split, with confidence intervals."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.boundary import BoundaryF1, f1
from lightning_seg.metrics.images import counted, overlap
from lightning_seg.metrics.scores import nan_mean
from lightning_seg.postprocess.chain import Chain
from lightning_seg.runs.directory import JsonObject
from lightning_seg.statistics.blocks import image_blocks
from lightning_seg.statistics.paired import Sample
from lightning_seg.statistics.verdicts import difference_sentence

Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]
"""One image: probabilities (C, H, W) float32, the image (H, W, 3) uint8, the true mask (H, W) uint8."""

ALONE = "the network alone"


@dataclass
class Effect:
    """Counts of each image after a chain.

    Attributes:
        name: Name of the chain.
        overlaps: (C, 3) of each image: intersection, predicted, true pixels.
        outlines: (C, 4) of each image, as `BoundaryF1` measures them.
        answered: Labeled pixels of each image that have a prediction, and all of them.
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


def compare(effects: Sequence[Effect], block: int = 1) -> tuple[list[JsonObject], list[str]]:
    """Compare effects with the first one by a bootstrap over images.

    Args:
        effects: Those of `measure`.
        block: Number of neighboring images that are resampled together.

    Returns:
        A row of scores in percent for each effect, and a sentence for each but the first.
    """
    blocks = image_blocks([""] * len(effects[0].overlaps), False, block)
    sample = Sample([[np.stack(effect.overlaps)] for effect in effects], blocks)
    outlines = Sample([[np.stack(effect.outlines)] for effect in effects], blocks, _mean_f1)
    others = np.arange(1, len(effects))
    changes = {
        name: scores.compare(others, np.zeros_like(others)) if len(others) else None
        for name, scores in (("miou", sample), ("boundary_f1", outlines))
    }
    rows, sentences = [], []
    for i, effect in enumerate(effects):
        answered, pixels = np.sum(effect.answered, axis=0)
        row: JsonObject = {
            "name": effect.name,
            "miou": 100 * float(sample.value[i, 0]),
            "boundary_f1": 100 * float(outlines.value[i, 0]),
            "iou": (100 * sample.value[i, 1:]).tolist(),
            "answered": 100 * float(answered / pixels),
            "milliseconds": 1000 * float(np.mean(effect.seconds)),
        }
        for name, change in changes.items():
            if i and change is not None:
                row[f"{name}_change"] = 100 * float(change.value[i - 1])
                row[f"{name}_half_width"] = 50 * float(change.high[i - 1] - change.low[i - 1])
                row[f"{name}_p"] = float(change.p[i - 1])
                row[f"{name}_verdict"] = _verdict(float(change.value[i - 1]), row[f"{name}_p"])
        rows.append(row)
        found = changes["miou"]
        if i and found is not None:
            value, low, high = (100 * float(x[i - 1]) for x in (found.value, found.low, found.high))
            many = f", corrected for {len(others)} comparisons" * (len(others) > 1)
            basis = f"{sample.images} and this network alone{many}"
            sentences.append(
                difference_sentence(
                    effect.name, ALONE, (value, low, high), bool(found.certain[i - 1]), "mIoU", basis
                )
            )
    return rows, sentences


def _mean_f1(counts: np.ndarray) -> np.ndarray:
    """Average the F1 of outlines (..., C, 4) over the classes that have one, (..., 1)."""
    return nan_mean(f1(counts), -1)[..., None]


def _verdict(change: float, p: float) -> str:
    if p >= 0.05:
        return "not certain" if change else "no change"
    return "helps" if change > 0 else "hurts"
