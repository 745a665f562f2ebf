"""The dense CRF against its definition, against the authors' code, and the lattice against exact filtering."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_seg.errors import UserError
from lightning_seg.postprocess.crf import DenseCRF, PydenseCRF
from lightning_seg.postprocess.filtering import Exact, Lattice

from .problem import CRF_SETTINGS, problem

# Rows of the image, class after class, settings after settings.
STORED = Path(__file__).parent / "pydensecrf2.txt"
SMALL = {"seed": 1, "classes": 3, "height": 20, "width": 24, "noise": 3}


def stored(number):
    """Read the probabilities (C, H, W) that pydensecrf2 gave with some settings, to four digits."""
    shape = len(CRF_SETTINGS), SMALL["classes"], SMALL["height"], SMALL["width"]
    return np.loadtxt(STORED, dtype=np.float32).reshape(shape)[number]


def by_hand(probabilities, image, iterations, wg, sg, wb, sp, sc):
    """Mean field as in the paper's algorithm 1, one pair of pixels after the other."""
    classes, height, width = probabilities.shape
    place = [(x, y) for y in range(height) for x in range(width)]
    color = image.reshape(-1, 3).astype(float)
    n = len(place)
    kernels = np.zeros((2, n, n))
    for i in range(n):
        for j in range(n):
            d2 = (place[i][0] - place[j][0]) ** 2 + (place[i][1] - place[j][1]) ** 2
            kernels[0, i, j] = np.exp(-d2 / (2 * sg**2))
            kernels[1, i, j] = np.exp(-d2 / (2 * sp**2) - ((color[i] - color[j]) ** 2).sum() / (2 * sc**2))
    for k, weight in enumerate((wg, wb)):  # symmetric normalisation
        root = np.sqrt(kernels[k].sum(1))
        kernels[k] *= weight / np.outer(root, root)
    unary = -np.log(probabilities.reshape(classes, n).astype(float))
    q = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(iterations):
        # the Potts model: every other label j is held against label i
        penalty = np.stack(
            [sum(q[j] @ kernels.sum(0) for j in range(classes) if j != i) for i in range(classes)]
        )
        q = np.exp(-unary - penalty)
        q /= q.sum(0)
    return q.reshape(probabilities.shape)


def test_exact_mean_field_equals_its_definition():
    probabilities, image, _ = problem(classes=3, height=7, width=8)
    wanted = by_hand(probabilities, image, 3, 1.5, 2, 4, 9, 25)
    found = DenseCRF(3, 1.5, 2, 4, 9, 25, exact=True)(probabilities, image)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert np.abs(found - probabilities).max() > 0.2


@pytest.mark.parametrize("settings", CRF_SETTINGS)
def test_lattice_comes_near_the_exact_kernels(settings):
    probabilities, image, truth = problem(noise=2)
    exact = DenseCRF(exact=True, **settings)(probabilities, image)
    fast = DenseCRF(**settings)(probabilities, image)
    assert (fast.argmax(0) == exact.argmax(0)).mean() > 0.99
    before, after = (probabilities.argmax(0) == truth).mean(), (fast.argmax(0) == truth).mean()
    assert after > before + 0.2
    assert fast.dtype == np.float32 and fast.sum(0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("number", range(len(CRF_SETTINGS)))
def test_equals_what_pydensecrf2_gave(number):
    probabilities, image, _ = problem(**SMALL)
    wanted = stored(number)
    found = DenseCRF(**CRF_SETTINGS[number])(probabilities, image)
    assert np.abs(found - wanted).max() < 2e-3  # which is stored to four digits
    assert (found.argmax(0) == wanted.argmax(0)).all()
    assert (wanted.argmax(0) != probabilities.argmax(0)).mean() > 0.1


def test_equals_pydensecrf2():
    pytest.importorskip("pydensecrf", reason="uv pip install 'lightning-seg[crf]'")
    for number, settings in enumerate(CRF_SETTINGS):
        probabilities, image, _ = problem(**SMALL)
        assert np.abs(PydenseCRF(**settings)(probabilities, image) - stored(number)).max() < 2e-3
        probabilities, image, _ = problem(2, 5, 64, 81)
        last = np.moveaxis(np.moveaxis(probabilities, 0, -1).copy(), -1, 0)  # in another order in memory
        ours, theirs = DenseCRF(**settings)(probabilities, image), PydenseCRF(**settings)(last, image)
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_lattice_filters_like_a_gaussian(dimensions):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(800, dimensions, generator=generator)
    values, ones = torch.rand(800, 3, generator=generator), torch.ones(800, 1)
    exact, lattice = Exact(features, chunk=300), Lattice(features)
    a, b = exact(values) / exact(ones), lattice(values) / lattice(ones)
    direct = torch.exp(-0.5 * (features[:, None] - features[None]).square().sum(-1))
    assert torch.allclose(exact(values), direct @ values, atol=1e-3)
    assert (a - b).abs().mean() < 0.2 * (values - values.mean(0)).abs().mean()
    correlation = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
    assert correlation > (0.99, 0.99, 0.9)[(1, 2, 5).index(dimensions)]
    for kernel in (exact, lattice):
        factors = torch.rand(800, generator=generator)
        wanted = factors[:, None] * kernel(factors[:, None] * values)
        kernel.scale(factors)
        assert torch.allclose(kernel(values), wanted, rtol=1e-4, atol=1e-4)


def test_lattice_spreads_every_point_fully():
    features = 50 * torch.randn(500, 5, generator=torch.Generator().manual_seed(1))
    lattice = Lattice(features)
    assert (lattice.weights > -1e-4).all() and torch.allclose(
        lattice.weights.sum(1), torch.ones(500), atol=1e-4
    )
    assert lattice.index.shape == (500, 6) and lattice.index.max() == lattice.corners - 1


def test_without_kernels_nothing_changes():
    probabilities, image, _ = problem(noise=0.5)
    found = DenseCRF(gaussian_weight=0, bilateral_weight=0)(probabilities, image)
    assert found == pytest.approx(probabilities, abs=1e-4)


def test_input_is_left_alone_and_certainty_is_no_infinity():
    probabilities, image, truth = problem()
    probabilities = np.eye(4, dtype=np.float32)[probabilities.argmax(0)].transpose(2, 0, 1).copy()
    kept, pixels = probabilities.copy(), image.copy()
    found = DenseCRF(2)(probabilities, image)
    assert np.isfinite(found).all()
    assert (probabilities == kept).all() and (image == pixels).all()


def test_wrong_settings():
    with pytest.raises(UserError, match="DenseCRF.color_std must be at least 1; got 0.5"):
        DenseCRF(color_std=0.5)


@pytest.mark.gpu
def test_the_same_on_a_device():
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    probabilities, image, _ = problem(2, 5, 64, 81)
    on = [DenseCRF(device=device)(probabilities, image) for device in ("cpu", "cuda")]
    assert on[0] == pytest.approx(on[1], abs=1e-3)
