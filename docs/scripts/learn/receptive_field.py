"""One convolution in numbers, and how far networks see: gradients of the logit in the center."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import nn

from docs.scripts.learn.common import COLORS, panels, save, scene, show
from lightning_seg import ClassicUNet, DeepLabV3Plus, FullResolution, Network
from lightning_seg.bench.network_profile import Conditions, field_side, receptive_field
from lightning_seg.plotting.heat import heat

SIDE = 160
NETWORKS: dict[str, tuple[str, type[Network], dict[str, object]]] = {
    "5 convolutions": ("5 convolutions", FullResolution, {"depth": 5, "channels": 16}),
    "20 convolutions": ("20 convolutions", FullResolution, {"depth": 20, "channels": 16}),
    "U-Net": ("U-Net, 4 poolings", ClassicUNet, {"channels": 8}),
    "DeepLabV3+": ("DeepLabV3+, ASPP", DeepLabV3Plus, {"backbone": "test_resnet", "weights": False}),
}


def draw(folder: Path) -> list[str]:
    """Draw both pictures; return what the page says of them in numbers."""
    _convolution(folder)
    figure, axes = panels("AB CD", 5.05)
    said = ["network           50 % of the gradient   95 %     all of it"]
    for one, (name, (title, network, settings)) in zip(axes, NETWORKS.items(), strict=True):
        torch.manual_seed(0)
        field = receptive_field(network(6, **settings), Conditions((SIDE, SIDE)), count=1)
        sides = [field_side(field, share) for share in (0.5, 0.95, 1)]
        strength = np.log10(np.maximum(field / field.max(), 1e-4)) / 4 + 1
        show(one, heat(strength), title)
        for side, color in zip(sides[1:], ("white", COLORS[3]), strict=True):
            if side:
                corner = SIDE // 2 - side // 2 - 0.5
                one.add_patch(
                    Rectangle((corner, corner), side, side, fill=False, edgecolor=color, linewidth=1.5)
                )
        words = [f"{side}x{side}" if side else f"over {SIDE}" for side in sides]
        said.append(f"{name:17} {words[0]:22} {words[1]:8} {words[2]}")
    save(figure, folder, "receptive_field")
    return said


def _convolution(folder: Path) -> None:
    grey = scene(73)[0][..., 1].astype(np.float32) / 255
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    kernel = torch.tensor([[-1.0, 0.0, 1.0]] * 3)
    with torch.no_grad():
        layer.weight.copy_(kernel)
        found = layer(torch.from_numpy(grey)[None, None])[0, 0].numpy()
    figure, (left, middle, right) = panels("ABC", 1.75)
    show(left, grey, "a channel")
    middle.imshow(kernel, cmap="PuOr", vmin=-2, vmax=2)
    middle.set_title("3x3 weights", fontsize=10, pad=3)
    middle.set(xticks=[], yticks=[])
    for (y, x), weight in np.ndenumerate(kernel.numpy()):
        middle.text(x, y, f"{weight:+.0f}" if weight else "0", ha="center", va="center", fontsize=11)
    show(right, found / (2 * np.abs(found).max()) + 0.5, "its answer")
    save(figure, folder, "convolution")
