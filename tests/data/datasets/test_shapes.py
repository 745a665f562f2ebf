import cv2
import numpy as np
import pytest

from lightning_seg.data.datasets.shapes import Shapes, draw
from lightning_seg.errors import UserError


def test_scenes_depend_on_split_and_number_alone():
    first = draw("train", 3, (64, 80))
    np.random.seed(1)
    for one, other in zip(first, draw("train", 3, (64, 80)), strict=True):
        np.testing.assert_array_equal(one, other)
    for other in (draw("val", 3, (64, 80)), draw("train", 4, (64, 80))):
        assert (first[0] != other[0]).any() and (first[1] != other[1]).any()


def test_every_object_has_one_class_and_lies_over_the_ground():
    counts = np.zeros(6, int)
    for number in range(60):
        image, mask, instances = draw("train", number, (96, 96))
        assert image.shape == (96, 96, 3) and image.dtype == mask.dtype == instances.dtype == np.uint8
        assert ((mask == 0) == (instances == 0)).all()
        for instance in np.unique(instances)[1:]:
            assert len(np.unique(mask[instances == instance])) == 1
        counts += np.bincount(mask.ravel(), minlength=6)
    assert counts[0] / counts.sum() < 0.85 and (counts[1:] / counts.sum() > 0.03).all()


def test_color_alone_does_not_tell_the_class():
    """The nearest usual hue is right for most objects, and wrong for enough that outlines matter."""
    right = []
    for number in range(200):
        image, mask, instances = draw("train", number, (48, 48))
        hues = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[..., 0] * (2 * np.pi / 255)
        for instance in np.unique(instances)[1:]:
            inside = instances == instance
            hue = np.degrees(np.angle(np.exp(1j * hues[inside]).mean()))
            right.append(round(hue / 72) % 5 == mask[inside][0] % 5)
    assert 0.6 < np.mean(right) < 0.95


def test_splits_and_names():
    data = Shapes(train_images=3, val_images=2, test_images=1, batch_size=1, crop_size=(8, 8))
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert data.name_of(data.samples("val")[1]) == "val_0001"
    assert data.num_classes == len(data.palette) == 6
    with pytest.raises(UserError, match="no split 'all'. It has: train, val, test"):
        data.samples("all")
