"""Upsampling operators against values worked out by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.upsampling import (
    BedOfNails,
    Bicubic,
    Bilinear,
    InterpolationConvolution,
    MaxUnpooling,
    Nearest,
    PixelShuffle,
    TransposedConvolution,
)

X = torch.tensor([[[[1.0, 2], [3, 4]]]])
BILINEAR = [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]]
BICUBIC = [[0.68, 1.02, 1.56, 1.89], [1.35, 1.68, 2.23, 2.56]]
BICUBIC += [[2.44, 2.77, 3.32, 3.65], [3.11, 3.44, 3.98, 4.32]]
GOLDEN = [
    (BedOfNails, [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]),
    (Nearest, [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]),
    (Bilinear, BILINEAR),
    (partial(TransposedConvolution, bilinear=True), BILINEAR),
    (Bicubic, BICUBIC),
]
OPERATORS = [*(build for build, _ in GOLDEN), TransposedConvolution, PixelShuffle, InterpolationConvolution]


@torch.no_grad()
@pytest.mark.parametrize(("build", "expected"), GOLDEN)
def test_golden_values(build, expected):
    torch.testing.assert_close(build(1, 1)(X)[0, 0], torch.tensor(expected) * 1.0, rtol=0, atol=0.0051)


@pytest.mark.parametrize("scale", [2, 3, 4, 32])
@pytest.mark.parametrize("build", OPERATORS)
def test_every_operator_takes_channels_and_scale(build, scale):
    operator = build(3, 5, scale)
    x = torch.randn(2, 3, 4, 6, requires_grad=True)
    y = operator(x)
    assert y.shape == (2, 5, 4 * scale, 6 * scale)
    y.square().sum().backward()
    assert all(p.grad is not None for p in [x, *operator.parameters()])
    if build in (BedOfNails, Nearest, Bilinear, Bicubic):
        assert list(build(3, 3, scale).parameters()) == []


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4, 8, 32])
def test_bilinear_transposed_convolution_begins_as_interpolation(scale):
    x = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(
        TransposedConvolution(3, 3, scale, bilinear=True)(x),
        F.interpolate(x, scale_factor=scale, mode="bilinear"),
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_max_unpooling_remembers_where_the_maximum_was():
    before = torch.tensor([[[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]]])
    expected = torch.tensor([[[[0.0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]]])
    torch.testing.assert_close(MaxUnpooling(1, 1)(X, before), expected)
    assert MaxUnpooling(3, 1)(torch.randn(1, 3, 2, 2), before).ne(0).equal(expected.ne(0))


def test_max_unpooling_is_refused_where_there_is_nothing_to_undo():
    with pytest.raises(UserError, match="factor of 8"):
        MaxUnpooling(3, 3, 8)
    with pytest.raises(UserError, match="before a pooling"):
        MaxUnpooling(1, 1)(X)


@torch.no_grad()
def test_sum_pooling_is_average_pooling_without_its_divisor():
    """How an experiment asks for sum pooling: torch.nn.AvgPool2d with divisor_override 1."""
    pooling = nn.AvgPool2d(2, divisor_override=1)
    assert pooling(torch.arange(16.0).view(1, 1, 4, 4)).flatten().tolist() == [10, 18, 42, 50]
