"""Pretrained filters of red, green and blue for images of other channels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from lightning_seg.networks.backbones.tensor_file import Translation

Inflate = Literal["repeat", "mean", "zeros"]


def inflated(weight: Tensor, channels: int, how: Inflate = "repeat") -> Tensor:
    """Turn filters of three channels into filters of another number.

    With ``repeat``, timm's rule, the filters of red, green and blue come in turn, scaled by 3 / channels; those of one
    channel are their sum, so that a gray image gives what it gave as RGB. With ``mean`` every channel has the mean of
    the three, scaled likewise. With ``zeros`` the first three channels keep the filters of red, green and blue, and the
    others begin with zeros.

    Args:
        weight: Filters (out, 3, height, width).
        channels: Number of channels wanted.
        how: The rule.

    Returns:
        Filters (out, channels, height, width).
    """
    if how == "mean":
        return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)
    if how == "zeros":
        out = torch.zeros_like(weight[:, :1]).repeat(1, channels, 1, 1)
        out[:, : min(3, channels)] = weight[:, :channels]
        return out
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(channels, weight)
    return adapted


def inflate_first(found: Translation, own: Mapping[str, Tensor], how: Inflate) -> Translation:
    """Inflate the first convolution among the tensors of a file, where the network's has other channels.

    Args:
        found: Tensors under the names of the network.
        own: The tensors of the network.
        how: The rule, see `inflated`.
    """
    tensors, said = dict(found.tensors), list(found.converted)
    for key, value in found.tensors.items():
        wanted = own[key].shape if key in own else value.shape
        three = value.ndim == 4 and value.shape[1] == 3 and len(wanted) == 4 and wanted[1] != 3
        if three and (value.shape[0], *value.shape[2:]) == (wanted[0], *wanted[2:]):
            tensors[key] = inflated(value, wanted[1], how)
            said.append(f"{key} inflated from 3 to {wanted[1]} channels ({how})")
    return replace(found, tensors=tensors, converted=said)
