import numpy as np
import pytest

from lightning_seg.data.shapes import Shapes, draw
from lightning_seg.errors import UserError


def test_scenes_depend_on_split_and_number_alone():
    first = draw("train", 3, (64, 80))
    np.random.seed(1)
    for one, other in zip(first, draw("train", 3, (64, 80)), strict=True):
        np.testing.assert_array_equal(one, other)
    for other in (draw("val", 3, (64, 80)), draw("train", 4, (64, 80))):
        assert (first[0] != other[0]).any() and (first[1] != other[1]).any()


def test_every_object_has_one_class_and_lies_over_the_ground():
    counts = np.zeros(5, int)
    for number in range(60):
        image, mask, instances = draw("train", number, (96, 96))
        assert image.shape == (96, 96, 3) and image.dtype == mask.dtype == instances.dtype == np.uint8
        assert ((mask == 0) == (instances == 0)).all()
        for instance in np.unique(instances)[1:]:
            assert len(np.unique(mask[instances == instance])) == 1
        counts += np.bincount(mask.ravel(), minlength=5)
    assert counts[0] / counts.sum() < 0.85 and (counts[1:] / counts.sum() > 0.03).all()


def test_colour_does_not_give_the_class_away():
    """A nearest-mean-colour classifier of whole objects does no better than chance."""
    colors, labels = [], []
    for number in range(300):
        image, mask, instances = draw("train", number, (48, 48))
        for instance in np.unique(instances)[1:]:
            colors.append(image[instances == instance].mean(0))
            labels.append(mask[instances == instance][0])
    colors, labels = np.array(colors), np.array(labels)
    half = len(labels) // 2
    means = np.stack([colors[:half][labels[:half] == label].mean(0) for label in range(1, 5)])
    guess = 1 + np.linalg.norm(colors[half:, None] - means, axis=2).argmin(1)
    assert 0.15 < (guess == labels[half:]).mean() < 0.35


def test_splits_and_names():
    data = Shapes(train_images=3, val_images=2, test_images=1, batch_size=1, crop_size=(8, 8))
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert data.name_of(data.samples("val")[1]) == "val_0001"
    assert data.num_classes == len(data.palette) == 5
    with pytest.raises(UserError, match="no split 'all'. It has: train, val, test"):
        data.samples("all")
