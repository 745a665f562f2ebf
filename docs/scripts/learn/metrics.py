"""IoU, Dice and boundary F1: predictions that they rank differently."""

from pathlib import Path

import cv2
import numpy as np

from docs.scripts.learn.common import EXTRA, MISSED, RIGHT, SHAPES, panels, save, scene, show
from lightning_seg import BoundaryF1
from lightning_seg.metrics.images import overlap
from lightning_seg.metrics.scores import scores_of_counts

_BALL = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))


def draw(folder: Path) -> list[str]:
    """Draw the picture; return what the page says of it in numbers."""
    truth = scene(29)[1]
    circle, star = (SHAPES.class_names.index(name) for name in ("circle", "star"))
    alone = np.where(truth == circle, truth, 0).astype(np.uint8)
    grown = cv2.dilate(alone, _BALL, iterations=2)
    bitten = alone.copy()
    y, x = np.argwhere(alone > 0).mean(0).astype(int)
    bitten[:y, x:] = 0
    cases = {
        "A: 2 pixels too wide": (grown, alone),
        "B: a part is missing": (bitten, alone),
        "C: star bad, circles right": (_shrunk(truth, star, 6), truth),
        "D: all too small": (_shrunk(_shrunk(truth, circle, 5), star, 2), truth),
    }
    figure, axes = panels("AB CD", 5.6)
    said = [f"{'':26} mIoU   Dice   boundary F1"]
    for one, (name, (found, right)) in zip(axes, cases.items(), strict=True):
        iou, dice, f1 = score(found, right)
        show(one, _verdict(found, right), f"{name}\nIoU {iou:.2f}  Dice {dice:.2f}  BF1 {f1:.2f}")
        said.append(f"{name:26} {iou:.3f}  {dice:.3f}  {f1:.3f}")
    save(figure, folder, "metrics")
    masks = np.stack([scene(n)[1] for n in range(60)])
    counts = overlap(np.zeros_like(masks), masks, len(SHAPES.class_names))
    ground = scores_of_counts(counts, float((masks == 0).mean()))
    return [
        *said,
        f"60 images, all called ground: pixel accuracy {ground.pixel_accuracy:.2f}, mIoU {ground.miou:.2f}",
    ]


def score(found: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Return mIoU, mean Dice and boundary F1 of masks (H, W), with a tolerance of 0.75 % of the diagonal."""
    classes = len(SHAPES.class_names)
    scores = scores_of_counts(overlap(found, truth, classes), float((found == truth).mean()))
    boundary = BoundaryF1()
    f1 = boundary.scores(boundary.measure(found, truth, classes)[None])[boundary.name]
    return scores.miou, scores.dice, float(f1)


def _shrunk(mask: np.ndarray, label: int, times: int) -> np.ndarray:
    """Give the outermost pixels of a class to the ground, so many times."""
    area = (mask == label).astype(np.uint8)
    kept = cv2.erode(area, _BALL, iterations=times)
    return np.where((area > 0) & (kept == 0), 0, mask).astype(np.uint8)


def _verdict(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Paint what is right blue, what is missing orange, and what is too much yellow."""
    picture = np.full((*truth.shape, 3), 235, np.uint8)
    for where, color in (
        ((found == truth) & (truth > 0), RIGHT),
        ((found == 0) & (truth > 0), MISSED),
        ((found > 0) & (truth == 0), EXTRA),
    ):
        picture[where] = color
    return picture
