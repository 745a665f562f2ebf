"""What a shared learning rate answers, and what tuning does, for simulated learners whose truth is known.

    python -m tests.studies.simulate_tuning [SIMULATIONS]

A learner's score falls with the square of the distance of the rate's logarithm from its own best rate; runs differ by
seed and by image as real ones do. Validation and test have images of their own.
"""

import math
import sys
from functools import partial

import numpy as np

from lightning_seg.analysis.metrics import MIOU
from lightning_seg.metrics.scores import miou_and_iou
from lightning_seg.statistics.paired import Sample
from lightning_seg.studies.tuning import read_tuning
from lightning_seg.studies.variant_tuning import VariantTuning
from tests.runs.made_runs import simulate

RATES = (-4.0, -3.0, -2.0, -1.0)  # decimal logarithms
SEEDS, IMAGES = 3, 40
SEED_NOISE, NOISE = 0.01, 0.05  # of a run, and of an image
FROZEN, FULL = (-2.0, 0.20), (-3.0, 0.23)  # the best rate of each, and how much better than 0.4 it is there
FLAT = 0.0, 0.20  # a setting that changes nothing, of which a grid is tried all the same


def shift(learner, rate):
    """Return the expected score of a learner at a rate."""
    return learner[1] if learner == FLAT else learner[1] - 0.05 * (rate - learner[0]) ** 2


def runs(rng, learner, rate, seeds, images):
    """Count the pixels of runs with several seeds, on the same images."""
    return [
        simulate(rng, shift(learner, rate), images, seed_noise=SEED_NOISE, noise=NOISE) for _ in range(seeds)
    ]


class Trial:
    """Stands in for a finished run of a choice: it has been scored on validation images."""

    by, sign = "val/miou", 1

    def __init__(self, score):
        self.score = score

    def state(self):
        return "done"

    def run(self):
        return None

    def diverged(self):
        return False

    def value(self):
        return self.score


def tuned(rng, learner):
    """Have the program choose a rate by one validation run each."""

    def make(point, seed):
        rate = math.log10(dict(point.values)["lr"])
        return Trial(miou_and_iou(runs(rng, learner, rate, 1, IMAGES)[0].sum(0))[0])

    tuning = read_tuning({"lr": [10**rate for rate in RATES]}, "simulation", range(SEEDS))
    return round(math.log10(dict(VariantTuning("learner", tuning, make).chosen().best.values)["lr"]))


def verdict(first, second):
    """Return 1 if the first is better with certainty, -1 if the second is, else 0."""
    found = Sample([first, second], np.arange(IMAGES), MIOU.of_counts).compare(np.array([0]), np.array([1]))
    return int(np.sign(found.value[0]) * found.certain[0])


def winner(rng, learners, choose):
    """Train each learner with fresh seeds at the rate that is chosen for it, and compare the tests."""
    return verdict(*(runs(rng, one, choose(one), SEEDS, IMAGES) for one in learners))


def best_on_test(rng, learner):
    """Train a grid and keep what is best on the test images: what nobody should do."""
    grid = [runs(rng, learner, rate, SEEDS, IMAGES) for rate in 3 * RATES]
    return max(grid, key=lambda found: np.mean([miou_and_iou(counts.sum(0))[0] for counts in found]))


def shares(simulations):
    """Return how often each way answers right, wrong, and better where nothing is."""
    equal = FROZEN, (FULL[0], FROZEN[1])
    found = {}
    for number in range(simulations):
        rng = np.random.default_rng(number)
        answers = {
            f"rate 1e{rate:g} for both": winner(rng, (FULL, FROZEN), lambda _, r=rate: r) for rate in RATES
        }
        answers["tuned"] = winner(rng, (FULL, FROZEN), partial(tuned, rng))
        for name, answer in answers.items():
            found.setdefault(f"{name}: right", []).append(answer > 0)
            found.setdefault(f"{name}: wrong", []).append(answer < 0)
        alone = runs(rng, FLAT, RATES[0], SEEDS, IMAGES)
        false = {
            "tuned, both equal": winner(rng, equal, partial(tuned, rng)),
            "tuned by what changes nothing": verdict(runs(rng, FLAT, tuned(rng, FLAT), SEEDS, IMAGES), alone),
            "best of 12 on the test, of what changes nothing": verdict(best_on_test(rng, FLAT), alone),
        }
        for name, answer in false.items():
            found.setdefault(f"{name}: falsely certain", []).append(answer != 0)
    return {name: float(np.mean(values)) for name, values in found.items()}


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for name, share in shares(count).items():
        print(f"{name:66} {share:6.1%}")
