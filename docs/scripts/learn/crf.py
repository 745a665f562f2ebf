"""A dense CRF before and after, on the predictions of trained networks."""

import time
from pathlib import Path

import numpy as np

from docs.scripts.learn.common import SHAPES, panels, save, scene, show
from docs.scripts.learn.trained import run_of
from lightning_seg import BoundaryF1, DenseCRF, Predictor, load
from lightning_seg.metrics.images import overlap
from lightning_seg.metrics.scores import scores_of_counts
from lightning_seg.plotting.pictures import color_mask

IMAGES, SHOWN = 15, 3


def draw(folder: Path) -> list[str]:
    """Draw the picture; return what the page says of it in numbers."""
    image, truth = scene(SHOWN, split="test")
    figure, axes = panels("AB CD EF", 7.5)
    show(axes[0], image, "image")
    show(axes[1], color_mask(truth, SHAPES.palette), "truth")
    said = ["network   mIoU before, after   boundary F1 before, after   labels changed"]
    crf, seconds = DenseCRF(device="cpu"), []
    for name, places in (("fcn32s", axes[2:4]), ("fcn8s", axes[4:])):
        model = load(run_of(name))
        assert isinstance(model, Predictor)
        before, after, truths = [], [], []
        for number in range(IMAGES):
            image, truth = scene(number, split="test")
            probabilities = model.probabilities(image)
            start = time.process_time()
            better = crf(probabilities, image)
            seconds.append(time.process_time() - start)
            before.append(probabilities.argmax(0).astype(np.uint8))
            after.append(better.argmax(0).astype(np.uint8))
            truths.append(truth)
        for one, found, title in zip(places, (before, after), (name, f"{name}, CRF"), strict=True):
            show(one, color_mask(found[SHOWN], SHAPES.palette), title)
        (iou, f1), (new_iou, new_f1) = (_scores(found, truths) for found in (before, after))
        changed = np.mean(np.stack(before) != np.stack(after))
        said.append(
            f"{name:9} {iou:.3f}, {new_iou:.3f}          {f1:.3f}, {new_f1:.3f}                 {changed:.1%}"
        )
    save(figure, folder, "crf")
    return [*said, f"{1000 * min(seconds):.0f} ms of one core for the CRF of an image, at least"]


def _scores(found: list[np.ndarray], truths: list[np.ndarray]) -> tuple[float, float]:
    """Return mIoU and boundary F1 of masks (H, W)."""
    classes, metric = len(SHAPES.class_names), BoundaryF1()
    counts = overlap(np.stack(found), np.stack(truths), classes)
    rows = [metric.measure(a, b, classes) for a, b in zip(found, truths, strict=True)]
    return scores_of_counts(counts, 0.0).miou, float(metric.scores(np.stack(rows))[metric.name])
