import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from lightning_seg.data.datasets.coco import COCO, THING_IDS, THINGS
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.instances import (
    CopyPaste,
    augment,
    boxes_from_masks,
    instance_sample,
    masks_of_numbers,
    sanitize,
)
from lightning_seg.data.transforms.geometry import RandomHorizontalFlip, RandomScaleCrop
from lightning_seg.errors import UserError


def scene(number, size=(48, 64)):
    """An image of random rectangles; red is the number of the image, green that of the instance."""
    rng = np.random.default_rng(number)
    numbers = np.zeros(size, np.uint8)
    for instance in range(1, 5):
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        numbers[y : y + rng.integers(4, 20), x : x + rng.integers(4, 20)] = instance
    image = np.stack([np.full_like(numbers, number), numbers, np.zeros_like(numbers)], -1)
    masks = masks_of_numbers(numbers)
    return instance_sample(image, masks, [numbers[mask][0] for mask in masks])


def test_boxes_end_one_pixel_after_those_of_torchvision():
    masks = scene(3)["masks"]
    boxes = boxes_from_masks(masks)
    torch.testing.assert_close(boxes, masks_to_boxes(masks) + torch.tensor([0.0, 0, 1, 1]))
    one = torch.zeros(2, 5, 7)
    one[0, 2, 3] = 1
    assert boxes_from_masks(one).tolist() == [[3, 2, 4, 3], [0, 0, 0, 0]]
    assert boxes_from_masks(one[:0]).shape == (0, 4)


def test_what_is_left_of_an_instance_decides_whether_it_stays():
    sample = scene(1)
    sizes = sample["masks"].sum((1, 2))
    limit = int(sizes.sort().values[1])
    kept = sanitize(sample, limit)
    assert kept["labels"].tolist() == sample["labels"][sizes >= limit].tolist() and len(kept["labels"]) == 3
    nothing = augment(sample, [RandomScaleCrop((48, 64))], min_pixels=10**6)
    assert nothing["masks"].shape == (0, 48, 64) and nothing["boxes"].shape == (0, 4)
    again = augment(nothing, [RandomScaleCrop((20, 30), class_balanced_crops=1.0), RandomHorizontalFlip(1.0)])
    assert again["masks"].shape == (0, 20, 30) and again["image"].shape == (3, 20, 30)


@pytest.mark.parametrize("fit", [False, True])
def test_boxes_without_masks_follow_the_crop(fit):
    """Boxes alone move as the boxes of the masks do, to a pixel of the result."""
    for seed in range(20):
        whole = scene(seed)
        alone = {key: value for key, value in whole.items() if key != "masks"}
        crop = RandomScaleCrop((40, 56), (0.5, 3.0), large_scale_jitter=fit)
        torch.manual_seed(seed)
        expected = crop(whole)
        torch.manual_seed(seed)
        moved = augment(alone, [crop])
        boxes = boxes_from_masks(expected["masks"])
        there = expected["masks"].sum((1, 2)) > 30
        kept = dict(zip(moved["labels"].tolist(), moved["boxes"], strict=True))
        for label, box in zip(whole["labels"][there].tolist(), boxes[there], strict=True):
            # an instance that others hide has a box of its own visible part only after the crop
            assert (kept[label][:2] <= box[:2] + 2).all() and (kept[label][2:] >= box[2:] - 2).all()


