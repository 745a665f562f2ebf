"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s, and the dilated FCN."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.pyramid import STRIDES
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.base import AuxiliaryHead, Network
from lightning_seg.networks.upsampling import Bilinear, Upsampling


class ConvolutionalVGG(TimmBackbone):
    """VGG with its two fully connected layers as convolutions, giving pool3, pool4 and fc7.

    Args:
        name: A VGG of timm, such as ``vgg16``.
        weights: Pretrained weights (see `TimmBackbone`), those of the fully connected layers included.
    """

    def __init__(self, name: str = "vgg16", weights: bool | str = True, in_channels: int = 3) -> None:
        super().__init__(name, weights, in_channels=in_channels)
        self.channels, self.strides = [256, 512, 4096], [8, 16, 32]
        self.fc1 = nn.Conv2d(512, 4096, 7, padding=3)
        self.fc2 = nn.Conv2d(4096, 4096, 1)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return pool3, pool4 and fc7 (B, 4096, H / 32, W / 32) of normalized images."""
        *_, conv3, conv4, _, pool5 = super().forward(x)  # timm's maps are those before each pooling
        fc6 = F.dropout(F.relu(self.fc1(pool5)), training=self.training)
        fc7 = F.dropout(F.relu(self.fc2(fc6)), training=self.training)
        return [F.max_pool2d(conv3, 2), F.max_pool2d(conv4, 2), fc7]

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the five convolutional stages and each of the fully connected layers."""
        return [*super().stages(), ("fc1", nn.ModuleList([self.fc1])), ("fc2", nn.ModuleList([self.fc2]))]

    def _rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = dict(state)
        # torchvision's classifier has matrices over the flattened 7x7 map
        for name, layer in {"classifier.0": self.fc1, "classifier.3": self.fc2}.items():
            weight = state.get(f"{name}.weight")
            if weight is not None and weight.numel() == layer.weight.numel():
                state[f"{name}.weight"] = weight.reshape(layer.weight.shape)
        ours = {"pre_logits": "", "classifier.0": "fc1", "classifier.3": "fc2"}
        renamed = {}
        for key, value in state.items():
            theirs = next((name for name in ours if key.startswith(f"{name}.")), None)
            rest = key if theirs is None else f"{ours[theirs]}{key.removeprefix(theirs)}".removeprefix(".")
            renamed[rest] = value
        return renamed


class _SkipDecoder(nn.Module):
    """Scores feature maps and adds them up, deepest first."""

    def __init__(
        self, channels: list[int], num_classes: int, upsampling: Callable[[int, int, int], Upsampling]
    ) -> None:
        super().__init__()
        self.scores = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in channels)
        self.ups = nn.ModuleList(upsampling(num_classes, num_classes, 2) for _ in channels[1:])
        for score in list(self.scores)[1:]:  # training starts as FCN-32s, as the authors' did
            for parameter in score.parameters():
                nn.init.zeros_(parameter)

    def forward(self, features: list[Tensor]) -> Tensor:
        logits: Tensor
        logits, *finer = (score(x) for score, x in zip(self.scores, features, strict=True))
        for up, scores in zip(self.ups, finer, strict=True):
            logits = up(logits) + scores
        return logits


class FCN32s(Network):
    """FCN-32s: class scores from the deepest feature map, enlarged to the image (arXiv:1411.4038).

    A VGG keeps its fully connected layers as convolutions, as the authors' networks do; of any other backbone
    the feature maps are scored as they are.

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`, with feature maps of the strides that are fused.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        upsampling: What makes scores larger, called with the channels of input and output and the factor. The
            authors' is `TransposedConvolution` with ``bilinear: true``, the last of them fixed.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = FCN32s(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    fused: tuple[int, ...] = (32,)  # strides, deepest first

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "vgg16",
        weights: bool | str = True,
        upsampling: Callable[[int, int, int], Upsampling] = Bilinear,
        in_channels: int = 3,
    ) -> None:
        if isinstance(backbone, str) and backbone.startswith("vgg"):
            backbone = ConvolutionalVGG(backbone, weights, in_channels)
        levels = [STRIDES.index(stride) for stride in reversed(self.fused)]
        super().__init__(backbone, weights, levels=levels, in_channels=in_channels)
        self._fused = [self.encoder.at_stride(stride) for stride in self.fused]
        channels = [self.encoder.channels[i] for i in self._fused]
        self.decoder = _SkipDecoder(channels, num_classes, upsampling)
        self.head = upsampling(num_classes, num_classes, self.fused[-1])

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Score and fuse the maps of the strides of `fused`."""
        out: Tensor = self.decoder([features[i] for i in self._fused])
        return out


class FCN16s(FCN32s):
    """FCN-16s: FCN-32s with the scores of stride 16 added (see `FCN32s` for the arguments).

    Examples:
        >>> network = FCN16s(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    fused = (32, 16)


class FCN8s(FCN32s):
    """FCN-8s: FCN-16s with the scores of stride 8 added (see `FCN32s` for the arguments).

    Examples:
        >>> network = FCN8s(11, "test_resnet", weights=False, upsampling=Bilinear).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    fused = (32, 16, 8)


class FCN(Network):
    """The FCN of later papers: a 3x3 convolution on the deepest map of a dilated backbone.

    This is what torchvision and mmsegmentation call FCN, a baseline for DeepLab and PSPNet.

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        dropout: Dropout before the head.
        auxiliary: Whether training also gives the logits of a head on the second deepest map.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = FCN(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    layouts: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "torchvision": {
            r"^classifier\.([01])\.": r"decoder.\1.",
            r"^classifier\.4\.": "head.",
            r"^aux_classifier\.": "auxiliary.",
        },
    }
    strides_of: ClassVar[Mapping[str, int]] = {"torchvision": 8}
    differs: ClassVar[Mapping[str, str]] = {
        "mmsegmentation": "its head has two 3x3 convolutions and a third on their result beside the backbone's map,"
        " where here, as in torchvision, there is one"
    }

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: int = 8,
        dropout: float = 0.1,
        auxiliary: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__(
            backbone, weights, output_stride, levels=(2, 3) if auxiliary else (3,), in_channels=in_channels
        )
        channels = self.encoder.channels
        self.decoder = nn.Sequential(
            nn.Conv2d(channels[-1], channels[-1] // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels[-1] // 4),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(channels[-1] // 4, num_classes, 1)
        if auxiliary:
            self.auxiliary = AuxiliaryHead(channels, num_classes)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Decode the deepest map."""
        out: Tensor = self.decoder(features[-1])
        return out
