"""Linear classifiers of features: the least that can be put on a backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone, is_plain
from lightning_seg.networks.base import Network, resize


class Linear(Network):
    """A 1x1 convolution on the backbone's deepest features; with a frozen backbone, a linear probe.

    As it is, it is the linear head of benchmark-vfm-ss (arXiv:2404.12172); with `batch_norm` that of DINOv2
    (arXiv:2304.07193), and with `dropout: 0.1` too that of DINOv3 (arXiv:2508.10104).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        maps: How many feature maps to look at, the deepest ones, all brought to the size of the largest of them. Of a
            plain vision transformer given by name, the maps of so many last blocks.
        batch_norm: Whether BatchNorm, which trains with the head, normalizes the features first.
        dropout: Share of the features' channels that training leaves out.
        hidden: Channels of further 1x1 convolutions before the last, each followed by ReLU: a multi-layer head.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: The backbone has fewer maps.

    Examples:
        >>> network = Linear(num_classes=11, backbone="resnet18", weights=False, maps=2, batch_norm=True).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: int = 32,
        maps: int = 1,
        batch_norm: bool = False,
        dropout: float = 0.0,
        hidden: Sequence[int] = (),
        in_channels: int = 3,
    ) -> None:
        if isinstance(backbone, str) and is_plain(backbone):
            backbone = TimmBackbone(backbone, weights, out_indices=maps, in_channels=in_channels)
        super().__init__(backbone, weights, output_stride, in_channels=in_channels)
        if not 1 <= maps <= len(self.backbone.channels):
            raise UserError(f"Linear: maps must be 1 to {len(self.backbone.channels)}, got {maps}.")
        self.maps = maps
        channels = sum(self.backbone.channels[-maps:])
        self.decoder = nn.Sequential()
        if dropout:
            self.decoder.append(nn.Dropout2d(dropout))
        if batch_norm:
            self.decoder.append(nn.BatchNorm2d(channels))
        for width in hidden:
            self.decoder.extend([nn.Conv2d(channels, width, 1), nn.ReLU(inplace=True)])
            channels = width
        self.head = nn.Conv2d(channels, num_classes, 1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Join the deepest maps."""
        chosen = features[-self.maps :]
        out: Tensor = self.decoder(torch.cat([resize(feature, chosen[0]) for feature in chosen], 1))
        return out
