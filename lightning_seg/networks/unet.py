"""U-Net: on any backbone, and the classic one."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.plain import PlainBackbone, convolutions
from lightning_seg.networks.base import Network, PyramidNetwork
from lightning_seg.networks.upsampling import TransposedConvolution, Upsampling


class UNet(PyramidNetwork):
    """U-Net on a backbone: back to full resolution in five steps, each joined by features (arXiv:1505.04597).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        decoder_channels: Channels after each of the five steps, deepest first.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = UNet(num_classes=11, backbone="resnet18", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape  # any height and width will do
        torch.Size([1, 11, 90, 120])
    """

    differs: ClassVar[Mapping[str, str]] = {
        "mmsegmentation": "its encoder is its own, without a pretrained backbone, and its decoder enlarges by a 1x1"
        " convolution after bilinear interpolation"
    }

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: int = 32,
        decoder_channels: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16),
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        super().__init__(backbone, weights, output_stride, in_channels=in_channels)
        self.decoder = UnetDecoder(self.pyramid_channels, decoder_channels)
        self.head = SegmentationHead(decoder_channels[-1], num_classes, kernel_size=3)


class ClassicUNet(Network):
    """The U-Net of 2015, made from scratch: two 3x3 convolutions a step, skips joined by concatenation.

    Convolutions are padded, so that the logits are as large as the image.

    Args:
        num_classes: Number of classes.
        channels: Channels of the finest of the five stages; each deeper one has twice as many.
        batch_norm: Whether BatchNorm follows each convolution; the authors' network has none.
        dropout: Dropout at the end of the contracting path.
        upsampling: What makes maps larger, called with the channels of input and output and the factor 2.
        pooling: Makes a pooling from its kernel size, 2 (see `PlainBackbone`).
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = ClassicUNet(num_classes=2, channels=8, pooling=torch.nn.AvgPool2d, in_channels=1).eval()
        >>> network(torch.zeros(1, 1, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 64,
        batch_norm: bool = False,
        dropout: float = 0.5,
        upsampling: Callable[[int, int, int], Upsampling] = TransposedConvolution,
        pooling: Callable[[int], nn.Module] = nn.MaxPool2d,
        in_channels: int = 3,
    ) -> None:
        widths = [channels * 2**i for i in range(5)]
        blocks = [
            convolutions([wide, c, c], norm=batch_norm)
            for wide, c in zip([in_channels, *widths], widths, strict=False)
        ]
        blocks[-1].append(nn.Dropout(dropout))
        super().__init__(PlainBackbone(blocks, widths, pooling, in_channels), in_channels=in_channels)
        self.decoder = _ConcatenatingDecoder(widths, batch_norm, upsampling)
        self.head = nn.Conv2d(channels, num_classes, 1)


class _ConcatenatingDecoder(nn.Module):
    """Upsamples to half the channels, concatenates the encoder's map, convolves twice; and again."""

    def __init__(
        self, channels: list[int], batch_norm: bool, upsampling: Callable[[int, int, int], Upsampling]
    ) -> None:
        super().__init__()
        pairs = list(zip(channels[:-1], channels[1:], strict=True))[::-1]
        self.ups = nn.ModuleList(upsampling(deep, fine, 2) for fine, deep in pairs)
        self.blocks = nn.ModuleList(
            convolutions([2 * fine, fine, fine], norm=batch_norm) for fine, _ in pairs
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for up, block, skip in zip(self.ups, self.blocks, features[-2::-1], strict=True):
            x = block(torch.cat([skip, up(x, skip)], dim=1))
        return x
