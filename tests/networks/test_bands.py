"""Networks for images of any number of channels: first convolutions, normalization, pretrained weights."""

import pytest
import timm
import torch

from lightning_seg.data.pixels import Measurement, Pixels
from lightning_seg.errors import UserError
from lightning_seg.networks.adapters import Adapter
from lightning_seg.networks.backbones.base import restore_scalings, scalings
from lightning_seg.networks.backbones.inflation import inflated
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.detection.mask_rcnn import MaskRCNN
from lightning_seg.networks.ensemble import Ensemble
from lightning_seg.networks.unet import ClassicUNet, UNet

from .test_networks import NETWORKS

SMALL = {"backbone": "test_resnet", "weights": False}
TIMM = [name for name, (_, given) in NETWORKS.items() if not callable(given.get("backbone"))]


@torch.no_grad()
@pytest.mark.parametrize("name", TIMM)
def test_every_network_takes_four_bands(name):
    build, arguments = NETWORKS[name]
    arguments = {**SMALL, **arguments}
    if arguments["backbone"] is None:
        del arguments["backbone"], arguments["weights"]
    network = build(5, **arguments, in_channels=4).eval()
    assert network.backbone.in_channels == 4
    images = torch.randint(256, (2, 4, 64, 64), dtype=torch.uint8)
    logits = network(images)
    assert logits.shape == (2, 5, 64, 64)
    images[:, 3] = 255 - images[:, 3]
    assert not torch.equal(network(images), logits)  # the fourth band is looked at


def test_mask_rcnn_takes_four_bands():
    network = MaskRCNN(3, **SMALL, channels=16, hidden=16, in_channels=4).eval()
    with torch.no_grad():
        assert len(network(torch.randint(256, (2, 4, 64, 64), dtype=torch.uint8))) == 2


def test_a_backbone_made_for_other_channels_is_refused():
    with pytest.raises(
        UserError, match="images of 4 channels, but its backbone, a TimmBackbone, is made for 3"
    ):
        UNet(2, TimmBackbone("test_resnet", False), in_channels=4)
    assert UNet(2, TimmBackbone("test_resnet", False, in_channels=4), in_channels=4).backbone.in_channels == 4


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_weights_of_three_channels_are_inflated_as_timm_does_and_said(name, channels):
    full = timm.create_model(name, pretrained=False)
    backbone = TimmBackbone(name, False, in_channels=channels)
    said = backbone.set_weights(full.state_dict())
    assert f"inflated from 3 to {channels} channels (repeat)" in said
    first = {"test_resnet": "conv1.0", "test_vit": "patch_embed.proj", "test_convnext": "stem.0"}[name]
    weight = full.get_submodule(first).weight
    own = [p for p in backbone.parameters() if p.ndim == 4 and p.shape[1] == channels][0]
    torch.testing.assert_close(own, timm.models.adapt_input_conv(channels, weight))
    if channels == 1:  # a grey image gives what it gave as RGB
        grey = torch.randn(1, 1, 64, 64)
        three = TimmBackbone(name, False).eval()
        three.set_weights(full.state_dict())
        with torch.no_grad():
            for one, other in zip(backbone.eval()(grey), three(grey.expand(-1, 3, -1, -1)), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_weights_are_inflated_and_resampled_to_another_size():
    full = timm.create_model("test_vit", pretrained=False)
    settings = {"backbone_args": {"img_size": 64}, "out_indices": 1}
    three, four = (TimmBackbone("test_vit", False, in_channels=c, **settings) for c in (3, 4))
    three.set_weights(full.state_dict())
    said = four.set_weights(full.state_dict())
    assert "pos_embed resampled from" in said and "inflated from 3 to 4 channels" in said
    for (name, one), other in zip(three.named_parameters(), four.parameters(), strict=True):
        expected = timm.models.adapt_input_conv(4, one) if one.shape != other.shape else one
        torch.testing.assert_close(other, expected, msg=name)


def test_the_other_rules_are_what_they_say():
    weight = torch.randn(8, 3, 5, 5)
    zeros = inflated(weight, 5, "zeros")
    assert torch.equal(zeros[:, :3], weight) and not zeros[:, 3:].any()
    mean = inflated(weight, 5, "mean")
    torch.testing.assert_close(mean, (weight.sum(1, keepdim=True) / 5).expand(-1, 5, -1, -1))
    backbone = TimmBackbone("test_resnet", False, in_channels=5, inflate="zeros")
    assert "(zeros)" in backbone.set_weights(timm.create_model("test_resnet").state_dict())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.float32])
