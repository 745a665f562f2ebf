"""Pictures show the colours they promise."""

import numpy as np
from PIL import Image

from lightning_seg.labels import IGNORE_INDEX
from lightning_seg.pictures import WRONG, colour_mask, comparison, error_map, overlay, save_palette_png

PALETTE = ((10, 20, 30), (200, 100, 0))
MASK = np.array([[0, 1], [1, IGNORE_INDEX]], np.uint8)
IMAGE = np.full((2, 2, 3), 100, np.uint8)


def test_colours():
    assert colour_mask(MASK, PALETTE).tolist() == [[[10, 20, 30], [200, 100, 0]], [[200, 100, 0], [0, 0, 0]]]


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
