"""What every backbone offers: feature maps, their strides and channels, normalization, stages to freeze."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seg.data.pixels import Measurement, Pixels, Scaling, for_bands
from lightning_seg.errors import UserError


class Backbone(nn.Module):
    """The interface of a backbone: from normalized images to feature maps, finest first.

    Args:
        channels: Channels of each feature map.
        strides: Stride of each feature map in pixels, never decreasing.
        mean: Mean of each input channel, for images in 0..1.
        std: Standard deviation of each input channel, for images in 0..1.
        in_channels: Number of input channels; where there are others than three, those of red, green and blue in turn
            stand for their mean and deviation, or the mean of these for one or two.

    Attributes:
        plain: Whether it is a plain vision transformer: all its maps have the resolution of its patches.
        pyramid: Makes the pyramid around it for decoders that read several strides; None for the decoder's own choice.
        image_size: Height and width of the only images that it takes; None if any will do.
        scaling: How images are normalized, if not as 8 bits by `mean` and `std`.

    Examples:
        >>> backbone = TimmBackbone("resnet18", weights=False)
        >>> isinstance(backbone, Backbone), backbone.strides, backbone.channels
        (True, [2, 4, 8, 16, 32], [64, 64, 128, 256, 512])
    """

    plain = False
    pyramid: Callable[..., Any] | None = None
    image_size: tuple[int, int] | None = None
    scale: Tensor
    shift: Tensor
    low: Tensor | None
    high: Tensor | None

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.channels, self.strides = list(channels), list(strides)
        self.in_channels = in_channels
        self.mean, self.std = for_bands(mean, in_channels), for_bands(std, in_channels)
        self.scaling: Scaling | None = None
        # Not in the state dict: they belong to the backbone's name, not to what was learned.
        scale = 1 / (255 * torch.tensor(self.std).view(1, -1, 1, 1))
        shift = -255 * scale * torch.tensor(self.mean).view(1, -1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("low", None, persistent=False)
        self.register_buffer("high", None, persistent=False)

    def expect(self, pixels: Pixels, measured: Measurement | None = None) -> None:
        """Normalize the images of a data set from now on.

        Args:
            pixels: What the images are.
            measured: What the training split says, where the normalization depends on it.
        """
        self.normalize_as(pixels.scaling(self.mean, self.std, measured))

    def normalize_as(self, scaling: Scaling) -> None:
        """Normalize images by other numbers from now on, those of their files or of a training split.

        Args:
            scaling: What is clipped, subtracted and divided by, for each channel.
        """
        self.scaling = scaling
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (scaling.mean, scaling.std))
        found = {"scale": 1 / std, "shift": -mean / std}
        found |= {name: torch.tensor(getattr(scaling, name)) for name in ("low", "high") if scaling.low}
        for name, values in found.items():
            self.register_buffer(name, values.view(1, -1, 1, 1).to(self.scale), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) of the values in files into what the backbone was trained on, in its own dtype."""
        if (
            self.scaling is not None and self.scale.dtype.itemsize < 4
        ):  # which cannot tell 65 536 levels apart
            return self._normalized(images.float(), self.scale.float(), self.shift.float()).to(
                self.scale.dtype
            )
        return self._normalized(images.to(self.scale.dtype), self.scale, self.shift)

    def _normalized(self, images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if self.low is not None and self.high is not None:
            images = images.maximum(self.low.to(images.dtype)).minimum(self.high.to(images.dtype))
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


def scalings(network: nn.Module) -> dict[str, dict[str, list[float]]]:
    """Return how each backbone in a network normalizes images, by its name, where that was not left as it is."""
    return {
        name: {key: list(values) for key, values in part.scaling._asdict().items()}
        for name, part in network.named_modules()
        if isinstance(part, Backbone) and part.scaling is not None
    }


def restore_scalings(network: nn.Module, known: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Have the backbones of a network normalize images as `scalings` has told.

    Raises:
        UserError: There is none for a backbone that depends on it.
    """
    for name, part in network.named_modules():
        if isinstance(part, Backbone) and part.scaling is not None:
            if name not in known:
                raise UserError(
                    "The checkpoint does not tell how its images were normalized, which was measured in training."
                )
            Backbone.normalize_as(part, Scaling(**{key: tuple(v) for key, v in known[name].items()}))
