"""A segmentation map and its void pixels; semantic, instance and panoptic segmentation of one image."""

from pathlib import Path
from random import Random

import cv2
import numpy as np

from docs.scripts.learn.common import SHAPES, panels, save, scene, show
from lightning_seg import IGNORE_INDEX, RandomScaleCrop
from lightning_seg.metrics.objects import count_objects
from lightning_seg.plotting.pictures import color_mask, object_color

NUMBER = 73  # circles that touch


def draw(folder: Path) -> list[str]:
    """Draw both pictures; return what the page says of them in numbers."""
    return [*_map(folder), *_segments(folder)]


def _map(folder: Path) -> list[str]:
    image, mask = RandomScaleCrop((96, 96), (0.8, 0.8)).arrays(*scene(NUMBER), Random(1))
    smooth = cv2.resize(mask, (192, 192), interpolation=cv2.INTER_LINEAR)
    nearest = cv2.resize(mask, (192, 192), interpolation=cv2.INTER_NEAREST_EXACT)
    figure, axes = panels("AB CD", 5)
    show(axes[0], image, "image, scaled by 0.8")
    show(axes[1], color_mask(mask, SHAPES.palette), "its map, void black")
    for one, labels, (top, left), title in (
        (axes[2], mask, (58, 14), "detail: class numbers"),
        (axes[3], smooth, (122, 29), "resized bilinearly: wrong"),
    ):
        part = labels[top : top + 9, left : left + 9]
        show(one, color_mask(part, SHAPES.palette), title)
        for (y, x), label in np.ndenumerate(part):
            one.text(x, y, str(label), color="white", fontsize=8, ha="center", va="center")
    save(figure, folder, "map")
    invented = ~np.isin(smooth, np.unique(mask))
    return [
        f"labels in the mask          {', '.join(map(str, np.unique(mask)))}",
        f"pixels of {IGNORE_INDEX} (void)        {(mask == IGNORE_INDEX).mean():.1%}",
        f"labels, resized nearest     {', '.join(map(str, np.unique(nearest)))}",
        f"labels, resized bilinearly  {len(np.unique(smooth))} different ones; {invented.sum()} pixels of classes "
        "that are not in the mask",
    ]


def _segments(folder: Path) -> list[str]:
    sample = SHAPES.read_segments(("val", NUMBER, (96, 96)))
    classes = np.array(sample.classes)
    semantic = color_mask(classes[sample.numbers].astype(np.uint8), SHAPES.palette)
    thing = np.isin(classes[sample.numbers], SHAPES.things)
    colors = np.array([object_color(i) for i in range(len(classes))], np.uint8)[sample.numbers]
    instances = np.where(thing[..., None], colors, 255).astype(np.uint8)
    panoptic = np.where(thing[..., None], colors, semantic).astype(np.uint8)
    figure, axes = panels("AB CD", 5)
    for one, picture, title in (
        (axes[0], sample.image, "image"),
        (axes[1], semantic, "semantic: a class a pixel"),
        (axes[2], instances, "instance: things only"),
        (axes[3], panoptic, "panoptic: things and stuff"),
    ):
        show(one, picture, title)
    for number in np.unique(sample.numbers[thing]):
        y, x = np.argwhere(sample.numbers == number).mean(0)
        for one in axes[2:]:
            one.text(x, y, SHAPES.class_names[classes[number]], fontsize=9, ha="center", va="center")
    save(figure, folder, "segments")
    objects = np.unique(sample.numbers[thing])
    found = count_objects(classes[sample.numbers].astype(np.uint8), len(SHAPES.class_names))
    names = [
        f"{SHAPES.class_names[c]} {(classes[objects] == c).sum()} ({found[c]})"
        for c in np.unique(classes[objects])
    ]
    return [
        f"objects (connected pieces of the semantic map): {', '.join(names)}",
        f"pixels of stuff: {(~thing).mean():.0%}",
    ]
