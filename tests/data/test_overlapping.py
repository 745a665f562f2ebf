"""Masks of overlapping classes on their way to the batch: as each mask alone would go."""

from random import Random

import numpy as np
import pytest
import torch

from lightning_seg.data.class_frequencies import positive_pixels
from lightning_seg.data.classes import label_table
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.instances import instance_sample
from lightning_seg.data.loading import collate
from lightning_seg.data.overlapping import flat, of_classes, of_objects, pixels_of_labels
from lightning_seg.data.transforms.geometry import RandomScaleCrop
from lightning_seg.data.transforms.mixing import ClassMix, CutMix
from lightning_seg.errors import UserError


def shapes(**settings):
    given = {"batch_size": 2, "crop_size": (32, 24), "train_images": 6, "num_workers": 0, "overlapping": True}
    return Shapes(**given | settings)


def test_void_of_a_mask_is_void_for_all_classes_and_that_of_a_crowd_for_its_own():
    masks = of_classes(np.array([[0, 1, 2, 255]], np.uint8), 3)
    assert masks[0].tolist() == [[0, 0], [1, 0], [0, 1], [255, 255]]
    inside = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 1, 1]]])
    sample = instance_sample(np.zeros((1, 4, 3), np.uint8), inside, [1, 2, 1], [False, False, True])
    assert of_objects(sample, 3)[0].tolist() == [[1, 0], [1, 1], [255, 1], [255, 0]]


def test_pixels_count_for_every_class_that_they_have():
    masks = np.array([[[0, 0], [1, 1], [255, 1], [255, 0]]], np.uint8)
    counts = pixels_of_labels(masks)
    assert counts[[0, 1, 2, 255]].tolist() == [1, 1, 2, 2] and counts.sum() == 6
    assert flat(masks).tolist() == [[0, 2, 2, 255]]


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 40])
def test_a_crop_treats_each_map_as_a_mask_alone(classes):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (37, 53, 3), np.uint8)
    masks = rng.choice(np.array([0, 1, 255], np.uint8), (37, 53, classes))
    crop = RandomScaleCrop((32, 48), (0.3, 3.0))
    for seed in range(20):
        cut_image, cut = crop.arrays(image, masks, Random(seed))
        assert cut.shape == (32, 48, classes)
        for k in range(classes):
            alone_image, alone = crop.arrays(image, np.ascontiguousarray(masks[..., k]), Random(seed))
            assert np.array_equal(cut[..., k], alone) and np.array_equal(cut_image, alone_image)


def test_balanced_crops_hold_the_rarest_class():
    masks = np.zeros((200, 200, 3), np.uint8)
    masks[150:153, 20:23, 2] = 1  # 9 of 40000 pixels
    crop = RandomScaleCrop((24, 24), (1.0, 1.0), class_balanced_crops=1.0)
    image = np.zeros((200, 200, 3), np.uint8)
    assert all((crop.arrays(image, masks, Random(i))[1][..., 2] == 1).any() for i in range(30))


def test_a_batch_pads_with_void_and_mixes_all_maps():
    data = shapes(mix=CutMix(p=1.0))
    split = Split(data, "train", train=True)
    batch = collate([split[0], split[1]])
    assert batch["mask"].shape == (2, 5, 32, 24) and batch["mask"].dtype == torch.uint8
    mixed = data.mix(batch)
    from_partner = (mixed["image"] != batch["image"]).any(1)
    other = batch["mask"].roll(1, 0)
    assert torch.equal(mixed["mask"].movedim(1, -1)[from_partner], other.movedim(1, -1)[from_partner])
    small = {**split[0], "image": split[0]["image"][:, :20], "mask": split[0]["mask"][:, :20]}
    padded = collate([small, split[1]])
    assert (padded["mask"][0, :, 20:] == 255).all() and padded["size"].tolist() == [[20, 24], [32, 24]]


def test_objects_of_a_data_set_give_its_overlapping_classes():
    data = shapes()
    sample = data.samples("train")[3]
    masks = data.read_overlapping(sample)[1]
    assert np.array_equal(flat(masks), data.read(sample)[1])  # shapes hide one another, so nothing overlaps
    positive, counted = positive_pixels(data)
    every = np.stack([data.read_overlapping(one)[1] for one in data.samples("train")])
    assert np.array_equal(positive, (every == 1).sum((0, 1, 2))) and (counted == every[..., 0].size).all()


def test_what_needs_one_class_a_pixel_is_refused():
    with pytest.raises(UserError, match="ClassMix"):
        shapes(mix=ClassMix())
    with pytest.raises(UserError, match="cache"):
        shapes(cache="disk")


def test_maps_of_a_npy_file_are_read_and_wrong_ones_refused(tmp_path):
    rng = np.random.default_rng(0)
    maps = rng.choice(np.array([0, 1, 255], np.uint8), (2, 20, 30))
    for folder, array in (("images", rng.integers(0, 256, (20, 30, 3), np.uint8)), ("masks", maps)):
        (tmp_path / folder / "train").mkdir(parents=True)
        np.save(tmp_path / folder / "train" / "a.npy", array)
    given = {"root": str(tmp_path), "class_names": ["none", "a", "b"], "batch_size": 1, "crop_size": (8, 8)}
    data = Folder(**given)
    data.overlapping = True
    (sample,) = data.samples("train")
    assert np.array_equal(data.read_labels(sample)[1], maps.transpose(1, 2, 0))
    found, counted = positive_pixels(data)
    assert found.tolist() == (maps == 1).sum((1, 2)).tolist()
    assert counted.tolist() == (maps < 255).sum((1, 2)).tolist()
    data.table = label_table({255: 1})
    assert np.array_equal(data.read_labels(sample)[1] == 1, (maps > 0).transpose(1, 2, 0))
    data.overlapping = False
    with pytest.raises(UserError, match="MultiLabelSegmentation"):
        data.read_labels(sample)
    for wrong, said in ((maps[:1], r"for each of a, b: \(2, H, W\)"), (maps.astype(float), "float64")):
        np.save(tmp_path / "masks/train/a.npy", wrong)
        with pytest.raises(UserError, match=said):
            data.read_overlapping(sample)
