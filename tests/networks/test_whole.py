"""Weights of whole networks in the layouts of torchvision, smp and mmsegmentation: the logits are theirs."""

from collections import OrderedDict

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchvision.models import resnet50, segmentation

from lightning_seg.errors import UserError
from lightning_seg.networks.adapters import Adapter
from lightning_seg.networks.deeplab import DeepLabV3, DeepLabV3Plus
from lightning_seg.networks.fcn import FCN
from lightning_seg.networks.fpn import FPN
from lightning_seg.networks.linknet import LinkNet
from lightning_seg.networks.pan import PAN
from lightning_seg.networks.pspnet import PSPNet
from lightning_seg.networks.unet import UNet
from lightning_seg.networks.unetplusplus import UNetPlusPlus
from lightning_seg.networks.upernet import UPerNet

IMAGES = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def made(network):
    """Give BatchNorm statistics that do something."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network.eval()


class PyramidHead(nn.Module):
    """mmsegmentation's PSPHead, after its published code: ConvModules of conv, bn and ReLU."""

    def __init__(self, classes):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(s), block(2048, 512, 1)) for s in (1, 2, 3, 6)
        )
        self.bottleneck = block(2048 + 4 * 512, 512, 3)
        self.conv_seg = nn.Conv2d(512, classes, 1)

    def forward(self, x):
        pooled = [
            nn.functional.interpolate(pool(x), x.shape[2:], mode="bilinear") for pool in self.psp_modules
        ]
        return self.conv_seg(self.bottleneck(torch.cat([x, *pooled], 1)))


def block(wide, narrow, kernel):
    conv = nn.Conv2d(wide, narrow, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(narrow), activate=nn.ReLU()))


class MMSegmentation(nn.Module):
    """Its EncoderDecoder of ResNetV1c, whose first convolution is three, and PSPHead, at output stride 8."""

    def __init__(self, classes):
        super().__init__()
        self.backbone = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        widths = ((3, 32, 2), (32, 32, 1), (32, 64, 1))
        stem = [
            layer
            for i, o, s in widths
            for layer in (nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        ]
        self.backbone.stem = nn.Sequential(*stem)
        del self.backbone.conv1, self.backbone.bn1, self.backbone.fc
        self.decode_head = PyramidHead(classes)

    def forward(self, x):
        body = self.backbone
        x = body.maxpool(body.stem(x))
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
        return self.decode_head(x)


def test_deeplab_of_torchvision(tmp_path):
    options = {"weights": None, "weights_backbone": None, "aux_loss": True}
    theirs = made(segmentation.deeplabv3_resnet50(num_classes=5, **options))
    file = tmp_path / "deeplab.pth"
    torch.save(theirs.state_dict(), file)
    ours = DeepLabV3(5, "resnet50", str(file), output_stride=8, auxiliary=True)
    said = ours.load_weights()
    assert "torchvision's DeepLabV3" in said and "head 2 tensors, auxiliary 8 tensors" in said
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(IMAGES), theirs(ours.backbone.normalize(IMAGES))["out"])
    other = DeepLabV3(7, "resnet50", str(file), output_stride=8)
    assert "head at random" in other.load_weights() and "left out: auxiliary" in other.load_weights()
    with pytest.raises(UserError, match="output stride of 8, and this one has 16: set output_stride: 8"):
        DeepLabV3(5, "resnet50", str(file)).load_weights()
    with pytest.raises(UserError, match=r"torchvision, which has none like UNet.*#backbone"):
        UNet(5, "resnet50", str(file)).load_weights()
    assert "left out" in UNet(5, "resnet50", f"{file}#backbone").load_weights()


def test_fcn_of_torchvision_here_and_in_its_own_class_for_other_classes(tmp_path):
    options = {"weights": None, "weights_backbone": None}
    theirs = made(segmentation.fcn_resnet50(num_classes=5, **options))
    file = tmp_path / "fcn.pth"
    torch.save({"model": theirs.state_dict()}, file)
    ours = FCN(5, "resnet50", str(file))
    ours.load_weights()
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(IMAGES), theirs(ours.backbone.normalize(IMAGES))["out"])
    small = made(segmentation.lraspp_mobilenet_v3_large(num_classes=5, **options))
    torch.save(small.state_dict(), file)
    adapter = Adapter(7, segmentation.lraspp_mobilenet_v3_large(num_classes=7, **options), weights=str(file))
    assert "low_classifier.weight at random, as it is of 5 classes there" in adapter.load_weights()


@pytest.mark.parametrize(("theirs", "ours"), [("Unet", UNet), ("UnetPlusPlus", UNetPlusPlus), ("Linknet", LinkNet), ("FPN", FPN), ("UPerNet", UPerNet)])  # fmt: skip
def test_networks_of_smp(theirs, ours, tmp_path):
    network = made(getattr(smp, theirs)("resnet18", encoder_weights=None, classes=5))
    file = tmp_path / "smp.pth"
    torch.save({"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}, file)
    here = ours(5, "resnet18", str(file)).eval()
    assert f"smp's {ours.__name__}" in here.load_weights()
    network.segmentation_head[1] = nn.Identity()  # it enlarges with align_corners
    with torch.inference_mode():
        x = here.backbone.normalize(IMAGES)
        torch.testing.assert_close(here.head(here.decode(x, here.backbone(x))), network(x))


def test_pspnet_of_mmsegmentation(tmp_path):
    theirs = made(MMSegmentation(5))
    file = tmp_path / "psp.pth"
    torch.save({"state_dict": theirs.state_dict(), "meta": {"epoch": 1}}, file)
    ours = PSPNet(5, "resnet50c", str(file)).eval()
    assert "mmsegmentation's PSPNet" in ours.load_weights()
    with torch.inference_mode():
        x = ours.backbone.normalize(IMAGES)
        torch.testing.assert_close(ours.head(ours.decode(x, ours.backbone(x))), theirs(x))
    for network in (DeepLabV3(5, "resnet50c", str(file)), FCN(5, "resnet50c", str(file))):
        with pytest.raises(
            UserError, match=f"layout of mmsegmentation, whose {type(network).__name__} differs: its"
        ):
            network.load_weights()


@pytest.mark.parametrize("network", [PAN, DeepLabV3Plus, PSPNet])
def test_what_is_another_architecture_in_smp_is_refused_and_says_how(network, tmp_path):
    state = smp.Unet("resnet18", encoder_weights=None, classes=5).state_dict()
    file = tmp_path / "smp.pth"
    torch.save(state, file)
    with pytest.raises(
        UserError, match=f"smp, whose {network.__name__} differs: it.*smp.pth#encoder; or take that"
    ):
        network(5, "resnet18", str(file)).load_weights()
    with pytest.raises(UserError, match=r"\(smp\) is not the FPN of these settings: .*missing"):
        FPN(5, "resnet18", str(file)).load_weights()
