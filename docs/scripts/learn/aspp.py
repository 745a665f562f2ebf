"""Atrous spatial pyramid pooling: what each branch of DeepLabV3 sees, and how much of that lies inside a crop."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from docs.scripts.learn.common import panels, save, show
from lightning_seg import DeepLabV3
from lightning_seg.plotting.heat import heat

SIDE = 45  # cells of the map: an image of 720 pixels at stride 16
NAMES = ("1x1", "rate 6", "rate 12", "rate 18", "image pooling")


def draw(folder: Path) -> list[str]:
    """Draw the picture; return what the page says of it in numbers."""
    torch.manual_seed(0)
    network = DeepLabV3(6, "test_resnet", False, decoder_channels=16).eval()
    aspp = network.decoder.aspp
    maps = torch.rand(1, network.encoder.channels[-1], SIDE, SIDE)
    figure, axes = panels("ABC DEF", 3.55)
    for one, name, branch in zip(axes, NAMES, aspp.convs, strict=False):
        show(one, _seen(branch, maps), name)
    show(axes[-1], _seen(aspp, maps), "all five joined")
    save(figure, folder, "aspp")
    said = ["crop at stride 16   cells   weights of rate 6, 12, 18 that fall on the map, of 9"]
    for crop in (321, 513, 1025):
        cells = -(-crop // 16)
        shares = [_inside(branch[0], cells) for branch in aspp.convs[1:4]]
        said.append(
            f"{crop:>4}x{crop:<14} {cells}x{cells}   {'   '.join(f'{share:.1f}' for share in shares)}"
        )
    eight = DeepLabV3(6, "test_resnet", False, output_stride=8, decoder_channels=16)
    rates = [branch[0].dilation[0] for branch in eight.decoder.aspp.convs[1:4]]
    return [*said, f"rates at output stride 8: {', '.join(map(str, rates))}"]


def _seen(branch: nn.Module, maps: Tensor) -> np.ndarray:
    """Paint how strongly each cell moves the value in the center, over three decades."""
    maps = maps.clone().requires_grad_()
    branch(maps)[0, :, SIDE // 2, SIDE // 2].sum().backward()
    strength = maps.grad[0].abs().sum(0).numpy()
    return heat(np.log10(np.maximum(strength / strength.max(), 1e-3)) / 3 + 1)


def _inside(conv: nn.Conv2d, side: int) -> float:
    """Count how many of a 3x3 convolution's weights fall on the map, in the mean over its cells."""
    ones = torch.ones(1, 1, 3, 3)
    counts = F.conv2d(torch.ones(1, 1, side, side), ones, padding=conv.padding, dilation=conv.dilation)
    return float(counts.mean())
