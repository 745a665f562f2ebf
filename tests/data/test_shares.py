"""A share of the training images has the classes of all of them, and is part of every larger one."""

import numpy as np
import pytest

from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.shares import listed, nested_order, share_of
from lightning_seg.errors import UserError

RNG = np.random.default_rng(5)
SEEN = RNG.random((200, 6)) < [0.9, 0.5, 0.3, 0.1, 0.05, 0.5]
SAMPLES = list(range(200))


def read(sample):
    mask = np.flatnonzero(SEEN[sample]).astype(np.uint8)
    return np.zeros((1, len(mask), 3), np.uint8), mask[None]


def take(share, groups=(None,) * 200):
    return share_of(SAMPLES, share, read, groups)


def test_shares_are_nested_and_as_large_as_they_should_be():
    shares = [take(share) for share in (0.01, 0.05, 0.2, 0.5, 1.0)]
    assert [len(s) for s in shares] == [2, 10, 40, 100, 200]
    for small, large in zip(shares, shares[1:], strict=False):
        assert {*small} <= {*large} and small == sorted(small)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_class_is_as_frequent_as_in_all_images(share):
    """Within one image for each class, where chance would miss by several."""
    kept = take(share)
    assert np.abs(SEEN[kept].sum(0) - share * SEEN.sum(0)).max() <= 1
    by_chance = [np.abs(SEEN[RNG.permutation(200)[:40]].sum(0) - 0.2 * SEEN.sum(0)).max() for _ in range(50)]
    assert np.mean(by_chance) > 2


def test_groups_stay_together():
    groups = [f"patient {i // 7}" for i in SAMPLES]
    small, large = take(0.2, groups), take(0.6, groups)
    assert {*small} <= {*large} and 40 <= len(small) < 47
    for kept in (small, large):
        assert all((i in kept) == (7 * (i // 7) in kept) for i in SAMPLES)


def test_a_class_that_a_share_does_not_show_is_said():
    with pytest.warns(UserWarning, match=r"train_share=0.005 takes show nothing of class"):
        take(0.005)


def test_an_order_of_equal_units_is_complete():
    assert sorted(nested_order(np.ones((9, 2)), np.ones(9))) == list(range(9))


def test_stretches_of_a_list():
    def lists(split):
        return [f"{split}{i}" for i in range(5)]

    assert listed(lists, "val") == lists("val")
    assert [*listed(lists, "val[:0.4]"), *listed(lists, "val[0.4:]")] == lists("val")
    assert listed(lists, "val[.2:0.6]") == ["val1", "val2"]
    with pytest.raises(UserError, match=r"holds none of the 5 samples of val.*val\[:0.5\]"):
        listed(lists, "val[0.5:0.5]")


def data(**changes):
    given = dict(
        batch_size=2, crop_size=(32, 32), image_size=(40, 48), train_images=20, val_images=10, test_images=4
    )
    return Shapes(**(given | changes))


def test_the_fingerprint_tells_shares_apart():
    whole, some = data(), data(train_share=0.2)
    assert len(some.samples("train")) == 4 and {*some.samples("train")} < {*whole.samples("train")}
    assert len(some.samples("val")) == 10
    assert len({whole.fingerprint, some.fingerprint, data(train_share=0.4).fingerprint}) == 3


def test_a_share_of_a_fold_leaves_its_validation_images_alone():
    whole, some = (data(fold=0, train_share=share) for share in (1.0, 0.25))
    assert some.samples(some.val_split) == whole.samples(whole.val_split)  # whichever is asked for first
    assert len(some.samples("train")) == 6 and {*some.samples("train")} < {*whole.samples("train")}


def test_halves_of_a_split_can_validate_and_test():
    halves = data(val_split="val[:0.5]", test_split="val[0.5:]")
    assert halves.samples("val[:0.5]") + halves.samples("val[0.5:]") == data().samples("val")


def test_a_share_of_nothing_is_refused():
    with pytest.raises(
        UserError, match="train_share must be a share of the training images, above 0 and up to 1"
    ):
        data(train_share=0)
