"""The table of architectures and backbones is made by trying, and finds all of them."""

from docs.scripts.architectures import architectures, attempt, table
from lightning_seg.networks.fcn import FCN8s
from lightning_seg.networks.segnet import SegNet
from lightning_seg.networks.unet import UNet


def test_every_architecture_that_takes_a_backbone_is_found():
    names = [cls.__name__ for cls in architectures()]
    assert {"FCN8s", "DeepLabV3", "DeepLabV3Plus", "UNet", "SegNet", "PSPNet", "FPN", "UPerNet"} <= set(names)
    assert {"LinkNet", "UNetPlusPlus", "MAnet", "PAN", "SegFormer", "DPT", "DeepLabLargeFOV"} <= set(names)
    assert "Network" not in names
    assert len(names) == len(set(names))


def test_a_cell_is_the_size_or_the_reason():
    cell, reason = attempt(UNet, "test_resnet")
    network = UNet(21, "test_resnet", weights=False)
    assert cell == f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}"
    assert reason == ""
    cell, reason = attempt(SegNet, "test_vit")
    assert cell == "–"
    assert "resnet50" in reason


def test_reasons_are_below_the_table():
    text = table([SegNet, FCN8s], ("test_resnet", "test_vit"))
    lines = text.splitlines()
    assert lines[0] == "| | test_resnet | test_vit |"
    assert lines[2].startswith("| SegNet |") and lines[2].endswith("| – |")
    assert "SegNet on test_vit" in text and "FCN8s on test_vit" not in text