def test_normalization_is_what_the_settings_say(dtype, layout):
    images = torch.randint(0, 200, (2, 4, 6, 5)).to(dtype).contiguous(memory_format=layout)
    values = images.double()
    measured = Measurement((9.0, 8.0, 7.0, 6.0), (2.0, 3.0, 4.0, 5.0), (10.0,) * 4, (150.0,) * 4)
    std, mean = torch.tensor(measured.std).view(1, 4, 1, 1), torch.tensor(measured.mean).view(1, 4, 1, 1)
    pre = [torch.tensor([(m, m, m, m)]).view(1, 4, 1, 1) for m in (0.5, 0.25)]
    network = ClassicUNet(2, channels=4, in_channels=4)
    network.backbone.mean, network.backbone.std = (0.5,) * 4, (0.25,) * 4
    for pixels, expected in (
        (Pixels((0, 1, 2, 3), normalization="measured"), (values - mean) / std),
        (Pixels((0, 1, 2, 3), (50.0, 150.0)), ((values.clamp(50, 150) - 50) / 100 - pre[0]) / pre[1]),
        (
            Pixels((0, 1, 2, 3), normalization="percentiles"),
            ((values.clamp(10, 150) - 10) / 140 - pre[0]) / pre[1],
        ),
        (Pixels((0, 1, 2, 3), (50.0, 150.0), "measured"), (values.clamp(50, 150) - mean) / std),
    ):
        network.backbone.expect(pixels, measured)
        found = network.backbone.normalize(images)
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5)


def test_a_scaling_survives_and_its_absence_is_told():
    network = ClassicUNet(2, channels=4, in_channels=2)
    pixels = Pixels((0, 1), normalization="measured")
    network.backbone.expect(pixels, Measurement((9.0, 8.0), (2.0, 3.0), (1.0, 1.0), (5.0, 5.0)))
    other = ClassicUNet(2, channels=4, in_channels=2)
    other.backbone.expect(pixels)
    restore_scalings(other, scalings(network))
    assert other.backbone.scaling == network.backbone.scaling
    with pytest.raises(UserError, match="does not tell how its images were normalized"):
        restore_scalings(other, {})


@torch.no_grad()
def test_an_ensemble_normalizes_for_each_member():
    members = [ClassicUNet(2, channels=4, in_channels=4).eval() for _ in range(2)]
    members[1].backbone.mean = (0.1,) * 4
    pixels, images = Pixels((0, 1, 2, 3), (0.0, 4095.0)), torch.randint(4096, (1, 4, 32, 32)).to(torch.uint16)
    ensemble = Ensemble(2, members).eval()
    ensemble.backbone.expect(pixels)
    found = ensemble(images).softmax(1)
    for member in members:
        member.backbone.expect(pixels)
    torch.testing.assert_close(found, torch.stack([m(images).softmax(1) for m in members]).mean(0))


@torch.no_grad()
def test_networks_of_other_libraries_are_made_for_the_bands():
    given = {"encoder_name": "resnet18", "encoder_weights": None}
    network = Adapter(3, "segmentation_models_pytorch.Unet", given, in_channels=5).eval()
    assert network(torch.randint(256, (1, 5, 32, 32), dtype=torch.uint8)).shape == (1, 3, 32, 32)
    with pytest.raises(UserError, match="has in_channels 4, the images of the data 5"):
        Adapter(3, "segmentation_models_pytorch.Unet", {**given, "in_channels": 4}, in_channels=5)
