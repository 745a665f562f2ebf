"""Every architecture on every backbone that users ask for first."""

import pytest
import torch
from torch import nn

from lightning_seg.networks.deeplab import DeepLabV3, DeepLabV3Plus
from lightning_seg.networks.fcn import FCN8s
from lightning_seg.networks.fpn import FPN
from lightning_seg.networks.linknet import LinkNet
from lightning_seg.networks.pspnet import PSPNet
from lightning_seg.networks.segnet import SegNet
from lightning_seg.networks.unet import UNet
from lightning_seg.networks.unetplusplus import UNetPlusPlus
from lightning_seg.networks.upernet import UPerNet

NETWORKS = [FCN8s, DeepLabV3, DeepLabV3Plus, UNet, SegNet, PSPNet, FPN, UPerNet, LinkNet, UNetPlusPlus]


@pytest.mark.slow
@pytest.mark.usefixtures("few_random_numbers")
@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "vgg16"])
@pytest.mark.parametrize("build", NETWORKS)
def test_trains_on_one_odd_image(build, backbone):
    """Slow: networks of full size."""
    torch.manual_seed(0)
    network = build(21, backbone, weights=False).train()
    logits = network(torch.randint(0, 256, (1, 3, 37, 53), dtype=torch.uint8))
    assert logits.shape == (1, 21, 37, 53)
    nn.functional.cross_entropy(logits, torch.randint(0, 21, (1, 37, 53))).backward()
    # A sum is finite only if all are, and takes a tenth of the time of looking at each.
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.sum().isfinite()] == []
    assert next(network.parameters()).grad.any()
