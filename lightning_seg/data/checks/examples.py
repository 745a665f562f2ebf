"""Example pictures of every class, so that a person sees what the labels mean."""

from pathlib import Path

import cv2
import numpy as np

from lightning_seg.data.checks.check import Report
from lightning_seg.data.overlapping import flat
from lightning_seg.data.protocol import DataSet

CELL = 160, 120  # width and height of a picture, in pixels
GAP, TEXT = 8, 210  # pixels
INK, SOFT, PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
MARK = 235, 0, 110  # one color for all classes: some palettes have grays


def draw_examples(data: DataSet, report: Report, path: str | Path) -> None:
    """Draw one row a class: its share of the training split, and images in which its pixels are marked.

    From left to right the class has fewer and fewer pixels; in the last picture it has the fewest of all images,
    where mistakes of annotation are found.

    Args:
        data: The data set.
        report: What `check` found.
        path: Picture file to write.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = max([len(chosen) for chosen in report.examples.values()], default=0)
    width, height = TEXT + columns * (CELL[0] + GAP) + GAP, CELL[1] + GAP
    sheet = Image.new("RGB", (width, len(data.class_names) * height + GAP), PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(17), ImageFont.load_default(13)
    samples = data.samples(data.train_split)
    pixels, images = report.pixels[data.train_split], report.images[data.train_split]
    for label, (name, color) in enumerate(zip(data.class_names, data.palette, strict=True)):
        top = GAP + label * height
        draw.rectangle((GAP, top + 4, GAP + 16, top + 20), fill=color, outline=INK)
        draw.text((GAP + 26, top + 2), name, INK, font)
        share = f"{pixels[label] / max(1, pixels.sum()):.2%} of pixels"
        draw.text((GAP + 26, top + 28), f"{share}\n{images[label]} of {len(samples)} images", SOFT, small)
        for column, index in enumerate(report.examples.get(label, ())):
            image, mask = data.read_labels(samples[index])
            if mask.ndim == 2:
                inside = mask == label
            else:  # a map for each class but the background
                inside = mask[..., label - 1] == 1 if label > 0 else flat(mask) == 0
            picture = Image.fromarray(_mark(data.pixels.picture(image), inside))
            left = TEXT + column * (CELL[0] + GAP)
            sheet.paste(
                picture, (left + (CELL[0] - picture.width) // 2, top + (CELL[1] - picture.height) // 2)
            )
    sheet.save(path)


def _mark(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Show an image (H, W, 3) pale and gray in a cell, the pixels of a class (H, W) in color."""
    scale = min(CELL[0] / image.shape[1], CELL[1] / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(image, size, interpolation=how)
    share = cv2.resize(inside.astype(np.float32), size, interpolation=how)
    pale = (small.mean(2, keepdims=True) * 0.3 + 165).repeat(3, axis=2)
    marked = small * 0.5 + np.array(MARK) * 0.5
    return np.where(share[..., None] > 0.2, marked, pale).astype(np.uint8)
