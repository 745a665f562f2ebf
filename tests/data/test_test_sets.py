"""Further test sets: corruptions are the same every time and stronger by severity; classes are found by their names."""

import numpy as np
import pytest
import torch

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.segments import mask_of
from lightning_seg.data.test_sets import CORRUPTIONS, Corrupted, SameClasses, corrupt
from lightning_seg.errors import UserError


def shapes(**task):
    return Shapes(
        batch_size=2,
        crop_size=(32, 32),
        image_size=(64, 80),
        train_images=4,
        val_images=2,
        test_images=3,
        **task,
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


def same(a, b):
    """Whether two values of an item of a batch are equal."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize(
    "task", [{}, {"instances": True}, {"segments": True}, {"overlapping": True}], ids=str
)
def test_every_task_gets_what_it_had_beside_the_spoiled_image(task):
    data = shapes(**task)
    spoiled = Corrupted(data, "noise", 3)
    assert spoiled.num_outputs == data.num_outputs and spoiled.things == data.things
    for index, sample in enumerate(data.samples("test")):
        item, before = Split(spoiled, "test")[index], Split(data, "test")[index]
        image = torch.from_numpy(spoiled.read(sample)[0]).permute(2, 0, 1)
        assert torch.equal(item.pop("image"), image) and not torch.equal(before.pop("image"), image)
        assert same(item, before)


class Renamed(Shapes):
    """Its classes in another order, so that labels have to be mapped."""

    class_names = ("background", "cross", "circle", "square", "triangle", "star")


def test_objects_segments_and_maps_of_other_data_get_the_labels_of_the_network():
    names, palette = Shapes.class_names, Shapes.palette
    settings = {"batch_size": 2, "crop_size": (32, 32), "test_images": 3}
    to = [names.index(name) for name in Renamed.class_names]
    for sample in (other := Renamed(**settings, segments=True)).samples("test"):
        mapped, own = SameClasses(other, names, palette), other.read_segments(sample)
        found = mapped.read_segments(sample)
        assert mapped.things == (1, 2, 3, 4, 5) and mapped.category_id(5) == 1
        assert np.array_equal(
            mask_of(found.numbers, found.classes), np.array(to)[mask_of(own.numbers, own.classes)]
        )
        few = SameClasses(other, names[:3], palette[:3]).read_segments(sample)
        known = mask_of(found.numbers, found.classes) < 3
        assert np.array_equal(few.numbers < IGNORE_INDEX, known) and {*few.classes} <= {0, 1, 2}
        labels = SameClasses(Renamed(**settings, instances=True), names, palette).read_instances(sample)[
            "labels"
        ]
        assert labels.tolist() == [to[label] for label in other.read_instances(sample)["labels"]]
        maps = SameClasses(Renamed(**settings, overlapping=True), names, palette).read_overlapping(sample)[1]
        before = other.read_overlapping(sample)[1]
        assert all(np.array_equal(maps[..., to[k] - 1], before[..., k - 1]) for k in range(1, 6))


@pytest.mark.parametrize(
    ("names", "task", "says"),
    [
        (
            Shapes.class_names[:5],
            "instances",
            "objects of further classes, cross, and objects cannot be ignored",
        ),
        (
            ("circle", "background", *Shapes.class_names[2:]),
            "overlapping",
            "class 0 of Shapes must be the background, circle; it is background",
        ),
    ],
)
def test_classes_that_a_task_cannot_map_are_refused(names, task, says):
    with pytest.raises(UserError, match=says):
        SameClasses(shapes(**{task: True}), names, Shapes.palette)


@pytest.mark.parametrize(
    ("kind", "severity"),
    [
        ("snow", 1),
        ("noise", 0),
        ("noise", 6),
        ("noise", 3.0),
        ("noise", True),
        ("noise", "3"),
        (["noise"], 3),
    ],
)
def test_an_unknown_corruption_is_named(kind, severity):
    with pytest.raises(UserError, match="one of noise, blur, weather, digital, with a severity from 1 to 5"):
        Corrupted(shapes(), kind, severity)
