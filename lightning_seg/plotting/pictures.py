"""Pictures of images, masks and errors, drawn with numpy and Pillow only."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_seg import IGNORE_INDEX

Palette = Sequence[tuple[int, int, int]]
"""One RGB color for each class, in label order."""
DrawnObjects = Mapping[str, np.ndarray]
"""The objects of an image (see `draw_objects`)."""

WRONG = (220, 20, 60)
IGNORED = (0, 0, 0)
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_GAP = 8


def color_mask(mask: np.ndarray, palette: Palette) -> np.ndarray:
    """Paint labels (H, W) in their colors, (H, W, 3) uint8; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[IGNORE_INDEX] = IGNORED
    return np.asarray(table[mask])


def overlay(image: np.ndarray, mask: np.ndarray, palette: Palette, opacity: float = 0.7) -> np.ndarray:
    """Lay a mask (H, W) over its image (H, W, 3) uint8; ignored pixels show the image alone."""
    mixed = image * (1 - opacity) + color_mask(mask, palette) * opacity
    return np.asarray(np.where((mask == IGNORE_INDEX)[..., None], image, mixed).astype(np.uint8))


def overlay_maps(image: np.ndarray, maps: np.ndarray, palette: Palette, opacity: float = 0.7) -> np.ndarray:
    """Lay classes that overlap over their image (H, W, 3) uint8: each pixel in the mean color of its classes.

    Args:
        image: The image.
        maps: Where each class but the background is (K, H, W): 1 where it is, `IGNORE_INDEX` where it is not known.
        palette: Color of each class, that of the background first.
        opacity: Of the colors, 0 to 1; void is dotted, and shows the image where no class is certain.
    """
    inside = (maps == 1).astype(np.float32)
    colors = np.einsum("khw,kc->hwc", inside, np.asarray(palette[1 : len(maps) + 1], np.float32))
    number = inside.sum(0)[..., None]
    mixed = image * (1 - opacity) + colors / np.maximum(number, 1) * opacity
    out = np.where(number > 0, mixed, image).astype(np.uint8)
    rows, columns = np.indices(image.shape[:2])
    out[(maps == IGNORE_INDEX).any(0) & ((rows + columns) % 4 == 0)] = IGNORED
    return np.asarray(out)


