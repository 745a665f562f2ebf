"""Windows, scales and mirror images: what they make of a network's logits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import MultiScale, SlidingWindow, UniformWindow, entropy
from lightning_seg.inference.predictor import as_image
from lightning_seg.networks.fcn import FCN
from lightning_seg.networks.unet import ClassicUNet


def by_pixel(images):
    """A network that looks at single pixels."""
    return torch.cat([images.float() * factor for factor in (0.5, -1.0)], dim=1)


def noise(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    size=st.tuples(st.integers(32, 100), st.integers(32, 100)),
    overlap=st.floats(0, 0.9),
    columns=st.integers(1, 250),
)
def test_windows_cover_every_pixel_of_any_image(height, width, size, overlap, columns):
    images = noise(2, 3, height, width)
    window = SlidingWindow(size, overlap)
    torch.testing.assert_close(window(by_pixel, images), by_pixel(images), rtol=1e-5, atol=1e-4)
    read = []

    def part(top, left, bottom, right):
        read.append((bottom - top, right - left))
        return images[..., top:bottom, left:right]

    whole = torch.full((2, 6, height, width), torch.nan)
    for top, left, logits in window.sweep(by_pixel, part, (height, width), columns):
        whole[..., top : top + logits.shape[-2], left : left + logits.shape[-1]] = logits
    torch.testing.assert_close(whole, by_pixel(images), rtol=1e-5, atol=1e-4)
    assert max(h for h, _ in read) <= size[0] and max(w for _, w in read) <= size[1]


def test_blending_is_gaussian():
    """Each window answers with its own number; the mixture is computed again with loops."""
    size, image = (64, 96), (100, 150)
    tops, lefts = (
        (0, 32, 64),
        (0, 32, 64),
    )  # 64 px tall at half overlap; 96 wide: steps of 48 are 32 on the grid
    answers = iter(range(100))

    def number(part):
        return torch.full((1, 1, *part.shape[-2:]), float(next(answers)))

    found = SlidingWindow(size, overlap=0.5)(number, noise(1, 3, *image))[0, 0].double().numpy()
    total, weight = np.zeros(image), np.zeros(image)
    for i, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        for y in range(top, min(top + 64, 100)):
            for x in range(left, min(left + 96, 150)):
                dy, dx = (y - top - 31.5) / 8, (x - left - 47.5) / 12
                w = np.exp(-(dy**2 + dx**2) / 2)
                total[y, x] += w * i
                weight[y, x] += w
    np.testing.assert_allclose(found, total / weight, atol=1e-4)


@pytest.mark.parametrize("width", [420, 416])
def test_windows_equal_the_whole_image_where_the_receptive_field_allows(width):
    """Tolerance: 1e-5 of the largest logit. The radius of this network's receptive field is below 128 pixels."""
    torch.manual_seed(0)
    network = ClassicUNet(3, channels=2).eval()
    images = noise(1, 3, 450, width)
    with torch.inference_mode():
        whole = network(images)
        exact = SlidingWindow((384, 384), overlap=2 / 3, margin=128)(network, images)
        blended = SlidingWindow((384, 384), overlap=2 / 3)(network, images)
    scale = whole.abs().max()
    assert (exact - whole).abs().max() < 1e-5 * scale
    assert (blended - whole).abs().max() > 1e-4 * scale  # without the margin, edges of windows are seen


def test_an_image_that_fits_is_taken_whole():
    torch.manual_seed(0)
    network = FCN(4, "test_resnet", weights=False).eval()
    images = noise(2, 3, 61, 47)
    with torch.inference_mode():
        torch.testing.assert_close(SlidingWindow((64, 64))(network, images), network(images))


def test_scales_and_mirror_images_are_averaged_as_probabilities():
    torch.manual_seed(0)
    network = FCN(4, "test_resnet", weights=False).eval()
    images = noise(1, 3, 50, 70)
    with torch.inference_mode():
        found = MultiScale((0.5, 1.0), flip=True)(network, images)
        total = torch.zeros(1, 4, 50, 70)
        for size in ((25, 35), (50, 70)):
            for flip in (False, True):
                x = F.interpolate(images.float(), size, mode="bilinear")
                logits = network(x.flip(3)).flip(3) if flip else network(x)
                total += F.interpolate(logits, (50, 70), mode="bilinear").softmax(1)
    torch.testing.assert_close(found.softmax(1), total / 4)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(1, 50, 70))  # logarithms of probabilities


