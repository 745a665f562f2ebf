"""Two inefficient designs as baselines: full resolution throughout, and one patch for each pixel."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.plain import PlainBackbone, convolutions
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.base import Network


class FullResolution(Network):
    """3x3 convolutions at the resolution of the image, with no pooling: much memory, little context.

    Args:
        num_classes: Number of classes.
        depth: Number of convolutions. The receptive field is ``2 * depth + 1`` pixels wide.
        channels: Channels of each convolution.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = FullResolution(num_classes=2, depth=3, channels=8).eval()
        >>> network(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(self, num_classes: int, depth: int = 5, channels: int = 64, in_channels: int = 3) -> None:
        blocks = [convolutions([in_channels] + [channels] * depth)]
        backbone = PlainBackbone(blocks, [channels], nn.MaxPool2d, in_channels)
        super().__init__(backbone, in_channels=in_channels)
        self.decoder = nn.Identity()
        self.head = nn.Conv2d(channels, num_classes, 1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Return the backbone's map."""
        out: Tensor = self.decoder(features[-1])
        return out


class PatchClassifier(Network):
    """Classifies the center of each patch of a sliding window (Ciresan et al., NeurIPS 2012).

    What neighboring patches share is computed again for each of them: the cost is that of one pass over
    ``(patch / step)**2`` times as many pixels.

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`, that sees each patch.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        patch: Side of a patch in pixels, a multiple of the backbone's stride.
        step: Pixels between the centers of patches; logits in between are interpolated.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: `patch` is no multiple of the backbone's stride, or smaller than `step`.

    Examples:
        >>> network = PatchClassifier(num_classes=2, backbone="test_resnet", weights=False, patch=32).eval()
        >>> network(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet18",
        weights: bool | str = True,
        patch: int = 64,
        step: int = 8,
        in_channels: int = 3,
    ) -> None:
        inner = (
            TimmBackbone(backbone, weights, in_channels=in_channels)
            if isinstance(backbone, str)
            else backbone
        )
        if patch % max(inner.strides) or patch < step:
            raise UserError(
                f"patch {patch} must be a multiple of the backbone's stride {max(inner.strides)}, and not "
                f"smaller than step {step}; try {max(inner.strides) * 2}."
            )
        super().__init__(_Patches(inner, patch, step), in_channels=in_channels)
        self.decoder = nn.Identity()
        self.head = nn.Conv2d(inner.channels[-1], num_classes, 1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Return the backbone's description of each patch."""
        out: Tensor = self.decoder(features[-1])
        return out


class _Patches(Backbone):
    """Describes each patch by the mean of its deepest map."""

    def __init__(self, inner: Backbone, patch: int, step: int) -> None:
        super().__init__([inner.channels[-1]], [step], inner.mean, inner.std, inner.in_channels)
        self.inner, self.patch, self.step = inner, patch, step

    def forward(self, x: Tensor) -> list[Tensor]:
        before = (self.patch - self.step) // 2
        after = self.patch - self.step - before
        windows = F.pad(x, (before, after, before, after)).unfold(2, self.patch, self.step)
        rows = []
        for row in windows.unbind(2):  # one row of patches at a time, for the memory's sake
            patches = row.unfold(2, self.patch, self.step).transpose(1, 2)  # (B, w, 3, patch, patch)
            means = self.inner(patches.flatten(0, 1))[-1].mean((2, 3))
            rows.append(means.unflatten(0, patches.shape[:2]).transpose(1, 2))  # (B, C, w)
        return [torch.stack(rows, dim=2)]

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        return self.inner.stages()

    def describe(self) -> str:
        return f"{self.inner.describe()}, of patches of {self.patch} pixels"

    def load_weights(self) -> str:
        return self.inner.load_weights()
