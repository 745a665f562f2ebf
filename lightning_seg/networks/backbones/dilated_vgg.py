"""VGG with a smaller output stride, which timm does not have."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def flat_name(name: str) -> str:
    """Name a module as timm's feature extractors do: ``layers.0`` flattened to ``layers_0``, or wrapped."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


class DensePool(nn.MaxPool2d):
    """A 2x2 max pooling that keeps the resolution: every second value is what the strided one gives."""

    def __init__(self, dilation: int) -> None:
        super().__init__(2, stride=1, dilation=dilation)
        self.pad = (0, dilation, 0, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps (B, C, H, W) of values that are not negative."""
        out: Tensor = super().forward(F.pad(x, self.pad))  # zeros change nothing after a ReLU
        return out


def dilate_pools(net: Any, output_stride: int) -> list[int]:
    """Give a VGG a smaller output stride: its last pools lose their stride, and what follows is dilated.

    The feature maps then hold those of the strided network at every second (or fourth) position (the "hole
    algorithm" of DeepLab, arXiv:1412.7062), so pretrained weights keep their meaning.

    Returns:
        The stride of each feature map.
    """
    stride, dilation, strides = 1, 1, []
    for name, module in net.named_children():
        if isinstance(module, nn.MaxPool2d):
            if stride < output_stride:
                stride *= 2
            else:
                setattr(net, name, DensePool(dilation))
                dilation *= 2
        elif isinstance(module, nn.Conv2d):
            module.dilation = module.padding = (dilation, dilation)
        if flat_name(name) in [flat_name(tap) for tap in net.feature_info.module_name()]:
            strides.append(stride)
    return strides