def test_augmentation_around_windows():
    images = noise(1, 3, 80, 100)
    windows = MultiScale((1.0, 1.5), inference=SlidingWindow((64, 64)))(by_pixel, images)
    whole = MultiScale((1.0, 1.5))(by_pixel, images)
    torch.testing.assert_close(windows.softmax(1), whole.softmax(1), rtol=1e-3, atol=1e-4)


def test_entropy_is_that_of_scipy():
    logits = torch.randn(1, 5, 7, 9, generator=torch.Generator().manual_seed(0)) * 4
    expected = scipy_entropy(logits.softmax(1).numpy(), base=5, axis=1)
    np.testing.assert_allclose(entropy(logits).numpy(), expected, atol=1e-5)
    assert entropy(torch.tensor([1e4, 0.0]).view(1, 2, 1, 1)).item() == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SlidingWindow((16, 64)), "size must be"),
        (lambda: SlidingWindow(overlap=1.0), "overlap must be"),
        (lambda: SlidingWindow((64, 64), overlap=0.5, margin=17), "at most 16"),
        (lambda: MultiScale(scales=()), "scales must be"),
        (lambda: as_image(np.zeros((4, 4, 3))), "float64"),
        (lambda: as_image(np.zeros((3, 8, 8), np.uint8)), r"\(3, 8, 8\)"),
        (lambda: as_image(5), "int"),
    ],
)
def test_wrong_arguments(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_the_protocol_text_tells_inferences_apart():
    texts = {
        repr(i) for i in (SlidingWindow(), SlidingWindow(overlap=0.25), MultiScale(), MultiScale(flip=False))
    }
    assert len(texts) == 4 and "SlidingWindow(size=(512, 512), overlap=0.5, margin=0)" in texts


@pytest.mark.parametrize(("size", "window", "stride"), [
    ((30, 41), (16, 16), (10, 7)), ((16, 20), (16, 16), (16, 16)), ((9, 40), (16, 12), (5, 12)),
])  # fmt: skip
def test_uniform_windows_are_those_of_mmsegmentation(size, window, stride):
    """Every window counts alike, and the last is moved back into the image."""
    weight = torch.randn(3, 3)

    def predict(images):  # depends on the window: what is added grows from its left to its right
        ramp = torch.arange(images.shape[-1]).float()
        return torch.einsum("oc,bchw->bohw", weight, images.float()) + ramp

    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    expected, counts = torch.zeros(2, 3, *size), torch.zeros(size)
    rows, columns = (max(n - w + s - 1, 0) // s + 1 for n, w, s in zip(size, window, stride, strict=True))
    for i in range(rows):
        for j in range(columns):
            bottom, right = min(i * stride[0] + window[0], size[0]), min(j * stride[1] + window[1], size[1])
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            expected[..., top:bottom, left:right] += predict(images[..., top:bottom, left:right])
            counts[top:bottom, left:right] += 1
    found = UniformWindow(window, stride)(predict, images)
    torch.testing.assert_close(found, expected / counts, rtol=1e-5, atol=1e-3)


def test_uniform_windows_see_the_resized_image_and_answer_for_the_whole():
    seen = []

    def predict(images):
        seen.append(tuple(images.shape[-2:]))
        return images.float()

    logits = UniformWindow((32, 32), (16, 16), shorter_side=32)(predict, torch.full((1, 3, 64, 96), 7.0))
    assert set(seen) == {(32, 32)} and len(seen) == 2
    assert logits.shape == (1, 3, 64, 96) and torch.allclose(logits, torch.tensor(7.0))
    with pytest.raises(UserError, match="leave pixels out"):
        UniformWindow((32, 32), (40, 32))