def error_map(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Mark wrong pixels red and ignored pixels black on a pale gray copy of the image (H, W, 3)."""
    pale: np.ndarray = (image.mean(2, keepdims=True) * 0.35 + 160).repeat(3, axis=2).astype(np.uint8)
    pale[(prediction != truth) & (truth != IGNORE_INDEX)] = WRONG
    pale[truth == IGNORE_INDEX] = IGNORED
    return pale


def draw_objects(
    image: np.ndarray, objects: DrawnObjects, class_names: Sequence[str], width: int | None = None
) -> np.ndarray:
    """Draw objects in colors of their own, with box, class and score.

    Args:
        image: (H, W, 3) uint8.
        objects: "boxes" (N, 4), "labels" (N,), perhaps "scores" (N,) and "iscrowd" (N,); "parts" (H, W) says which of
            them each pixel shows, from 1 on, 0 for none. What shows nowhere is not drawn.
        class_names: The classes in label order.
        width: Width of the picture in pixels; that of the image unless given.

    Returns:
        (h, width, 3) uint8.
    """
    parts = objects["parts"]
    colors = np.array([object_color(i) for i in range(len(objects["labels"]))], np.uint8).reshape(-1, 3)
    mixed = (0.45 * image + 0.55 * np.concatenate([colors[:1], colors])[parts]) if len(colors) else image
    picture = _fit(np.where(parts[..., None] > 0, mixed, image).astype(np.uint8), width or image.shape[1])
    zoom = picture.width / image.shape[1]
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for i in reversed(np.unique(parts[parts > 0]) - 1):  # the most confident on top
        color, (x1, y1, x2, y2) = tuple(colors[i].tolist()), (objects["boxes"][i] * zoom).tolist()
        text = class_names[objects["labels"][i]]
        if "iscrowd" in objects and objects["iscrowd"][i]:
            text += " (crowd)"
        if "scores" in objects:
            text += f" {objects['scores'][i]:.2f}"
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color)
        left = max(0, min(x1, picture.width - draw.textlength(text, font) - 4))
        top = y1 - 14 if y1 >= 14 else y1
        draw.rectangle((left, top, left + draw.textlength(text, font) + 3, top + 13), fill=color)
        draw.text((left + 2, top), text, _INK, font)
    return np.asarray(picture)


def draw_segments(
    image: np.ndarray,
    segments: DrawnObjects,
    class_names: Sequence[str],
    palette: Palette,
    width: int | None = None,
) -> np.ndarray:
    """Draw objects on top of the classes of stuff, if "stuff" (H, W) has them; all else as for `draw_objects`."""
    return draw_objects(_on_stuff(image, segments, palette), segments, class_names, width)


def _on_stuff(image: np.ndarray, objects: DrawnObjects, palette: Palette) -> np.ndarray:
    return overlay(image, objects["stuff"], palette, 0.5) if "stuff" in objects else image


def object_color(i: int) -> tuple[int, int, int]:
    """A bright color unlike those before: hues in steps of the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.6, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def save_palette_png(mask: np.ndarray, palette: Palette, path: Path) -> None:
    """Write labels (H, W) as a PNG whose pixel values are the labels and whose palette are the class colors."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    picture = Image.fromarray(mask.astype(np.uint8))  # 8-bit values, to which a palette is attached
    picture.putpalette(table.flatten().tolist())
    picture.save(path)


def save_parts(
    folder: Path,
    index: int,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    palette: Palette,
    width: int = 480,
) -> None:
    """Write an image as ``<index>_image.jpg``, its masks as ``<index>_truth.png`` and ``<index>_prediction.png``.

    Args:
        folder: Where to write; it is made.
        index: Place of the image in its split.
        image: (H, W, 3) uint8 RGB.
        truth: Labels (H, W).
        prediction: Labels (H, W).
        palette: Colors of the classes, which the masks carry.
        width: Pixels; a wider image is made smaller, labels by taking the nearest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = min(width, image.shape[1]), max(1, round(image.shape[0] * min(1, width / image.shape[1])))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    small.save(folder / f"{index:05d}_image.jpg", quality=85)
    for name, mask in (("truth", truth), ("prediction", prediction)):
        labels = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        save_palette_png(labels, palette, folder / f"{index:05d}_{name}.png")


def comparison(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    palette: Palette,
    width: int = 320,
    objects: Sequence[tuple[DrawnObjects, DrawnObjects]] | None = None,
    maps: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> Image.Image:
    """Draw one row an image: image, truth, prediction, error; below them the legend.

    Args:
        images: RGB images (H, W, 3) uint8, of any sizes.
        truths: Their masks (H, W).
        predictions: The predicted masks (H, W).
        class_names: Names for the legend.
        palette: Colors of the classes.
        width: Width of each picture in pixels.
        objects: The true and the predicted objects of each image, to be drawn instead of the masks; on the classes of
            "stuff" (H, W), where they have it.
        maps: The true and the predicted map of each class but the background (K, H, W), where classes may overlap, to
            be drawn instead of the masks.
    """
    columns = ("image", "truth", "prediction", "error")
    rows = []
    for i, (image, truth, prediction) in enumerate(zip(images, truths, predictions, strict=True)):
        error = error_map(image, truth, prediction)
        if maps is not None:
            shown = [overlay_maps(image, of_one, palette) for of_one in maps[i]]
            error = error_map(image, *_any_wrong(*maps[i]))
        elif objects is None:
            shown = [overlay(image, mask, palette) for mask in (truth, prediction)]
        else:
            shown = [draw_segments(image, of_one, class_names, palette, width) for of_one in objects[i]]
        parts = (image, *shown, error)
        rows.append([_fit(picture, width) for picture in parts])
    font = ImageFont.load_default(15)
    total = len(columns) * (width + _GAP) + _GAP
    entries = [] if objects and "stuff" not in objects[0][0] else list(zip(class_names, palette, strict=True))
    entries += [("wrong", WRONG), ("ignored", IGNORED)]
    places, legend_height = _legend_places([name for name, _ in entries], total, font)
    head = 2 * _GAP + 15
    canvas = Image.new(
        "RGB", (total, head + sum(row[0].height + _GAP for row in rows) + legend_height), _PAPER
    )
    draw = ImageDraw.Draw(canvas)
    for i, title in enumerate(columns):
        draw.text((_GAP + i * (width + _GAP), _GAP), title, _INK, font)
    y = head
    for row in rows:
        for i, picture in enumerate(row):
            canvas.paste(picture, (_GAP + i * (width + _GAP), y))
        y += row[0].height + _GAP
    for (name, color), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, y + top, left + 14, y + top + 14), fill=color, outline=_INK)
        draw.text((left + 20, y + top - 1), name, _INK, font)
    return canvas


def _any_wrong(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return masks (H, W) that differ where some class of maps (K, H, W) is wrong, void where all are void."""
    counted = truth != IGNORE_INDEX
    right = np.where(counted.any(0), 0, IGNORE_INDEX)
    return right, np.where(((truth != prediction) & counted).any(0), 1, right)


def _fit(picture: np.ndarray, width: int) -> Image.Image:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    enlarge = width > picture.shape[1]
    return Image.fromarray(picture).resize(
        (width, height), Image.Resampling.NEAREST if enlarge else Image.Resampling.BOX
    )


def _legend_places(names: Sequence[str], width: int, font: Any) -> tuple[list[tuple[int, int]], int]:
    """Put legend entries side by side, breaking lines; return their places and the height of all."""
    places, x, y = [], _GAP, 0
    for name in names:
        needed = 20 + int(font.getlength(name)) + 2 * _GAP
        if x > _GAP and x + needed > width:
            x, y = _GAP, y + 22
        places.append((x, y))
        x += needed
    return places, y + 22 + _GAP
