"""Speed against accuracy: two trained networks, alone, with more views of each image, and with a CRF."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from docs.scripts.learn.common import COLORS, SHAPES, chart, panels, save, scene
from docs.scripts.learn.trained import run_of
from lightning_seg import DenseCRF, MultiScale, Predictor, load
from lightning_seg.bench.timing import take_turns
from lightning_seg.metrics.images import overlap
from lightning_seg.metrics.scores import scores_of_counts

IMAGES = 30
TWO, SIX = (MultiScale(scales) for scales in ((1.0,), (0.75, 1.0, 1.25)))  # and mirrored


def draw(folder: Path) -> list[str]:
    """Draw the chart; return its numbers."""
    torch.set_num_threads(1)
    small, large = run_of("fcn32s"), run_of("fcn8s")
    crf = DenseCRF(device="cpu")
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "fcn32s": _model(small).probabilities,
        "fcn32s, CRF": partial(_refined, _model(small), crf),
        "fcn8s": _model(large).probabilities,
        "fcn8s, 2 views": _model(large, TWO).probabilities,
        "fcn8s, 6 views": _model(large, SIX).probabilities,
        "fcn8s, CRF": partial(_refined, _model(large), crf),
    }
    pairs = [scene(number, split="test") for number in range(IMAGES)]
    figure, (axes,) = panels("A", 3.8)
    said = [f"{'':16} ms an image   mIoU of {IMAGES} test images"]
    times = take_turns({name: partial(_seconds, way, pairs[0][0]) for name, way in ways.items()}, 60)
    for (name, way), color in zip(ways.items(), COLORS, strict=True):
        counts = sum(
            overlap(way(image).argmax(0).astype(np.uint8), truth, len(SHAPES.class_names))
            for image, truth in pairs
        )
        miou, ms = scores_of_counts(counts, 0.0).miou, 1000 * min(times[name])
        axes.plot(ms, miou, "o", color=color, markersize=9)
        axes.annotate(name, (ms, miou), (0, 9), textcoords="offset points", fontsize=9.5, ha="center")
        said.append(f"{name:16} {ms:5.0f}         {miou:.3f}")
    axes.set_xscale("log")
    axes.set_xticks((2, 5, 10, 20, 50), ("2", "5", "10", "20", "50"))
    axes.set_xticks((), minor=True)
    axes.margins(0.25, 0.2)
    chart(axes, "96x96 pixels, one core", "CPU time in ms an image", "mIoU")
    save(figure, folder, "speed")
    return said


def _model(run: Path, inference: MultiScale | None = None) -> Predictor:
    model = load(run, inference=inference)
    assert isinstance(model, Predictor)
    return model


def _refined(model: Predictor, crf: DenseCRF, image: np.ndarray) -> np.ndarray:
    return crf(model.probabilities(image), image)


def _seconds(way: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> float:
    """Return the CPU time of an image; what other programs do lengthens it, if anything."""
    start = time.process_time()
    way(image)
    return time.process_time() - start
