"""Upsampling operators against values worked out by hand."""

from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.base import Network, resize_logits
from lightning_seg.networks.fcn import FCN8s, FCN16s, FCN32s
from lightning_seg.networks.segnet import SegNetBasic
from lightning_seg.networks.unet import ClassicUNet
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


def test_operators_and_poolings_are_chosen_in_an_experiment():
    """What YAML says reaches the network, through the parser that the command line uses."""
    parser = ArgumentParser()
    parser.add_argument("--network", type=Network)
    config = {
        "class_path": "lightning_seg.networks.segnet.SegNetBasic",
        "init_args": {
            "num_classes": 3,
            "channels": 4,
            "upsampling": {
                "class_path": "lightning_seg.networks.upsampling.InterpolationConvolution",
                "init_args": {"mode": "nearest"},
            },
            "pooling": {"class_path": "torch.nn.AvgPool2d", "init_args": {"divisor_override": 1}},
        },
    }
    network = parser.instantiate(parser.parse_object({"network": config})).network
    assert [type(up) for up in network.decoder.ups] == [InterpolationConvolution] * 4
    assert [up.mode for up in network.decoder.ups] == ["nearest"] * 4
    assert network.backbone.pool.kernel_size == 2
    assert network.backbone.pool.divisor_override == 1


ANY = [*OPERATORS, MaxUnpooling]


@pytest.mark.parametrize("upsampling", ANY)
@pytest.mark.parametrize("build", [SegNetBasic, ClassicUNet])
def test_decoders_of_ours_take_any_operator(build, upsampling):
    network = build(3, channels=4, upsampling=upsampling)
    images = torch.randint(0, 256, (2, 3, 35, 50), dtype=torch.uint8)
    network(images).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("build", [FCN32s, FCN16s, FCN8s])
def test_fcn_takes_any_operator_but_unpooling(build):
    images = torch.randint(0, 256, (2, 3, 35, 50), dtype=torch.uint8)
    for upsampling in OPERATORS:
        network = build(3, "test_resnet", weights=False, upsampling=upsampling)
        assert network(images).shape == (2, 3, 35, 50)
    with pytest.raises(UserError, match="grow by a factor"):
        build(3, "test_resnet", weights=False, upsampling=MaxUnpooling)


@torch.no_grad()
def test_sum_pooling_is_average_pooling_without_its_divisor():
    """How an experiment asks for sum pooling: torch.nn.AvgPool2d with divisor_override 1."""
    pooling = nn.AvgPool2d(2, divisor_override=1)
    assert pooling(torch.arange(16.0).view(1, 1, 4, 4)).flatten().tolist() == [10, 18, 42, 50]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_logits_are_resized_without_loss_of_digits(dtype):
    """And lie channel by channel, as losses and labels read them on a processor."""
    logits = torch.randn(2, 5, 6, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    large = resize_logits(logits, torch.zeros(2, 3, 48, 64))
    assert large.is_contiguous() and large.dtype == torch.promote_types(dtype, torch.float32)
    exact = F.interpolate(logits.double(), (48, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(large.double(), exact, rtol=1e-5, atol=1e-6)
    assert resize_logits(logits, torch.zeros(2, 3, 6, 8)) is logits  # nothing to resize
