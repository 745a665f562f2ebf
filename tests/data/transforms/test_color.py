from random import Random

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from lightning_seg.data.transforms.color import ColorJitter, apply_color, color_matrix
from lightning_seg.data.transforms.geometry import random_by_torch
from lightning_seg.errors import UserError

IMAGE = torch.randint(0, 256, (3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ours(image=IMAGE, **factors):
    mean = image.float().mean((1, 2)).tolist()
    return apply_color(image[None], color_matrix(mean, **factors)[None])[0]


@pytest.mark.parametrize("factor", [0.0, 0.4, 0.9, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_color_matrix_is_torchvisions_formula(name, factor):
    image = IMAGE.float() / 255  # as float: torchvision rounds uint8 down after every step
    expected = getattr(F, f"adjust_{name}")(image, factor) * 255
    torch.testing.assert_close(ours(**{name: factor}), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("hue", [0.0, 1 / 3, -1 / 3])
def test_hue_is_exact_at_thirds_of_the_circle(hue):
    expected = F.adjust_hue(IMAGE.float() / 255, hue) * 255
    torch.testing.assert_close(ours(hue=hue), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("hue", [0.02, -0.05, 0.1, -0.1, 0.3])
def test_the_hue_is_torchvisions_and_the_mean_is_kept(hue):
    image = (IMAGE // 2 + 64).float()  # so that nothing clamps
    out, expected = ours(image, hue=hue), F.adjust_hue(image / 255, hue) * 255
    difference = (hue_of(out) - hue_of(expected) + 0.5) % 1 - 0.5
    assert np.abs(difference).max() < 0.007
    torch.testing.assert_close(out.mean(0), image.mean(0))


def hue_of(image):
    """Hue in turns, where there is color enough to have one."""
    pixels = image.permute(1, 2, 0).numpy()
    vivid = IMAGE.float().std(0).numpy() > 10
    return cv2.cvtColor(pixels / np.float32(255), cv2.COLOR_RGB2HSV)[..., 0][vivid] / 360


def test_factors_compose_in_order():
    image = (IMAGE // 2 + 64).float() / 255  # so that no step clamps
    expected = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, 1.2), 0.8), 0.7) * 255
    out = ours((image * 255).to(torch.uint8), brightness=1.2, contrast=0.8, saturation=0.7)
    torch.testing.assert_close(out, expected, atol=0.05, rtol=0)


def test_jitter_draws_what_torchvision_draws():
    """The factors can be read off a grey image: brightness scales it, contrast moves it about its mean."""
    matrices = torch.stack(
        [ColorJitter(brightness=0.4).draw([0, 0, 0], random_by_torch()) for _ in range(2000)]
    )
    factors = matrices[:, 0, 0]
    assert torch.equal(matrices[:, :, 3], torch.zeros(2000, 3))
    assert 0.6 <= factors.min() < 0.62 and 1.38 < factors.max() <= 1.4
    assert abs(factors.mean() - 1) < 0.02 and abs(factors.var() - 0.8**2 / 12) < 0.005


def test_no_jitter_changes_nothing_and_the_result_is_clamped():
    assert torch.equal(
        apply_color(IMAGE[None], ColorJitter().draw([9, 9, 9], Random(0))[None])[0], IMAGE.float()
    )
    out = apply_color(IMAGE[None], torch.tensor([[[9.0, 0, 0, 0], [0, 1, 0, -300], [0, 0, 1, 0]]]))
    assert out.max() == 255 and out[0, 1].max() == 0


def test_apply_color_takes_one_matrix_per_image_and_keeps_channels_last():
    images = torch.randint(0, 256, (4, 3, 9, 7), dtype=torch.uint8).to(memory_format=torch.channels_last)
    matrices = torch.rand(4, 3, 4) * torch.tensor([0.3, 0.3, 0.3, 20])
    out = apply_color(images, matrices)
    expected = (
        torch.einsum("bij,bjhw->bihw", matrices[:, :, :3], images.float()) + matrices[:, :, 3, None, None]
    )
    torch.testing.assert_close(out, expected.clamp(0, 255))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_senseless_strength_is_refused():
    with pytest.raises(UserError, match="color.hue must be between 0 and 0.5"):
        ColorJitter(hue=0.6)
    with pytest.raises(UserError, match="color.brightness"):
        ColorJitter(brightness=-0.1)
