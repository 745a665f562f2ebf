"""Pyramids around plain vision transformers: in place, as published, and only what is read."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.pyramid import BEiTPyramid, ViTDetPyramid
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.detection.mask_rcnn import MaskRCNN
from lightning_seg.networks.dpt import DPT
from lightning_seg.networks.fcn import FCN16s
from lightning_seg.networks.segnet import SegNet
from lightning_seg.networks.unet import UNet


def vit(patch=16, **settings):
    return TimmBackbone("test_vit", False, backbone_args={"patch_size": patch, "depth": 4}, **settings)


@torch.no_grad()
def test_beits_pyramid_is_feature2pyramid_of_mmsegmentation():
    """Levels 4, 8, 16, 32 of blocks 1 to 4: two, one, no transposed convolutions, a pooling."""
    pyramid = BEiTPyramid(vit()).eval()
    maps = [torch.randn(2, 64, 6, 8) for _ in range(4)]
    fine, half, same, coarse = pyramid(maps, torch.empty(2, 3, 96, 128))
    first, norm, _, second = pyramid.levels[0]
    assert isinstance(norm, nn.BatchNorm2d)
    expected = F.gelu(F.conv_transpose2d(maps[0], first.weight, first.bias, stride=2) / (1 + norm.eps) ** 0.5)
    expected = F.conv_transpose2d(expected, second.weight, second.bias, stride=2)
    torch.testing.assert_close(fine, expected, rtol=1e-4, atol=1e-5)
    (only,) = pyramid.levels[1]
    torch.testing.assert_close(half, F.conv_transpose2d(maps[1], only.weight, only.bias, stride=2))
    assert torch.equal(same, maps[2])
    assert torch.equal(coarse, F.max_pool2d(maps[3], 2))


@torch.no_grad()
def test_vitdets_pyramid_makes_all_levels_of_the_last_map():
    pyramid = ViTDetPyramid(vit(), channels=32).eval()
    x = torch.empty(1, 3, 64, 96)
    maps = [torch.randn(1, 64, 4, 6) for _ in range(4)]
    levels = pyramid(maps, x)
    assert [tuple(level.shape) for level in levels] == [(1, 32, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    for a, b in zip(levels, pyramid(maps[-1:], x), strict=True):
        assert torch.equal(a, b)
    # channels of the published pyramid: half and a quarter of the transformer's after one and two steps
    widths = [
        [m.out_channels for m in level if isinstance(m, nn.ConvTranspose2d)] for level in pyramid.levels
    ]
    assert widths == [[32, 16], [32], [], []]


@torch.no_grad()
@pytest.mark.parametrize("patch", [14, 16])
def test_levels_lie_where_those_of_a_convolutional_network_do(patch):
    """A ramp of pixel positions stays one: each cell of the level of stride 16 holds where it lies."""
    pyramid = BEiTPyramid(vit(patch), levels=(2,))
    count = -(-448 // patch)
    ramp = (torch.arange(count) + 0.5) * patch
    maps = [ramp.expand(1, 64, count, count).contiguous()] * 4
    level = pyramid(maps, torch.empty(1, 3, 448, 448))[2]
    assert level.shape[-2:] == (28, 28)
    expected = (torch.arange(28) + 0.5) * 16
    torch.testing.assert_close(
        level[0, 0, 0, :-1], expected[:-1]
    )  # beyond the last there is nothing to go by


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_only_levels_that_are_read_are_made(output_stride):
    pyramid = BEiTPyramid(vit(), output_stride, levels=(0, 3))
    assert pyramid.strides == [min(s, output_stride) for s in (4, 8, 16, 32)]
    made = [any(True for _ in level.parameters()) for level in pyramid.levels]
    assert made == [True, False, False, output_stride == 8]
    network = FCN16s(3, vit(14))
    assert network.neck.made == (2, 3)
    assert network.describe().endswith("patches of 14; patch_size 14, depth 4; BEiTPyramid to strides 16, 32")


def test_a_network_asks_for_its_pyramid_and_the_user_for_another():
    assert isinstance(UNet(3, vit()).neck, BEiTPyramid)
    assert isinstance(UNet(3, vit(pyramid=ViTDetPyramid)).neck, ViTDetPyramid)
    assert UNet(3, "test_resnet", False).neck is None
    with pytest.raises(UserError, match="undoes the poolings"):
        SegNet(3, vit())
    args = {"img_size": 48, "embed_dim": 24, "depth": 2, "num_heads": 2}
    beit = TimmBackbone("beit_base_patch16_224", False, backbone_args=args, out_indices=1)
    with pytest.raises(UserError, match="multiples of 32"):
        UNet(3, beit)


@torch.no_grad()
@pytest.mark.parametrize(
    ("patch", "factors"), [(8, (2, 1, 0.5, 0.25)), (14, (4, 2, 1, 0.5)), (32, (8, 4, 2, 1))]
)
def test_dpt_takes_patches_of_any_size(patch, factors):
    """Its four maps differ by factors of two, and an image of any size comes back whole."""
    channels = (3, 6, 12, 24)
    network = DPT(3, vit(patch, out_indices=[0, 1, 2, 3]), decoder_channels=8, map_channels=channels).eval()
    found = [block.project_to_out_channel.out_channels for block in network.decoder.reassemble_blocks]
    assert tuple(found) == channels
    seen = []
    for block in network.decoder.reassemble_blocks:
        block.register_forward_hook(lambda _, args, out: seen.append(out.shape[-1] / args[0].shape[-1]))
    assert network(torch.zeros(1, 3, 50, 61, dtype=torch.uint8)).shape == (1, 3, 50, 61)
    assert seen == pytest.approx(factors)


def test_dpt_wants_channels_for_each_of_its_four_maps():
    with pytest.raises(UserError, match=r"four numbers.*\[8, 16\]"):
        DPT(3, vit(out_indices=[0, 1, 2, 3]), map_channels=(8, 16))


def test_mask_rcnn_trains_on_a_plain_transformer():
    torch.manual_seed(0)
    network = MaskRCNN(3, vit(14), channels=16, hidden=16, proposals=(20, 10), samples=8).train()
    assert isinstance(network.neck, ViTDetPyramid)
    masks = torch.zeros(1, 60, 70, dtype=torch.uint8)
    masks[:, 10:40, 20:60] = 1
    target = {"boxes": torch.tensor([[20.0, 10, 60, 40]]), "labels": torch.tensor([1]), "masks": masks}
    losses = network(torch.randint(0, 256, (1, 3, 60, 70), dtype=torch.uint8), [target])
    sum(losses.values()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
