"""DeepLabV3 and DeepLabV3+: atrous spatial pyramid pooling on a dilated backbone."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import SMP_DILATES, AuxiliaryHead, Network, train_on_one_image

_MMSEG = (
    "its branches are joined by one 3x3 convolution, where here, as in torchvision, a 1x1 convolution joins them and a"
    " 3x3 follows"
)


def _rates(output_stride: int) -> tuple[int, int, int]:
    """Atrous rates that cover the same pixels at any output stride: 6, 12, 18 at 16 (the authors' choice)."""
    return 96 // output_stride, 192 // output_stride, 288 // output_stride


class DeepLabV3(Network):
    """DeepLabV3: atrous spatial pyramid pooling with image pooling (arXiv:1706.05587).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        decoder_channels: Channels of each branch and of the decoder's output.
        atrous_rates: Dilations of the three atrous branches, in cells of the deepest map; by default those of
            the paper, 6, 12, 18 at output stride 16 and double at 8.
        dropout: Dropout after the branches are joined.
        multigrid: Relative dilations of the blocks of a ResNet's last stage; 1, 2, 4 in the paper.
        auxiliary: Whether training also gives the logits of a head on the second deepest map.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = DeepLabV3(11, "test_resnet", weights=False, output_stride=8, atrous_rates=(12, 24, 36)).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    layouts: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "torchvision": {
            r"^classifier\.0\.": "decoder.aspp.",
            r"^classifier\.1\.": "decoder.conv.",
            r"^classifier\.2\.": "decoder.bn.",
            r"^classifier\.4\.": "head.0.",
            r"^aux_classifier\.": "auxiliary.",
        },
    }
    strides_of: ClassVar[Mapping[str, int]] = {"torchvision": 8}
    differs: ClassVar[Mapping[str, str]] = {"mmsegmentation": _MMSEG, "smp": SMP_DILATES}

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: Literal[8, 16] = 16,
        decoder_channels: int = 256,
        atrous_rates: tuple[int, int, int] | None = None,
        dropout: float = 0.5,
        multigrid: tuple[int, ...] | None = None,
        auxiliary: bool = False,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder

        super().__init__(
            backbone, weights, output_stride, levels=(2, 3) if auxiliary else (3,), in_channels=in_channels
        )
        if multigrid:
            _set_multigrid(self.backbone, [32 // self.encoder.strides[-1] * rate for rate in multigrid])
        decoder = DeepLabV3Decoder(
            in_channels=self.encoder.channels[-1],
            out_channels=decoder_channels,
            atrous_rates=atrous_rates or _rates(self.encoder.strides[-1]),
            aspp_separable=False,
            aspp_dropout=dropout,
        )
        self.decoder = train_on_one_image(decoder)
        self.head = SegmentationHead(decoder_channels, num_classes, kernel_size=1)
        if auxiliary:
            self.auxiliary = AuxiliaryHead(self.encoder.channels, num_classes)


class DeepLabV3Plus(Network):
    """DeepLabV3+: separable atrous pyramid pooling, refined with features of stride 4 (arXiv:1802.02611).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`, with a feature map of stride 4.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        decoder_channels: Channels of each branch and of the decoder's output.
        atrous_rates: Dilations of the three atrous branches, in cells of the deepest map; by default those of
            the paper, 6, 12, 18 at output stride 16 and double at 8.
        dropout: Dropout after the branches are joined.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = DeepLabV3Plus(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    differs: ClassVar[Mapping[str, str]] = {"mmsegmentation": _MMSEG, "smp": SMP_DILATES}

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: Literal[8, 16] = 16,
        decoder_channels: int = 256,
        atrous_rates: tuple[int, int, int] | None = None,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder

        super().__init__(backbone, weights, output_stride, levels=(0, 3), in_channels=in_channels)
        self._fine = self.encoder.at_stride(4)
        channels = self.encoder.channels
        decoder = DeepLabV3PlusDecoder(
            encoder_channels=[0, 0, channels[self._fine], channels[-1]],  # it looks at the third and the last
            encoder_depth=5,
            out_channels=decoder_channels,
            atrous_rates=atrous_rates or _rates(self.encoder.strides[-1]),
            output_stride=self.encoder.strides[-1],
            aspp_separable=True,
            aspp_dropout=dropout,
        )
        self.decoder = train_on_one_image(decoder)
        self.head = SegmentationHead(decoder_channels, num_classes, kernel_size=1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Decode the deepest map, refined by the one of stride 4."""
        out: Tensor = self.decoder([features[0], features[0], features[self._fine], features[-1]])
        return out


class DeepLabLargeFOV(Network):
    """DeepLab-LargeFOV: VGG16 at output stride 8 and one 3x3 convolution of dilation 12 (arXiv:1412.7062).

    The backbone's last poolings are 2x2 where the authors' are 3x3, so that its maps hold the values of the
    pretrained network. The two convolutions that stand for fc6 and fc7 begin at random.

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels of fc6 and fc7.
        dilation: Dilation of fc6 in cells of the deepest map.
        dropout: Dropout after fc6 and after fc7.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = DeepLabLargeFOV(num_classes=21, backbone="resnet18", weights=False, decoder_channels=256).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 21, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "vgg16",
        weights: bool | str = True,
        decoder_channels: int = 1024,
        dilation: int = 12,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        super().__init__(backbone, weights, output_stride=8, levels=(3,), in_channels=in_channels)
        self.decoder = nn.Sequential(
            nn.Conv2d(self.encoder.channels[-1], decoder_channels, 3, padding=dilation, dilation=dilation),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(decoder_channels, decoder_channels, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(decoder_channels, num_classes, 1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Decode the deepest map."""
        out: Tensor = self.decoder(features[-1])
        return out


def _set_multigrid(backbone: Backbone, dilations: list[int]) -> None:
    """Dilate the 3x3 convolutions of the last stage block by block."""
    stage = backbone.stages()[-1][1]
    blocks = list(stage[0].children()) if len(stage) == 1 else []
    if len(blocks) != len(dilations):
        raise UserError(
            f"multigrid has {len(dilations)} rates, but the last stage of this backbone has {len(blocks)} "
            "blocks. Give one rate for each block of a ResNet's last stage: three for resnet50 and resnet101."
        )
    for block, dilation in zip(blocks, dilations, strict=True):
        for conv in block.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (dilation, dilation)
