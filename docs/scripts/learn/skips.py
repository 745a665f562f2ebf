"""Skip connections: two trained networks on one backbone; finer maps reach the decoder of one of them."""

import json
from pathlib import Path

import numpy as np

from docs.scripts.learn.common import SHAPES, panels, save, scene, show
from docs.scripts.learn.trained import run_of
from lightning_seg import BoundaryF1, Predictor, load
from lightning_seg.plotting.pictures import color_mask
from lightning_seg.runs.directory import TEST_SCORES

NUMBER = 3
SKIPS = {"fcn32s": "–", "fcn8s": "16, 8"}


def draw(folder: Path) -> list[str]:
    """Draw the picture; return what the page says of it in numbers."""
    figure, axes = panels("AB CD", 5.05)
    image, mask = scene(NUMBER, split="test")
    show(axes[0], image, "image")
    show(axes[1], color_mask(mask, SHAPES.palette), "truth")
    said = ["network   skips from strides   test mIoU   boundary F1   parameters"]
    for one, (name, skips) in zip(axes[2:], SKIPS.items(), strict=True):
        run = run_of(name)
        model = load(run)
        assert isinstance(model, Predictor)
        show(
            one,
            color_mask(model(image), SHAPES.palette),
            f"{name}: skips {skips}" if skips != "–" else f"{name}: no skips",
        )
        miou = json.loads((run / TEST_SCORES).read_text())["scores"]["miou"]
        parameters = sum(p.numel() for p in model.network.parameters())
        said.append(f"{name:9} {skips:20} {miou:.3f}       {boundary_f1(model):.3f}         {parameters}")
    save(figure, folder, "skips")
    return said


def boundary_f1(model: Predictor, images: int = 60) -> float:
    """Score the outlines of the first test images."""
    metric = BoundaryF1()
    pairs = (scene(n, split="test") for n in range(images))
    rows = [metric.measure(model(image), mask, len(SHAPES.class_names)) for image, mask in pairs]
    return float(metric.scores(np.stack(rows))[metric.name])
