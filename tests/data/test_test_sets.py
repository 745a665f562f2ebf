"""Further test sets: corruptions are the same every time and stronger by severity; classes are found by their names."""

import numpy as np
import pytest

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.test_sets import CORRUPTIONS, Corrupted, SameClasses, corrupt
from lightning_seg.errors import UserError


def shapes():
    return Shapes(
        batch_size=2, crop_size=(32, 32), image_size=(64, 80), train_images=4, val_images=2, test_images=3
    )


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_are_deterministic_and_grow_with_severity(kind):
    data = shapes()
    for sample in data.samples("test"):
        image, mask = data.read(sample)
        far = []
        for severity in range(1, 6):
            spoiled, same = Corrupted(data, kind, severity).read(sample)
            again, _ = Corrupted(shapes(), kind, severity).read(sample)
            assert np.array_equal(spoiled, again) and np.array_equal(mask, same)
            assert spoiled.shape == image.shape and spoiled.dtype == np.uint8
            far.append(np.abs(spoiled.astype(int) - image).mean())
        assert far[-1] > far[0] > 0
        assert kind == "weather" or far == sorted(far)  # fog that is denser in places may be thinner in all


def test_noise_has_the_deviation_of_imagenet_c():
    grey = np.full((200, 200, 3), 128, np.uint8)
    for severity, deviation in ((1, 0.08), (3, 0.18)):
        assert corrupt(grey, "noise", severity, 7).std() == pytest.approx(255 * deviation, rel=0.02)
    assert not np.array_equal(corrupt(grey, "noise", 1, 7), corrupt(grey, "noise", 1, 8))


def test_classes_are_found_by_their_names_and_others_are_ignored():
    other = shapes()
    names = other.class_names
    wanted = (names[2], names[0])  # another order, and not all
    mapped = SameClasses(other, wanted, ((1, 2, 3), (4, 5, 6)))
    sample = other.samples("test")[0]
    mask, found = other.read(sample)[1], mapped.read(sample)[1]
    assert {*np.unique(found)} <= {0, 1, IGNORE_INDEX}
    assert np.array_equal(found == 0, mask == 2) and np.array_equal(found == 1, mask == 0)
    assert mapped.facts == {"data": "Shapes", "ignored_classes": [n for n in names if n not in wanted]}
    with pytest.raises(
        UserError, match="Shapes has no class sky, so its score would not be that of the same classes"
    ):
        SameClasses(other, ("sky", names[0]), ((1, 2, 3), (4, 5, 6)))


@pytest.mark.parametrize(("kind", "severity"), [("snow", 1), ("noise", 0), ("noise", 6)])
def test_an_unknown_corruption_is_named(kind, severity):
    with pytest.raises(UserError, match="one of noise, blur, weather, digital, with a severity from 1 to 5"):
        Corrupted(shapes(), kind, severity)
