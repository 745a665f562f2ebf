import numpy as np
import pytest
import torch

from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.loading import collate
from lightning_seg.data.segments import number_segments
from lightning_seg.data.transforms.mixing import CutMix
from lightning_seg.errors import UserError

OF = {"image_size": (48, 64), "batch_size": 2, "crop_size": (40, 40), "num_workers": 0}


def test_the_mask_of_an_image_with_segments_is_that_of_one_without():
    for train, balanced in ((False, 0.0), (True, 0.0), (True, 1.0)):  # crops balance classes, not segments
        of = OF | {"class_balanced_crops": balanced}
        plain, segmented = (Split(Shapes(segments=s, **of), "train", train) for s in (False, True))
        for i in range(4):
            one, other = plain[3, i], segmented[3, i]
            assert all(torch.equal(one[key], other[key]) for key in ("image", "mask"))
            inside = other["segments"] != 255
            assert (other["mask"][~inside] == 255).all()
            assert torch.equal(other["segment_class"][other["segments"].long()], other["mask"])
            assert other["segment_list"] == other["segments"][inside].unique().tolist()


def test_objects_are_segments_of_their_own_and_the_ground_is_one():
    data = Shapes(segments=True, **OF)
    several = 0
    for i in range(10):
        sample = data.samples("val")[i]
        segments, objects = data.read_segments(sample), data.read_instances(sample)
        present = [n for n in np.unique(segments.numbers).tolist() if n]
        assert [segments.classes[n] for n in present] == objects["labels"].tolist()
        assert segments.classes[0] == 0 and set(objects["labels"].tolist()) <= set(data.things)
        several += len(present) > len(set(objects["labels"].tolist()))
    assert several


def test_padding_belongs_to_no_segment():
    small, large = (
        Split(Shapes(segments=True, **OF | {"image_size": size}), "val")[0] for size in ((16, 16), (24, 32))
    )
    batch = collate([small, large])
    assert batch["segments"].shape == (2, 24, 32) and (batch["segments"][0, 16:] == 255).all()
    assert batch["segment_class"].shape == (2, 256) and batch["size"].tolist() == [[16, 16], [24, 32]]


def test_segments_are_numbered_from_0_and_the_rest_is_void():
    found = number_segments(np.array([[70000, 12], [12, 900]]), {900: 3, 70000: 1, 5: 0}, crowds={5, 70000})
    assert found.numbers.tolist() == [[1, 255], [255, 0]] and found.classes == [3, 1] and found.crowds == [1]
    many = np.arange(300).reshape(20, 15)
    with pytest.raises(UserError, match="at most 255 segments in an image, got 300"):
        number_segments(many, dict.fromkeys(range(300), 1))


def test_what_would_lose_segments_is_refused():
    with pytest.raises(UserError, match="CutMix cannot mix segments"):
        Shapes(segments=True, mix=CutMix(), **OF)
    with pytest.raises(UserError, match="leave it at none"):
        Shapes(segments=True, cache="ram", **OF)
