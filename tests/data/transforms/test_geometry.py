import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lightning_seg.data.transforms.geometry import (
    FILL,
    RandomHorizontalFlip,
    RandomScaleCrop,
    random_by_torch,
)


def coordinates(height, width):
    """An image and mask that know where each pixel was."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, torch.full_like(rows, 7)]).to(torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask(((rows + columns) % 7).to(torch.uint8))


@pytest.mark.parametrize("size", [(40, 30), (200, 150), (7, 300)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0), (3.0, 3.0), (0.05, 0.1)])
def test_crop_has_the_asked_size_and_only_old_labels(size, scale):
    image, mask = coordinates(90, 120)
    for seed in range(6):
        torch.manual_seed(seed)
        out, labels = RandomScaleCrop(size, scale)(image, mask)
        assert out.shape == (3, *size) and labels.shape == size
        assert out.dtype == labels.dtype == torch.uint8
        assert set(labels.unique().tolist()) <= {*range(7), 255}
        padded = labels == 255
        assert (out[:, padded].T == torch.tensor(FILL)).all()  # image and mask are padded in the same place
        assert (out[2, ~padded] == 7).all()


def test_scale_one_is_a_plain_crop():
    image, mask = coordinates(90, 120)
    starts = set()
    for seed in range(40):
        torch.manual_seed(seed)
        out, labels = RandomScaleCrop((32, 48), (1.0, 1.0))(image, mask)
        top, left = int(out[0, 0, 0]), int(out[1, 0, 0])
        assert torch.equal(out, image[:, top : top + 32, left : left + 48])
        assert torch.equal(labels, mask[top : top + 32, left : left + 48])
        starts.add((top, left))
    assert len(starts) > 30


def test_every_position_of_a_crop_is_possible():
    image, mask = coordinates(5, 9)
    tops, lefts = set(), set()
    for seed in range(300):
        torch.manual_seed(seed)
        out, _ = RandomScaleCrop((3, 4), (1.0, 1.0))(image, mask)
        tops.add(int(out[0, 0, 0]))
        lefts.add(int(out[1, 0, 0]))
    assert tops == set(range(3)) and lefts == set(range(6))


def test_scaled_crop_agrees_with_cropping_and_torchvision_resizing():
    image = tv_tensors.Image(torch.rand(3, 120, 160).mul(255).to(torch.uint8))
    mask = tv_tensors.Mask(torch.randint(0, 5, (120, 160), dtype=torch.uint8))
    for scale in (0.7, 1.0, 1.6, 2.0):
        crop = RandomScaleCrop((64, 80), (scale, scale))
        torch.manual_seed(3)
        window = crop.draw((120, 160), random_by_torch()).source
        torch.manual_seed(3)
        out, labels = crop(image, mask)
        expected = F.resize(image[:, *window], [64, 80], antialias=False).int()
        # OpenCV interpolates with 11-bit weights
        assert (out.int() - expected).abs().max() <= 2
        exact = F.resize(mask[None, *window], [64, 80], interpolation=v2.InterpolationMode.NEAREST_EXACT)[0]
        assert (labels != exact).float().mean() < 0.01


def test_image_and_mask_stay_aligned_under_scaling():
    ramp = torch.arange(200).repeat(200, 1).to(torch.uint8)
    image, mask = tv_tensors.Image(ramp.expand(3, -1, -1)), tv_tensors.Mask(ramp)
    for seed in range(20):
        torch.manual_seed(seed)
        out, labels = RandomScaleCrop((64, 64), (0.5, 2.0))(image, mask)
        inside = labels != 255
        offset = out[0][inside].float() - labels[inside].float()
        assert offset.abs().max() <= 1.01 and offset.mean().abs() < 0.3


def test_arrays_are_cut_as_tensors_are():
    image, mask = coordinates(90, 120)
    for seed in range(20):
        for transform in (
            RandomScaleCrop((40, 50), (0.3, 3.0), class_balanced_crops=0.5),
            RandomHorizontalFlip(0.5),
        ):
            torch.manual_seed(seed)
            expected = transform(image, mask)
            torch.manual_seed(seed)
            pixels, labels = transform.arrays(image.permute(1, 2, 0).numpy(), mask.numpy(), random_by_torch())
            if isinstance(transform, RandomScaleCrop):
                np.testing.assert_array_equal(pixels, expected[0].permute(1, 2, 0))
                np.testing.assert_array_equal(labels, expected[1])
            else:
                assert pixels.shape == (90, 120, 3) and sorted(pixels[0, :, 1]) == list(range(120))


def test_what_is_shrunk_far_is_averaged():
    noise = tv_tensors.Image(torch.randint(0, 256, (3, 400, 400), dtype=torch.uint8))
    small = RandomScaleCrop((40, 40), (0.1, 0.1))(noise).float()
    assert (
        small.std() < 12 and abs(small.mean() - 127.5) < 3
    )  # 100 pixels each; one or two would have 50 to 74


def test_flip_mirrors_both_or_none():
    image, mask = coordinates(20, 30)
    out, labels = RandomHorizontalFlip(1.0)(image, mask)
    assert torch.equal(out, image.flip(-1)) and torch.equal(labels, mask.flip(-1))
    out, labels = RandomHorizontalFlip(0.0)(image, mask)
    assert torch.equal(out, image) and torch.equal(labels, mask)
    torch.manual_seed(0)
    flips = [torch.equal(RandomHorizontalFlip(0.3)(image), image.flip(-1)) for _ in range(300)]
    assert 0.2 < np.mean(flips) < 0.4


def test_class_balanced_crops_show_rare_classes_as_often_as_others():
    mask = torch.zeros(200, 300, dtype=torch.uint8)
    mask[120:123, 250:253] = 4  # 9 of 60000 pixels
    mask[:, :20] = 255
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    seen = {0.0: 0, 1.0: 0}
    for share in seen:
        crop = RandomScaleCrop((40, 40), (0.8, 1.25), class_balanced_crops=share)
        for seed in range(60):
            torch.manual_seed(seed)
            _, labels = crop(tv_tensors.Image(image), tv_tensors.Mask(mask))
            seen[share] += bool((labels == 4).any())
    assert seen[0.0] < 12 and 20 < seen[1.0] < 50  # about half: there are two classes
    void = tv_tensors.Mask(torch.full((50, 50), 255, dtype=torch.uint8))
    assert (RandomScaleCrop((20, 20), class_balanced_crops=1.0)(void) == 255).all()


@pytest.mark.parametrize("size", [(20, 20), (80, 30)])
def test_class_balanced_crops_hold_their_pixel(size):
    mask = torch.full((60, 70), 255, dtype=torch.uint8)
    mask[3, 66] = 1
    corners = set()
    for seed in range(40):
        torch.manual_seed(seed)
        labels = RandomScaleCrop(size, (1.0, 1.0), class_balanced_crops=1.0)(tv_tensors.Mask(mask))
        assert (labels == 1).sum() == 1
        corners.add(tuple((labels == 1).nonzero()[0].tolist()))
    assert len(corners) > 3
