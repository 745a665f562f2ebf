"""Replacement of layers that exporters cannot write for images of any size by equivalent ones."""

import copy
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.networks.backbones.dilated_vgg import DensePool
from lightning_seg.networks.backbones.low_rank import merge
from lightning_seg.networks.base import Network


def exportable(network: Network, labels: bool = False, thresholds: Tensor | None = None) -> nn.Module:
    """Copy a network and replace layers that cannot be exported for any image size by equivalent ones.

    Args:
        network: The network.
        labels: Whether the copy returns labels (B, H, W) uint8 instead of logits (B, C, H, W) float32.
        thresholds: Least logit (K,) of each of the classes that may overlap, if they may: labels are then a mask
            of 0 and 1 for each class, (B, K, H, W) uint8.
    """
    copied = copy.deepcopy(network).cpu().float().to(memory_format=torch.contiguous_format).eval()
    merge(copied)  # the changes of LoRA
    copied.requires_grad_(False)  # those that want gradients take exporters a tenth longer
    for parent in list(copied.modules()):
        for name, pool in list(parent.named_children()):
            if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size not in (1, (1, 1)):
                setattr(parent, name, _RegionMeans(pool.output_size))  # type: ignore[arg-type]
            elif isinstance(pool, Conv2dSame):
                setattr(parent, name, _SameConv(pool))
            elif isinstance(pool, DensePool):
                setattr(parent, name, _ShiftedMaximum(pool.dilation))  # type: ignore[arg-type]
    if not labels:
        return copied
    return Labels(copied) if thresholds is None else ClassMasks(copied, thresholds)


class Labels(nn.Module):
    """A network that returns the most probable class instead of logits.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return labels (B, H, W) uint8."""
        return self.network(images).argmax(1).to(torch.uint8)


class ClassMasks(nn.Module):
    """A network that returns where each of the classes that may overlap is, instead of logits.

    Args:
        network: The network.
        thresholds: Least logit (K,) of each class.
    """

    thresholds: Tensor

    def __init__(self, network: nn.Module, thresholds: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("thresholds", thresholds.detach().cpu().view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return masks (B, K, H, W) uint8 of 0 and 1."""
        return (self.network(images) >= self.thresholds).to(torch.uint8)


class _RegionMeans(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products: ONNX has no pooling whose regions depend on the size."""

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_regions(n, length, x) for n, length in zip(self.size, x.shape[-2:], strict=True))
        return rows @ x @ columns.T


class _ShiftedMaximum(nn.Module):
    """`DensePool` without padding before a pooling: onnxruntime makes them one, then refuses so wide a padding."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        x = torch.maximum(x, F.pad(x[..., self.shift :, :], (0, 0, 0, self.shift)))
        return torch.maximum(x, F.pad(x[..., self.shift :], (0, self.shift)))


class _SameConv(nn.Module):
    """timm's `Conv2dSame` in integer arithmetic: torch.export cannot write `math.ceil` of a size."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        padding: list[Any] = []
        for axis in (-1, -2):
            length, stride = x.shape[axis], conv.stride[axis]
            reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1
            steps = (
                length + stride - 1
            ) // stride - 1  # ONNX rounds negative quotients up: no -(-length // stride)
            missing = torch.sym_max(steps * stride + reach - length, 0)
            padding += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, padding), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _regions(count: int, length: int, like: Tensor) -> Tensor:
    """Return the weight (count, length) of each cell in the mean of each region."""
    region = torch.arange(count, device=like.device)[:, None]
    cell = torch.arange(length, device=like.device)[None]
    inside = (cell >= region * length // count) & (cell < ((region + 1) * length + count - 1) // count)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)
