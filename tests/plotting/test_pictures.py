"""Pictures show the colors they promise."""

import numpy as np
from PIL import Image

from lightning_seg import IGNORE_INDEX
from lightning_seg.plotting.pictures import (
    WRONG,
    color_mask,
    comparison,
    draw_objects,
    error_map,
    object_color,
    overlay,
    save_palette_png,
)

PALETTE = ((10, 20, 30), (200, 100, 0))
MASK = np.array([[0, 1], [1, IGNORE_INDEX]], np.uint8)
IMAGE = np.full((2, 2, 3), 100, np.uint8)


def test_colors():
    assert color_mask(MASK, PALETTE).tolist() == [[[10, 20, 30], [200, 100, 0]], [[200, 100, 0], [0, 0, 0]]]


def test_overlay_leaves_ignored_pixels_alone():
    mixed = overlay(IMAGE, MASK, PALETTE, opacity=0.5)
    assert mixed[1, 1].tolist() == [100, 100, 100] and mixed[0, 1].tolist() == [150, 100, 50]


def test_error_map_marks_only_counted_errors():
    prediction = np.array([[1, 1], [1, 1]], np.uint8)
    marked = error_map(IMAGE, MASK, prediction)
    assert (marked == WRONG).all(2).tolist() == [[True, False], [False, False]]
    assert marked[1, 1].tolist() == [0, 0, 0]


def test_palette_png_keeps_the_labels(tmp_path):
    save_palette_png(MASK, PALETTE, tmp_path / "mask.png")
    read = Image.open(tmp_path / "mask.png")
    assert read.mode == "P" and (np.asarray(read) == MASK).all()
    assert np.asarray(read.convert("RGB"))[0, 1].tolist() == [200, 100, 0]


def test_comparison_fits_images_of_any_size_and_many_names():
    sizes = [(20, 30), (50, 25), (1, 9)]
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    masks = [np.zeros(size, np.uint8) for size in sizes]
    few = comparison(images, masks, masks, ["a", "b"], PALETTE)
    many = comparison(
        images, masks, masks, [f"class {i}" for i in range(150)], [(i, i, i) for i in range(150)]
    )
    assert few.width == many.width and many.height > few.height


def two_objects(**more):
    """Two objects in a picture of 40x60; the second lies below the first and shows nowhere."""
    parts = np.zeros((40, 60), np.int32)
    parts[20:30, 10:30] = 1
    boxes = np.array([[10, 20, 30, 30], [12, 22, 20, 28]], np.float32)
    return {"parts": parts, "boxes": boxes, "labels": np.array([1, 1]), **more}


def test_objects_have_colors_of_their_own_and_boxes():
    image = np.full((40, 60, 3), 100, np.uint8)
    drawn = draw_objects(image, two_objects(scores=np.array([0.9, 0.2])), ["ground", "a"])
    color = np.array(object_color(0))
    assert (drawn[29, 10:30] == color).all() and (drawn[20:30, 10] == color).all()  # the box
    assert np.abs(drawn[25, 20] - (0.45 * 100 + 0.55 * color)).max() <= 1  # inside
    assert (drawn[35:] == 100).all() and (drawn[:, 45:] == 100).all()
    assert not (drawn == object_color(1)).all(2).any()  # what shows nowhere has no box either
    assert len({object_color(i) for i in range(100)}) == 100


def test_objects_are_drawn_at_any_width_and_none_at_all():
    image = np.zeros((40, 60, 3), np.uint8)
    assert draw_objects(image, two_objects(), ["ground", "a"], width=120).shape == (80, 120, 3)
    nothing = {"parts": np.zeros((40, 60), np.int32), "boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}
    assert not draw_objects(image, nothing, ["ground", "a"]).any()
    masks = [np.zeros((40, 60), np.uint8)]
    sheet = comparison([image], masks, masks, ["a", "b"], PALETTE, objects=[(two_objects(), nothing)])
    assert sheet.width == comparison([image], masks, masks, ["a", "b"], PALETTE).width
