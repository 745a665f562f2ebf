"""A linear classifier of features: the least that can be put on a backbone."""

import torch
from torch import Tensor, nn

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import Network, resize


class Linear(Network):
    """A 1x1 convolution on the backbone's deepest features; with a frozen backbone, a linear probe.

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        maps: How many feature maps to look at, the deepest ones, all brought to the size of the largest of them.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: int = 32,
        maps: int = 1,
    ) -> None:
        super().__init__(backbone, weights, output_stride)
        self.maps = maps
        self.decoder = nn.Identity()
        self.head = nn.Conv2d(sum(self.backbone.channels[-maps:]), num_classes, 1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Join the deepest maps."""
        chosen = features[-self.maps :]
        return torch.cat([resize(feature, chosen[0]) for feature in chosen], 1)
