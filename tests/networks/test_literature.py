"""Our networks against independent implementations and published sizes."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from lightning_seg.errors import UserError
from lightning_seg.networks.deeplab import DeepLabLargeFOV, DeepLabV3, DeepLabV3Plus
from lightning_seg.networks.fcn import FCN, FCN8s, FCN32s
from lightning_seg.networks.pspnet import PSPNet
from lightning_seg.networks.segnet import SegNet, SegNetBasic
from lightning_seg.networks.unet import ClassicUNet


def copy_torchvision(network, reference):
    """Copy a torchvision segmentation model's weights into ours: ResNets share names, heads share their order."""
    network.backbone.net.load_state_dict(reference.backbone.state_dict())
    pairs = [(nn.ModuleList([network.decoder, network.head]), reference.classifier)]
    if network.auxiliary is not None:
        pairs.append((network.auxiliary, reference.aux_classifier))
    for ours, theirs in pairs:
        state = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
        ours.load_state_dict(dict(state))


def randomise(module):
    """Give BatchNorm layers statistics of their own, so that a wrong mapping shows."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias.data, norm.running_mean):
                nn.init.normal_(tensor, std=0.1)
    return module


@torch.no_grad()
@pytest.mark.parametrize(
    ("build", "reference", "arguments"),
    [
        (FCN, segmentation.fcn_resnet50, {}),
        (DeepLabV3, segmentation.deeplabv3_resnet50, {"output_stride": 8}),
    ],
)
def test_logits_equal_torchvision(build, reference, arguments):
    torch.manual_seed(0)
    theirs = reference(weights=None, weights_backbone=None, aux_loss=True, num_classes=21)
    randomise(theirs).double().eval()  # logits of random weights are large: compare without rounding
    ours = build(21, "resnet50", weights=False, auxiliary=True, **arguments).double().eval()
    copy_torchvision(ours, theirs)
    images = torch.randint(0, 256, (1, 3, 64, 72), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = theirs((images.double() / 255 - mean) / std)
    assert expected["out"].std() > 0.1
    torch.testing.assert_close(ours(images), expected["out"], rtol=0, atol=1e-4)
    # The auxiliary logits show in training only; compare them with the layers in evaluation mode.
    ours.training = True
    torch.testing.assert_close(ours(images)[1], expected["aux"], rtol=0, atol=1e-4)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("build", "arguments", "expected"),
    [
        # torchvision publishes 35.3, 54.3, 42.0 and 61.0 M for 21 classes, auxiliary head included.
        (FCN, {"backbone": "resnet50", "auxiliary": True}, 35_322_218),
        (FCN, {"backbone": "resnet101", "auxiliary": True}, 54_314_346),
        (DeepLabV3, {"backbone": "resnet50", "auxiliary": True}, 42_004_074),
        (DeepLabV3, {"backbone": "resnet101", "auxiliary": True}, 60_996_202),
    ],
)
def test_sizes_equal_torchvision(build, arguments, expected):
    with torch.device("meta"):
        assert count(build(21, weights=False, **arguments)) == expected


@pytest.mark.parametrize(
    ("build", "arguments", "millions"),
    [
        (FCN32s, {"backbone": "vgg16"}, 134.3),
        (FCN8s, {"backbone": "vgg16"}, 134.3),
        (SegNet, {"backbone": "vgg16_bn"}, 29.4),
        (SegNetBasic, {}, 1.42),
        (ClassicUNet, {"backbone": None}, 31.0),
        (DeepLabLargeFOV, {"backbone": "vgg16"}, 20.5),
        (DeepLabV3Plus, {"backbone": "resnet50"}, 26.7),
        (DeepLabV3Plus, {"backbone": "resnet101"}, 45.7),
        (PSPNet, {"backbone": "resnet50", "auxiliary": True}, 49.0),
    ],
)
def test_sizes_agree_with_the_literature(build, arguments, millions):
    with torch.device("meta"):
        own = build in (ClassicUNet, SegNetBasic)
        network = build(21) if own else build(21, weights=False, **arguments)
    assert count(network) / 1e6 == pytest.approx(millions, rel=0.005)


def test_training_gives_auxiliary_logits_with_a_gradient():
    network = PSPNet(5, "test_resnet", weights=False, auxiliary=True, decoder_channels=16)
    images = torch.zeros(1, 3, 65, 70)
    logits, auxiliary = network.train()(images)
    assert logits.shape == auxiliary.shape == (1, 5, 65, 70)
    (logits.sum() + auxiliary.sum()).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network.eval()(images).shape == (1, 5, 65, 70)


def test_multigrid_dilates_the_blocks_of_the_last_stage():
    """DeepLabV3 at output stride 16 with unit rates 1, 2, 4: the three blocks have 2, 4, 8."""
    with torch.device("meta"):
        network = DeepLabV3(5, "resnet50", weights=False, multigrid=(1, 2, 4))
        features = network.backbone(torch.empty(1, 3, 64, 64))
    assert [block.conv2.dilation for block in network.backbone.net.layer4] == [(2, 2), (4, 4), (8, 8)]
    assert features[-1].shape[-2:] == (4, 4)
    with pytest.raises(UserError, match="three for resnet50"):
        DeepLabV3(5, "resnet50", weights=False, multigrid=(1, 2))
