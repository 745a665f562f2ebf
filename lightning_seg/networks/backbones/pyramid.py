"""Pyramids of feature maps around a plain vision transformer, whose maps have one resolution."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.networks.backbones.base import Backbone, deepest_at

STRIDES = (4, 8, 16, 32)


class SimplePyramid(nn.Module):
    """Base of the pyramids: each level is made of a map of the transformer by itself.

    Where patches do not have 4, 8, 16 or 32 pixels, as the 14 of DINOv2, the maps are first resampled bilinearly to the
    next of these, in place: the levels lie where those of any other backbone do.

    Args:
        backbone: The transformer.
        output_stride: Stride of the deepest level: 8, 16 or 32.
        levels: Which of the four levels are made, finest first; the others are empty.

    Attributes:
        channels: Channels of each level.
        strides: Stride of each level in pixels.
        multiple: The maps are those of images padded to a multiple of so many pixels.
    """

    def __init__(
        self, backbone: Backbone, output_stride: int = 32, levels: Sequence[int] = (0, 1, 2, 3)
    ) -> None:
        super().__init__()
        self.strides = [min(stride, output_stride) for stride in STRIDES]
        self.multiple = backbone.strides[-1]
        self.grid: int = 2 ** round(
            math.log2(self.multiple)
        )  # pixels from one token to the next, once resampled
        self.made = tuple(levels)
        self.inputs = backbone.channels[-4:] if len(backbone.channels) >= 4 else backbone.channels[-1:] * 4
        self.channels: list[int] = []
        self.levels = nn.ModuleList()

    def add(self, *layers: nn.Module, channels: int) -> None:
        """Add the layers of the next level, if it is to be made, and its channels."""
        wanted = len(self.channels) in self.made
        self.levels.append(nn.Sequential(*layers) if wanted else nn.Identity())
        self.channels.append(channels)

    def factor(self, level: int) -> float:
        """Return how many cells of a level lie along one of the transformer's."""
        return float(self.grid / self.strides[level])

    def at_stride(self, stride: int) -> int:
        """Return the position of the deepest level with this stride (see `Backbone.at_stride`)."""
        return deepest_at(self.strides, stride)

    def forward(self, maps: list[Tensor], x: Tensor) -> list[Tensor]:
        """Return the levels (B, channels[i], H / strides[i], W / strides[i]).

        Args:
            maps: The transformer's maps of the images, padded to `multiple`.
            x: The images (B, 3, H, W).
        """
        levels = []
        for i, level in enumerate(self.levels):
            taken = maps[i - 4] if len(maps) >= 4 else maps[-1]
            made = level(self._on_grid(taken)) if i in self.made else taken[..., :0, :0]
            levels.append(_cut(made, x, self.strides[i]))
        return levels

    def _on_grid(self, x: Tensor) -> Tensor:
        if self.grid == self.multiple:
            return x
        return F.interpolate(x, scale_factor=self.multiple / self.grid, mode="bilinear", align_corners=False)


class BEiTPyramid(SimplePyramid):
    """Four blocks' maps, resized by transposed convolutions and pooling: BEiT's, for UPerNet (arXiv:2106.08254).

    mmsegmentation has it as Feature2Pyramid. Where the transformer gives fewer than four maps, all levels are made of
    the last.

    Args:
        backbone: The transformer.
        output_stride: Stride of the deepest level.
        levels: Which of the four levels are made.

    Examples:
        >>> pyramid = BEiTPyramid(TimmBackbone("test_vit", weights=False))
        >>> pyramid.strides, pyramid.channels
        ([4, 8, 16, 32], [64, 64, 64, 64])
    """

    def __init__(
        self, backbone: Backbone, output_stride: int = 32, levels: Sequence[int] = (0, 1, 2, 3)
    ) -> None:
        super().__init__(backbone, output_stride, levels)
        for i, width in enumerate(self.inputs):
            steps = int(math.log2(self.factor(i)))
            layers: list[nn.Module] = [nn.MaxPool2d(2**-steps)] if steps < 0 else []
            for step in range(steps):
                layers += [nn.BatchNorm2d(width), nn.GELU()] if step else []
                layers.append(nn.ConvTranspose2d(width, width, 2, 2))
            self.add(*layers, channels=width)


class ViTDetPyramid(SimplePyramid):
    """The last map alone, resized to four levels of equal width: ViTDet's simple feature pyramid (arXiv:2203.16527).

    Args:
        backbone: The transformer.
        output_stride: Stride of the deepest level.
        levels: Which of the four levels are made.
        channels: Channels of every level.

    Examples:
        >>> pyramid = ViTDetPyramid(TimmBackbone("test_vit", weights=False))
        >>> pyramid.strides, pyramid.channels
        ([4, 8, 16, 32], [256, 256, 256, 256])
    """

    def __init__(
        self,
        backbone: Backbone,
        output_stride: int = 32,
        levels: Sequence[int] = (0, 1, 2, 3),
        channels: int = 256,
    ) -> None:
        from timm.layers import LayerNorm2d

        super().__init__(backbone, output_stride, levels)
        for i in range(len(STRIDES)):
            steps, width = int(math.log2(self.factor(i))), backbone.channels[-1]
            layers: list[nn.Module] = [nn.MaxPool2d(2**-steps)] if steps < 0 else []
            for step in range(steps):
                layers += [LayerNorm2d(width), nn.GELU()] if step else []
                layers.append(nn.ConvTranspose2d(width, width // 2, 2, 2))
                width //= 2
            layers += [nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels)]
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels)]
            self.add(*layers, channels=channels)

    def forward(self, maps: list[Tensor], x: Tensor) -> list[Tensor]:
        """Return the levels (see `SimplePyramid.forward`)."""
        return super().forward(maps[-1:], x)


def _cut(level: Tensor, x: Tensor, stride: int) -> Tensor:
    """Cut off the cells beyond the images, to which they were padded for the transformer."""
    height, width = x.shape[-2] // stride, x.shape[-1] // stride
    if torch.compiler.is_exporting() and level.numel():
        rows, columns = (torch.arange(length, device=x.device) for length in (height, width))
        return level.index_select(-2, rows).index_select(-1, columns)
    return level[..., :height, :width]
