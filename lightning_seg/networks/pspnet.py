"""PSPNet: pyramid pooling on a dilated backbone."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import AuxiliaryHead, Network, resize, train_on_one_image


class PSPNet(Network):
    """PSPNet: the deepest features joined by averages over 1, 2x2, 3x3 and 6x6 regions (arXiv:1612.01105).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        decoder_channels: Channels of the decoder's output.
        bins: Regions a side of each pooling.
        dropout: Dropout before the head.
        auxiliary: Whether training also gives the logits of a head on the second deepest map.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = PSPNet(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    layouts: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "mmsegmentation": {
            r"^decode_head\.psp_modules\.(\d)\.1\.conv\.": r"decoder.pools.\1.1.",
            r"^decode_head\.psp_modules\.(\d)\.1\.bn\.": r"decoder.pools.\1.2.",
            r"^decode_head\.bottleneck\.conv\.": "decoder.fuse.0.",
            r"^decode_head\.bottleneck\.bn\.": "decoder.fuse.1.",
            r"^decode_head\.conv_seg\.": "head.",
            r"^auxiliary_head\.convs\.0\.conv\.": "auxiliary.0.",
            r"^auxiliary_head\.convs\.0\.bn\.": "auxiliary.1.",
            r"^auxiliary_head\.conv_seg\.": "auxiliary.4.",
        },
    }
    strides_of: ClassVar[Mapping[str, int]] = {"mmsegmentation": 8}
    differs: ClassVar[Mapping[str, str]] = {
        "smp": "its backbone ends with the third stage, and a 1x1 convolution joins the averages, here a 3x3"
    }

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: int = 8,
        decoder_channels: int = 512,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
        auxiliary: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__(
            backbone, weights, output_stride, levels=(2, 3) if auxiliary else (3,), in_channels=in_channels
        )
        channels = self.encoder.channels
        self.decoder = train_on_one_image(_PyramidPooling(channels[-1], decoder_channels, bins, dropout))
        self.head = nn.Conv2d(decoder_channels, num_classes, 1)
        if auxiliary:
            self.auxiliary = AuxiliaryHead(channels, num_classes)


class _PyramidPooling(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, bins: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        width = in_channels // len(bins)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), *_conv(in_channels, width, 1)) for size in bins
        )
        total = in_channels + width * len(bins)
        self.fuse = nn.Sequential(*_conv(total, out_channels, 3), nn.Dropout2d(dropout))

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        out: Tensor = self.fuse(torch.cat([x, *(resize(pool(x), x) for pool in self.pools)], dim=1))
        return out


def _conv(wide: int, narrow: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(wide, narrow, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(narrow), nn.ReLU(inplace=True)]
