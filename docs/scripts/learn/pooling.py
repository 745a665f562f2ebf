"""Max, average and sum pooling: on sixteen cells, and what they do to the size of a network's values."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from docs.scripts.learn.common import COLORS, chart, panels, save, scene
from lightning_seg import ClassicUNet

POOLINGS = {
    "max": nn.MaxPool2d(2),
    "average": nn.AvgPool2d(2),
    "sum": nn.AvgPool2d(2, divisor_override=1),
}


def draw(folder: Path) -> list[str]:
    """Draw the picture; return what the page says of it in numbers."""
    figure, (before, *after, lines) = panels("AB CD EE", 6.8, (1, 1, 1.15))
    grey = torch.from_numpy(scene(73)[0][63:67, 20:24]).float().mean(2).round()
    _cells(before, grey, "a map of 4x4 cells")
    before.axhline(1.5, color=COLORS[1], linewidth=2.5)
    before.axvline(1.5, color=COLORS[1], linewidth=2.5)
    for one, (name, pool) in zip(after, POOLINGS.items(), strict=True):
        _cells(one, pool(grey[None, None])[0, 0], f"{name} of each 2x2")
    said = []
    for color, (name, pool) in zip(COLORS, POOLINGS.items(), strict=False):
        sizes = spread(pool, batch_norm=False)
        lines.plot(range(1, 6), sizes, "o-", color=color, label=name)
        said.append(f"{name:8} {'  '.join(f'{size:5.2f}' for size in sizes)}")
    chart(lines, "size of a U-Net's values, no BatchNorm", "stage of the encoder", "mean |value|")
    lines.set_yscale("log")
    lines.set_xticks(range(1, 6))
    lines.legend(fontsize=9)
    save(figure, folder, "pooling")
    average, total = (spread(POOLINGS[name], batch_norm=True) for name in ("average", "sum"))
    apart = max(abs(a - b) for a, b in zip(average, total, strict=True))
    return [*said, f"with BatchNorm the rows of average and sum are {apart:.3f} apart at most"]


def spread(pool: nn.Module, batch_norm: bool) -> list[float]:
    """Return the mean size of the values after each of the five stages of a U-Net with random weights."""
    torch.manual_seed(0)
    network = ClassicUNet(6, 16, batch_norm=batch_norm, dropout=0, pooling=lambda size: pool)
    images = torch.from_numpy(np.stack([scene(n)[0] for n in range(4)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        maps = network.train().backbone(network.backbone.normalize(images))
    return [float(m.abs().mean()) for m in maps]


def _cells(axes: Axes, values: Tensor, title: str) -> None:
    """Show a small map with its numbers."""
    axes.imshow(values, cmap="Greys", vmin=-0.4 * values.max(), vmax=2.2 * values.max())
    for (y, x), value in np.ndenumerate(values.numpy()):
        axes.text(x, y, f"{value:.5g}", ha="center", va="center", fontsize=11)
    axes.set_title(title, fontsize=10.5)
    axes.set(xticks=[], yticks=[])
