import numpy as np
import pytest
from PIL import Image

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.classes import check_classes, check_colors, check_labels, palette_of
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.errors import UserError


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "two classes at least, got"),
        (["cell"], r"two classes at least, got \['cell'\]"),
        (["a", "b", "a"], "'a' stands there twice"),
        (["a", "b", "a "], "'a' stands there twice"),
        (["a", "b\nc"], "has a line break"),
        (["a", ""], "one of them is empty"),
        (None, "must be a list"),
        ("abc", r"must be a list, such as \[background, thing\]; got 'abc'"),
        ([f"c{i}" for i in range(256)], "There are 256 class_names; at most 255"),
    ],
)
def test_names_that_are_no_classes_are_refused(names, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check_classes(names)
    with pytest.raises(UserError, match=message):
        Folder(str(tmp_path), names, batch_size=1, crop_size=(8, 8))


def test_as_many_classes_as_have_place_are_taken(tmp_path):
    names = [f"c{i}" for i in range(255)]
    assert Folder(str(tmp_path), names, batch_size=1, crop_size=(8, 8)).num_classes == 255


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({-1: 1}, "label -1, but masks hold labels 0 to 255"),
        ({256: 1}, "label 256"),
        ({3: 2}, "3 the class 2"),
        ({0: -1}, "0 the class -1"),
        ({True: 1}, "whole numbers; got True: 1"),
        ({1: 0.0}, "whole numbers; got 1: 0.0"),
    ],
)
def test_labels_that_cannot_occur_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        check_labels(labels, 2)
    check_labels({255: 1, 7: IGNORE_INDEX, 0: 0}, 2)


@pytest.mark.parametrize(
    ("colors", "void", "message"),
    [
        ([(0, 0, 0), (300, 0, 0)], (), r"each 0 to 255; got \[300, 0, 0\]"),
        ([(0, 0, 0), (-1, 0, 0)], (), "each 0 to 255"),
        ([(0, 0, 0), (0, 0, 0.5)], (), "each 0 to 255"),
        ([(0, 0, 0), (0, 0, 0)], (), "twice"),
        ([(0, 0, 0), (1, 1, 1)], [(1, 1, 1)], "twice"),
    ],
)
def test_colors_that_tell_nothing_apart_are_refused(colors, void, message):
    with pytest.raises(UserError, match=message):
        check_colors(colors, void)


def test_the_palette_of_a_file_counts_where_numbers_were_read(tmp_path):
    labels = np.array([[0, 1], [3, 1]], np.uint8)
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([0, 0, 0, 9, 9, 9, 5, 5, 5, 200, 0, 0])
    picture.save(tmp_path / "p.png")
    Image.fromarray(labels).save(tmp_path / "g.png")
    shown = {0: (0, 0, 0), 1: (9, 9, 9), 3: (200, 0, 0)}
    assert palette_of(tmp_path / "p.png", labels, None) == shown
    table = np.arange(256)[::-1].astype(np.uint8)
    assert palette_of(tmp_path / "p.png", table[labels], table) == shown
    assert palette_of(tmp_path / "p.png", labels + 1, None) == {}  # colors were read
    assert palette_of(tmp_path / "g.png", labels, None) == palette_of(tmp_path / "no.png", labels, None) == {}
