import warnings

import numpy as np
import pytest

from lightning_seg.data.folds import (
    block_folds,
    divide,
    fold_of_each,
    group_folds,
    presence,
    stratified_folds,
)
from lightning_seg.errors import UserError


def test_divide_gives_every_item_once_in_order():
    parts = divide(range(103), {"train": 8, "val": 1, "test": 1}, seed=3)
    assert {name: len(part) for name, part in parts.items()} == {"train": 82, "val": 11, "test": 10}
    assert sorted(sum(parts.values(), [])) == list(range(103))
    assert all(part == sorted(part) for part in parts.values())
    assert parts == divide(range(103), {"train": 8, "val": 1, "test": 1}, seed=3)
    assert parts != divide(range(103), {"train": 8, "val": 1, "test": 1}, seed=4)


@pytest.mark.parametrize("total", [5, 24, 101])
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_of_equal_size(total, folds):
    presence = np.random.default_rng(0).random((total, 6)) < 0.3
    sizes = np.bincount(stratified_folds(presence, folds), minlength=folds)
    assert sizes.sum() == total and sizes.max() - sizes.min() <= 1


def test_rare_classes_are_spread_over_the_folds():
    rng = np.random.default_rng(0)
    presence = rng.random((100, 4)) < (0.9, 0.5, 0.2, 0.05)
    presence[:, 3] = False
    presence[rng.choice(100, 5, replace=False), 3] = True
    fold_of = stratified_folds(presence, 5)
    counts = np.array([presence[fold_of == fold].sum(0) for fold in range(5)])
    assert (counts[:, 3] == 1).all()  # five samples, five folds
    assert (counts.max(0) - counts.min(0) <= 3).all()
    random = np.array([presence[rng.permutation(100)[:20]].sum(0) for _ in range(50)])
    assert (random.max(0) - random.min(0)).max() > 5  # what chance alone would do


def test_folds_follow_from_the_seed():
    presence = np.random.default_rng(0).random((40, 3)) < 0.5
    assert (stratified_folds(presence, 4, 1) == stratified_folds(presence, 4, 1)).all()
    assert (stratified_folds(presence, 4, 1) != stratified_folds(presence, 4, 2)).any()


@pytest.mark.parametrize("total", [3, 24, 101])
def test_blocks_are_consecutive_and_of_equal_size(total):
    fold_of = block_folds(total, 5)
    sizes = np.bincount(fold_of, minlength=5)
    assert len(fold_of) == total and (np.diff(fold_of) >= 0).all() and sizes.max() - sizes.min() <= 1


GROUPS = [f"patient{i % 7}" for i in range(50)]


def test_groups_stay_together_in_parts_of_about_the_right_size():
    for seed in range(20):
        parts = divide(range(50), {"train": 0.6, "val": 0.2, "test": 0.2}, seed, GROUPS)
        assert sorted(sum(parts.values(), [])) == list(range(50))
        owners = [{GROUPS[i] for i in part} for part in parts.values()]
        assert sum(map(len, owners)) == 7 and all(owners)
        assert abs(len(parts["train"]) - 30) <= 8
    assert parts != divide(range(50), {"train": 0.6, "val": 0.2, "test": 0.2}, 0, GROUPS)


def test_every_part_gets_a_group_although_one_is_large():
    groups = ["large"] * 10 + ["second"] * 10 + ["third"] * 10
    parts = divide(range(30), {"train": 0.8, "val": 0.1, "test": 0.1}, groups=groups)
    assert [len(part) for part in parts.values()] == [10, 10, 10]
    with pytest.raises(UserError, match="There are 3 groups .*too few for 4 parts"):
        divide(range(30), dict.fromkeys("abcd", 1), groups=groups)


def test_parts_and_folds_that_groups_make_unlike_their_share_are_told():
    groups = ["large"] * 90 + ["a"] * 5 + ["b"] * 5
    with pytest.warns(UserWarning, match="val has 5 of 100 samples instead of about 30. Make smaller groups"):
        divide(range(100), {"train": 0.65, "val": 0.3, "test": 0.05}, groups=groups)
    with pytest.warns(UserWarning, match="fold 1 has 5 of 100 samples instead of about 33, fold 2 has 5"):
        fold_of_each(range(100), 3, None, groups, False)
    with pytest.raises(UserError, match="There are 1 groups .*too few for 2 parts"):
        divide(range(9), {"train": 0.8, "val": 0.2}, groups=["one"] * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        divide(range(50), {"train": 0.6, "val": 0.2, "test": 0.2}, groups=GROUPS)
        fold_of_each(range(50), 3, None, GROUPS, False)


def test_blocks_have_two_neighbours_at_each_border():
    parts = divide(range(100), {"train": 0.7, "val": 0.2, "test": 0.1}, in_order=True)
    assert parts == {"train": [*range(70)], "val": [*range(70, 90)], "test": [*range(90, 100)]}


def test_folds_keep_groups_together():
    fold_of = group_folds(GROUPS, 3)
    assert set(fold_of) == {0, 1, 2} and max(np.bincount(fold_of)) <= 22
    assert len(set(zip(GROUPS, fold_of.tolist(), strict=True))) == 7
    with pytest.raises(UserError, match="too few for 8 parts"):
        group_folds(GROUPS, 8)


@pytest.mark.parametrize("ratios", [{}, {"train": 0.0}, {"train": 1, "val": -1}])
def test_senseless_ratios_are_refused(ratios):
    with pytest.raises(UserError, match="split_ratios must be positive"):
        divide(range(3), ratios)


def test_endless_ratios_and_negative_seeds_are_refused():
    with pytest.raises(UserError, match="split_ratios must be positive"):
        divide(range(3), {"train": float("inf"), "val": 1})
    with pytest.raises(UserError, match="split_seed must be 0 or more; got -1"):
        divide(range(3), {"train": 1}, seed=-1)


def test_which_classes_masks_show_is_kept_for_many_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(tmp_path))
    masks = np.random.default_rng(0).choice([0, 3, 7, 200, 254, 255], (600, 2, 2)).astype(np.uint8)
    asked = []

    def read(sample):
        asked.append(sample)
        return masks[sample], masks[sample]

    expected = np.array([[label in mask for label in range(255)] for mask in masks])
    for _ in range(2):
        np.testing.assert_array_equal(presence(read, range(600), lambda: "key"), expected)
    assert sorted(asked) == [*range(600)]
    np.testing.assert_array_equal(presence(read, range(300, 600), lambda: "key"), expected[300:])  # few: anew
    np.testing.assert_array_equal(presence(read, range(600), lambda: "other"), expected)
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", "/proc/nowhere")  # nothing can be kept there
    np.testing.assert_array_equal(presence(read, range(600), lambda: "key"), expected)
