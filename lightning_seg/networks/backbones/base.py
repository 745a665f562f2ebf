"""What every backbone offers: feature maps, their strides and channels, normalization, stages to freeze."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError


class Backbone(nn.Module):
    """The interface of a backbone: from normalized images to feature maps, finest first.

    Args:
        channels: Channels of each feature map.
        strides: Stride of each feature map in pixels, never decreasing.
        mean: Mean of each input channel, for images in 0..1.
        std: Standard deviation of each input channel, for images in 0..1.

    Attributes:
        plain: Whether it is a plain vision transformer: all its maps have the resolution of its patches.
        pyramid: Makes the pyramid around it for decoders that read several strides; None for the decoder's own choice.
        image_size: Height and width of the only images that it takes; None if any will do.
    """

    plain = False
    pyramid: Callable[..., Any] | None = None
    image_size: tuple[int, int] | None = None
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.channels, self.strides = list(channels), list(strides)
        self.mean, self.std = tuple(mean), tuple(std)
        # Not in the state dict: they belong to the backbone's name, not to what was learned.
        scale = 1 / (255 * torch.tensor(self.std).view(1, -1, 1, 1))
        shift = -255 * scale * torch.tensor(self.mean).view(1, -1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in 0..255 into what the backbone was trained on, in its own dtype."""
        images, scale, shift = images.to(self.scale.dtype), self.scale, self.shift
        if images.device.type == "cpu" and images.is_contiguous(memory_format=torch.channels_last):
            # PyTorch would take the 3 channels as its inner loop; along a whole row it is three times as fast.
            row = -1, -1, -1, images.shape[-1]
            scale, shift = (
                x.expand(row).contiguous(memory_format=torch.channels_last) for x in (scale, shift)
            )
        return torch.addcmul(shift, images, scale)

    def at_stride(self, stride: int) -> int:
        """Return the position of the deepest feature map with this stride.

        Raises:
            UserError: If there is none.
        """
        return deepest_at(self.strides, stride)

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the parts of the backbone, each computing one feature map from the one before, from the image on.

        Every parameter is in exactly one stage. The lists are new containers: use them to freeze
        parts or to set learning rates, not to run them.
        """
        return [(name, nn.ModuleList([child])) for name, child in self.named_children()]

    def describe(self) -> str:
        """Say in words what is taken of it."""
        return f"{getattr(self, 'name', type(self).__name__)}, maps of strides {self.strides}"

    def load_weights(self) -> str:
        """Load pretrained weights, where there are any, and say in words what was loaded."""
        return "random"

    def checkpoint_gradients(self) -> None:
        """Turn on gradient checkpointing: recompute activations in the backward pass to save memory.

        Raises:
            UserError: This backbone cannot.
        """
        raise UserError(
            f"{type(self).__name__} cannot checkpoint gradients: set gradient_checkpointing=false."
        )


def deepest_at(strides: Sequence[int], stride: int) -> int:
    """Return the position of the deepest of several feature maps with a stride.

    Raises:
        UserError: There is none.
    """
    if stride not in strides:
        raise UserError(
            f"Expected a backbone with a feature map of stride {stride}, but this one has strides "
            f"{list(strides)}. Choose a backbone with a pyramid of maps, such as resnet50."
        )
    return len(strides) - 1 - list(strides)[::-1].index(stride)
