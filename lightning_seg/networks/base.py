"""Base classes of the networks: backbone, decoder and head, padding, resizing, auxiliary head."""

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.feature_cache import FeatureCache
from lightning_seg.networks.backbones.pyramid import BEiTPyramid, SimplePyramid
from lightning_seg.networks.backbones.tensor_file import read_tree, split_choice
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.backbones.weights import FLAG, load_weights_of_run, names_a_run
from lightning_seg.networks.whole import LibraryLayouts, load_whole

SMP_DILATES = (
    "it dilates all of a backbone's last stages alike, where timm and torchvision dilate first blocks less"
)


class BackboneNetwork(nn.Module):
    """A network made of a `backbone`, a `decoder` and a `head`, as tasks and fine-tuning policies expect it.

    Args:
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of a backbone given by name (see `TimmBackbone`).
        output_stride: Output stride of a backbone given by name, and the largest that a `Backbone` may have.
        levels: Which of four maps, those of strides 4 to 32, the decoder reads. Around a plain vision transformer a
            pyramid makes them, in the part `neck`; without levels its maps are taken as they are.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: If the backbone is unknown, its stride too large, or made for another number of channels.
    """

    decoder: nn.Module
    head: nn.Module
    default_pyramid: type[SimplePyramid] = BEiTPyramid

    def __init__(
        self,
        backbone: str | Backbone,
        weights: bool | str = False,
        output_stride: int = 32,
        levels: Sequence[int] = (),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if isinstance(backbone, str):
            backbone = TimmBackbone(backbone, weights, output_stride, in_channels=in_channels)
        if backbone.in_channels != in_channels:
            can = "in_channels" in inspect.signature(type(backbone)).parameters
            raise UserError(
                f"{type(self).__name__} is given images of {in_channels} channels, but its backbone, a "
                f"{type(backbone).__name__}, is made for {backbone.in_channels}. "
                + (
                    f"Give it in_channels: {in_channels}."
                    if can
                    else "Choose a timm model by its name instead."
                )
            )
        self.backbone = backbone
        self.neck: SimplePyramid | None = None
        self.stride = max(backbone.strides)
        if backbone.plain and levels:
            self.neck = (backbone.pyramid or self.default_pyramid)(backbone, output_stride, levels)
            self.stride = max(*self.neck.strides, self.neck.grid)
        elif self.stride > output_stride:
            raise UserError(
                f"{type(self).__name__} expects a backbone of stride {output_stride}, but this one has strides "
                f"{backbone.strides}. Give it output_stride {output_stride}."
            )
        if backbone.image_size and any(side % self.stride for side in backbone.image_size):
            raise UserError(
                f"{type(self).__name__} needs images whose sides are multiples of {self.stride}, but this backbone "
                f"takes images of {backbone.image_size} only. Choose such a size by its backbone_args.img_size."
            )

    @property
    def title(self) -> str:
        """What people call the architecture: the name of its class."""
        return type(self).__name__

    @property
    def encoder(self) -> Backbone | SimplePyramid:
        """What gives the decoder its maps, with their channels and strides: the backbone, or the pyramid around it."""
        return self.backbone if self.neck is None else self.neck

    def describe(self) -> str:
        """Say in words what the decoder is given of the backbone."""
        if self.neck is None:
            return self.backbone.describe()
        made = [self.neck.strides[i] for i in self.neck.made]
        return (
            f"{self.backbone.describe()}; {type(self.neck).__name__} to strides {', '.join(map(str, made))}"
        )

    def pad_to_patches(self, x: Tensor) -> Tensor:
        """Pad normalized images (B, C, H, W) to whole patches, where the stride is no multiple of these."""
        if self.neck is None:
            return x
        multiple, up = self.neck.multiple, self.neck.multiple - 1  # see `_pad`
        below, right = ((length + up) // multiple * multiple - length for length in x.shape[-2:])
        return F.pad(x, (0, right, 0, below))

    def load_weights(self, find_checkpoint: Callable[[str], Path] = Path) -> str:
        """Load the pretrained weights that `weights` names. Call it once, before training from the start.

        Args:
            find_checkpoint: Returns the checkpoint file of RUN in ``run:RUN`` and ``backbone-of:RUN``; unless
                given, RUN is that file.

        Returns:
            What was loaded, in words.
        """
        weights: Any = getattr(self.backbone, "weights", False)
        if names_a_run(weights):
            return load_weights_of_run(self, weights, find_checkpoint)
        return self._load_whole(weights) or self.backbone.load_weights()

    def _load_whole(self, weights: bool | str) -> str | None:
        """Load a file that holds all of the network, where it does; say what was loaded."""
        return None

    def cache_features(self, gigabytes: float, on_disk: bool = False) -> None:
        """Refuse to keep features, as a network that gives no one answer to a pixel must (see `Network`).

        Raises:
            UserError: They are to be kept.
        """
        if gigabytes:
            raise UserError(
                f"{type(self).__name__} cannot keep features: leave cache_gb of its finetune out."
            )

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return what backbone and decoder make of images (B, 3, H, W), in evaluation mode.

        Returns:
            Feature maps (B, C, h, w) by name: the backbone's, finest first, then the decoder's. They cover the images
            padded to a multiple of `stride`.
        """
        kept: dict[str, Tensor] = {}

        def keep_backbone(module: nn.Module, args: object, maps: list[Tensor]) -> None:
            strides = self.backbone.strides
            kept.update({f"backbone, stride {s}": m for s, m in zip(strides, maps, strict=True)})

        def keep_decoder(module: nn.Module, args: tuple[Any, ...]) -> None:
            given = args[0]  # what the head is called with, whatever the decoder is called
            levels = given.items() if isinstance(given, dict) else ()
            kept.update({f"decoder, level {k}": m for k, m in levels} if levels else {"decoder": given})

        handles = [
            self.backbone.register_forward_hook(keep_backbone),
            self.head.register_forward_pre_hook(keep_decoder),
        ]
        try:
            self(images)
        finally:
            for handle in handles:
                handle.remove()
        return kept


class Network(BackboneNetwork, LibraryLayouts):
    """A segmentation network: images (B, C, H, W) to logits (B, classes, H, W), for any H and W.

    Images come with the values of their files (in 0..255 unless `Backbone.normalize_as` said otherwise). They are
    normalized as the backbone was trained and padded right and below to a multiple of its stride
    (with zeros, after normalization); the logits are resized to that size and cropped. An architecture sets
    `decoder` and `head` after calling this constructor.

    Args:
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of a backbone given by name (see `TimmBackbone`).
        output_stride: Output stride of a backbone given by name, and the largest that a `Backbone` may have.
        levels: Which of four maps the decoder reads (see `BackboneNetwork`).
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> class Shallow(Network):
        ...     def __init__(self, num_classes, backbone="resnet18", weights=True):
        ...         super().__init__(backbone, weights)
        ...         self.decoder, self.head = torch.nn.Identity(), torch.nn.Conv2d(512, num_classes, 1)
        ...     def decode(self, x, features):
        ...         return features[-1]
        >>> Shallow(2, weights=False).eval()(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 2, 90, 120])
    """

    def __init__(
        self,
        backbone: str | Backbone,
        weights: bool | str = False,
        output_stride: int = 32,
        levels: Sequence[int] = (),
        in_channels: int = 3,
    ) -> None:
        super().__init__(backbone, weights, output_stride, levels, in_channels)
        self.auxiliary: AuxiliaryHead | None = None
        self._feature_cache: FeatureCache | None = None

    def _load_whole(self, weights: bool | str) -> str | None:
        if not isinstance(weights, str) or weights.startswith("package:"):
            return None
        file, choice = split_choice(weights)
        return None if choice else load_whole(self, read_tree(file, FLAG), str(file))

    def cache_features(self, gigabytes: float, on_disk: bool = False) -> None:
        """Keep the backbone's feature maps of images that come again, as long as its weights do not change.

        Args:
            gigabytes: How much memory of the host the maps may take; 0 drops what is kept and keeps no more.
            on_disk: Keep them in a folder that all runs with this backbone share, instead of in memory.
        """
        self._feature_cache = (
            FeatureCache(gigabytes, self.backbone if on_disk else None) if gigabytes else None
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits (B, classes, H, W) for images (B, C, H, W), of any type, with the values of their files.

        In training, and with an auxiliary head, a pair: the logits and those of that head.
        """
        height, width = images.shape[-2:]
        x = self._pad(self.backbone.normalize(images))
        seen = self.pad_to_patches(x)
        if self._feature_cache is None:
            features = self.backbone(seen)
        else:
            size = seen.shape[-2], seen.shape[-1]
            features = self._feature_cache(images, lambda positions: self.backbone(seen[positions]), size)
        if self.neck is not None:
            features = self.neck(features, x)
        logits = crop(resize_logits(self.head(self.decode(x, features)), x), height, width)
        if self.auxiliary is None or not self.training:
            return logits
        return logits, resize(self.auxiliary(features), x)[..., :height, :width]

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Turn the backbone's feature maps into the head's input; `x` is the padded image (B, C, H, W)."""
        out: Tensor = self.decoder(features)
        return out

    def _pad(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        # So written, exporters see that the padded size is a multiple (and ONNX divides negative numbers wrongly).
        up = self.stride - 1
        right, below = ((length + up) // self.stride * self.stride - length for length in (width, height))
        if self.training and len(x) == 1 and height <= self.stride and width <= self.stride:
            # The deepest map would be 1x1: of one image, too few values for BatchNorm to train on.
            below += self.stride
        if self.backbone.image_size:  # smaller images are filled up, larger ones the backbone refuses
            high, wide = self.backbone.image_size
            right, below = max(right, wide - width), max(below, high - height)
        return F.pad(x, (0, right, 0, below))


class PyramidNetwork(Network):
    """A network whose decoder takes one feature map for each of the strides 1, 2, 4, 8, 16 and 32.

    Where the backbone has none at stride 1 the image stands in, and where it has none at stride 2 an empty
    map does, as the decoders of segmentation-models-pytorch expect.
    """

    def __init__(
        self, backbone: str | Backbone, weights: bool | str, output_stride: int, in_channels: int = 3
    ) -> None:
        super().__init__(backbone, weights, output_stride, levels=range(4), in_channels=in_channels)
        self._missing = int(math.log2(self.encoder.strides[0]))
        self.pyramid_channels = [in_channels, 0][: self._missing] + self.encoder.channels
        if self._missing > 2 or len(self.pyramid_channels) != 6:
            raise UserError(
                f"{type(self).__name__} needs a backbone with feature maps of strides (2,) 4, 8, 16 and 32, "
                f"but this one has {self.encoder.strides}. Choose one with a pyramid, such as resnet50."
            )

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Decode the pyramid."""
        out: Tensor = self.decoder([x, x[:, :0, ::2, ::2]][: self._missing] + features)
        return out


def channels_of(network: nn.Module) -> int:
    """Return the number of channels of the images that a network takes; 3 of one that does not tell."""
    return network.backbone.in_channels if isinstance(network, BackboneNetwork) else 3


class AuxiliaryHead(nn.Sequential):
    """Logits from the second deepest map, for a second loss in training (PSPNet, arXiv:1612.01105)."""

    def __init__(self, channels: list[int], num_classes: int) -> None:
        inner = channels[-2] // 4
        super().__init__(
            nn.Conv2d(channels[-2], inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.Conv2d(inner, num_classes, 1),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits (B, num_classes, h, w) from the second deepest map (B, C, h, w)."""
        out: Tensor = super().forward(features[-2])  # type: ignore[no-untyped-call]
        return out


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly to the height and width of `like`."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def resize_logits(x: Tensor, like: Tensor) -> Tensor:
    """Resize logits (B, C, h, w) as `resize` does; on a CPU in float32 at least, and channel by channel in memory.

    Losses and labels want them so, and small maps are converted faster than large ones.
    """
    if x.shape[-2:] != like.shape[-2:] and x.device.type == "cpu":
        x = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    return resize(x, like)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Crop maps (B, C, h, w) to their upper left corner; exporters keep the size free."""
    if torch.compiler.is_exporting():
        # Whether a slice is the whole map depends on the image's size, which would be fixed by asking.
        rows, columns = (torch.arange(length, device=x.device) for length in (height, width))
        return x.index_select(-2, rows).index_select(-1, columns)
    return x[..., :height, :width]


class _PooledBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that uses its running statistics where a batch has one value per channel: no variance."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def train_on_one_image(decoder: nn.Module) -> nn.Module:
    """Replace the BatchNorm layers of a decoder that pools to 1x1, so that it trains on a batch of one image.

    Returns:
        The same decoder; plain BatchNorm would raise on one value per channel.
    """
    for parent in list(decoder.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm) is nn.BatchNorm2d:
                new = _PooledBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
                new.load_state_dict(norm.state_dict())
                setattr(parent, name, new)
    return decoder
