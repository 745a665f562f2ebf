"""How often a comparison is wrong, and how often it finds a difference: ``python -m tests.statistics.simulate_verdicts``.

A table of groups that are all equal is wrong if any two of them are called different.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np

from lightning_seg.metrics.scores import miou_and_iou
from lightning_seg.statistics.paired import Sample
from tests.runs.made_runs import simulate


def simulated(rng, gaps, seeds=3, images=40, seed_noise=0.01, classes=3, frames=1):
    """Draw groups whose expected mIoU differs by ``gaps``, with noise of images, of groups on images, and of seeds.

    Args:
        rng: Source of the noise.
        gaps: Of each group's mIoU.
        seeds: Runs of each group, a number or several that are taken in turn.
        images: N.
        seed_noise: Standard deviation between seeds.
        classes: C.
        frames: So many in a row show one scene: what is hard in one is hard in all of them.
    """

    def scenes(values):
        return values.repeat(frames, axis=0)[:images]

    shape = (-(-images // frames), classes)
    common, true = scenes(rng.normal(0, 0.06, shape)), scenes(rng.gamma(2, 500, shape).round())
    return [
        [simulate(rng, gap, images, classes, seed_noise, 0.05, common + own, true) for _ in range(runs)]
        for gap, runs in zip(gaps, np.resize(seeds, len(gaps)), strict=True)
        for own in [scenes(rng.normal(0, 0.04, shape))]
    ]


def miou(counts: np.ndarray) -> np.ndarray:
    """Score by mIoU alone, of which all verdicts are; classes, analysed each by itself, would take most of the time."""
    return miou_and_iou(counts)[..., :1]


def rates(
    seeds: int | Sequence[int], images: int, groups: int, repetitions: int, gap: float = 0.02, **options
) -> tuple[float, float]:
    """Return how many of the tables of equal groups are wrong, and in how many a better first group is found out.

    The first group is ``gap`` better than the others; it is found out against each of them by itself.
    """
    rng, (a, b) = np.random.default_rng(0), np.triu_indices(groups, 1)
    wrong, found = [], []
    for _ in range(repetitions):
        equal = Sample(simulated(rng, [0] * groups, seeds, images, **options), score=miou)
        wrong.append(equal.seeds_known and equal.compare(a, b).certain.any())
        gaps = [gap] + [0] * (groups - 1)
        differing = Sample(simulated(rng, gaps, seeds, images, **options), score=miou)
        verdicts = differing.compare(a, b)
        found.append(differing.seeds_known and np.mean((verdicts.certain & (verdicts.value > 0))[a == 0]))
    return float(np.mean(wrong)), float(np.mean(found))


def main() -> None:
    """Print both rates for numbers of seeds, images and groups."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print("groups images seeds    seed std  wrong %  found %")
    for groups in (2, 10, 24):
        for images in (20, 100):
            for seeds in (1, (1, 3), 2, 3, (2, 5), 5):
                for noise in (0.003, 0.0075, 0.018):
                    start = time.time()
                    wrong, found = rates(seeds, images, groups, repetitions, seed_noise=noise)
                    row = f"{groups:>6} {images:>6} {seeds!s:<8} {100 * noise:>8}  {100 * wrong:>7.1f}  {100 * found:>7.1f}"
                    print(f"{row}  {time.time() - start:.0f} s", flush=True)
                    if seeds == 1:
                        break  # no verdict in any case


if __name__ == "__main__":
    main()