def test_large_scale_jitter_fits_the_image_into_the_crop():
    image = tv_tensors.Image(torch.zeros(3, 100, 200, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.zeros(100, 200, dtype=torch.uint8))
    for size, expected in (((50, 50), (25, 50)), ((400, 400), (200, 400))):
        _, labels = RandomScaleCrop(size, (1.0, 1.0), large_scale_jitter=True)(image, mask)
        inside = (labels == 0).nonzero()
        assert tuple((inside.amax(0) - inside.amin(0) + 1).tolist()) == expected


def test_pasted_objects_bring_mask_box_and_label_and_cover_what_was_there():
    torch.manual_seed(0)
    before = [scene(number) for number in range(4)]
    pasted = 0
    for _ in range(10):
        after = CopyPaste(p=1.0, min_pixels=1)(before)
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            partner = (number + 1) % 4
            assert (new["masks"].sum(0) <= 1).all()  # nothing shows twice
            torch.testing.assert_close(new["boxes"].as_subclass(torch.Tensor), boxes_from_masks(new["masks"]))
            red, green = new["image"][0], new["image"][1]
            for mask, label in zip(new["masks"].bool(), new["labels"].tolist(), strict=True):
                assert (green[mask] == label).all() and len(red[mask].unique()) == 1
                pasted += int(red[mask][0] == partner)
            outside = ~new["masks"].bool().any(0)
            assert (red[outside] == number).all()  # only objects were pasted, no ground
            own = [int(red[mask.bool()][0]) == number for mask in new["masks"]]
            assert sum(own) == len(old["labels"])
    assert 50 < pasted < 110  # half of 4 objects, 4 images, 10 times
    assert torch.equal(before[0]["image"], scene(0)["image"])  # the samples themselves are as before


def test_what_is_hidden_by_a_pasted_object_is_gone():
    image, dot = np.zeros((9, 9, 3), np.uint8), np.zeros((1, 9, 9), bool)
    dot[0, 4, 4] = True
    small, large = instance_sample(image, dot, [1]), instance_sample(image, ~dot | dot, [2])
    labels = {tuple(CopyPaste(1.0, min_pixels=1)([small, large])[0]["labels"].tolist()) for _ in range(20)}
    assert labels == {(1,), (2,)}


def test_copy_paste_leaves_crowds_where_they_are_and_single_images_alone():
    samples = [scene(number) | {"iscrowd": torch.tensor([True] * 4)} for number in range(2)]
    for old, new in zip(samples, CopyPaste(1.0)(samples), strict=True):
        assert torch.equal(old["image"], new["image"])
    samples[1]["iscrowd"] = torch.tensor([False, True, True, True])
    torch.manual_seed(0)
    for _ in range(8):
        new = CopyPaste(1.0)(samples)[0]
        assert len(new["iscrowd"]) == len(new["labels"])
        assert not new["iscrowd"][
            new["image"][0, new["masks"].bool().any(0)].numel() and slice(4, None)
        ].any()
    assert CopyPaste(1.0)(samples[:1])[0] is samples[0]
    assert CopyPaste(0.0)(samples)[0] is samples[0]


def test_copy_paste_says_what_it_needs():
    with pytest.raises(UserError, match="images of one size"):
        CopyPaste(1.0)([scene(0), scene(1, (50, 64))])
    with pytest.raises(UserError, match="needs samples with masks"):
        CopyPaste(1.0)([{key: value for key, value in scene(0).items() if key != "masks"}] * 2)
    with pytest.raises(UserError, match="p of CopyPaste"):
        CopyPaste(1.1)


def test_shapes_give_the_instances_of_their_mask():
    data = Shapes(batch_size=1, crop_size=(8, 8))
    for which in data.samples("val")[:5]:
        image, mask = data.read(which)
        sample = data.read_instances(which)
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), image)
        np.testing.assert_array_equal((sample["masks"] * sample["labels"][:, None, None]).sum(0), mask)


def test_coco_gives_overlapping_things_and_crowds(tmp_path):
    import json

    from PIL import Image

    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (10, 8)).save(tmp_path / "train2017" / "1.jpg")
    square = [[0, 0, 4, 0, 4, 4, 0, 4]]
    entries = [
        {
            "image_id": 1,
            "category_id": 90,
            "iscrowd": 0,
            "area": 15.5,
            "bbox": [0.25, 0, 3.5, 4],
            "segmentation": square,
        },
        {
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "area": 16,
            "bbox": [0, 0, 4, 4],
            "segmentation": square,
        },
        {
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 1,
            "area": 8,
            "bbox": [9, 0, 1, 8],
            "segmentation": {"counts": [72, 8]},
        },
    ]
    listing = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": entries,
        "categories": [{"id": n, "name": name} for n, name in zip(THING_IDS, THINGS, strict=True)],
    }
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(listing))
    data = COCO(str(tmp_path), batch_size=1, crop_size=(8, 8))
    sample = data.read_instances(data.samples("train")[0])
    assert sample["labels"].tolist() == [80, 1, 1] and sample["iscrowd"].tolist() == [False, False, True]
    assert sample["masks"].sum((1, 2)).tolist() == [16, 16, 8]
    assert sample["boxes"].tolist() == [[0.25, 0, 3.75, 4], [0, 0, 4, 4], [9, 0, 10, 8]]
    assert sample["area"].tolist() == [15.5, 16, 8]
