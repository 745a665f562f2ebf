"""SegNet and SegNet-Basic: an encoder and its mirror image (arXiv:1511.00561)."""

from collections.abc import Callable

from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.plain import PlainBackbone, convolutions
from lightning_seg.networks.base import Network
from lightning_seg.networks.upsampling import MaxUnpooling, Upsampling


class _MirrorDecoder(nn.Module):
    """Undoes the encoder stage by stage; nothing but the places of its maxima comes from the encoder.

    Args:
        channels: Channels of the encoder's maps, finest first.
        layers: Convolutions after each step, finest first.
        upsampling: Makes the operator of a step.
        kernel: Size of the convolutions' kernels.
        relu: Whether an activation follows each convolution.
    """

    def __init__(
        self,
        channels: list[int],
        layers: tuple[int, ...],
        upsampling: Callable[[int, int, int], Upsampling],
        kernel: int = 3,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        width = channels[-1]
        for i in reversed(range(len(channels) - 1)):
            self.ups.append(upsampling(width, channels[i], 2))
            width = channels[max(i - 1, 0)]
            self.blocks.append(convolutions([channels[i]] * layers[i] + [width], kernel, relu=relu))
        self.channels = width

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for up, block, pooled in zip(self.ups, self.blocks, features[-2::-1], strict=True):
            x = block(up(x, pooled))
        return x


class SegNet(Network):
    """SegNet: an encoder mirrored by a decoder that puts values back where the encoder's maxima were.

    The authors' encoder is a VGG16, whose poolings are undone one by one. With another backbone a value goes
    where the finer of two feature maps has the maximum of its 2x2 cell, whatever made the coarser one.

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`, each of whose maps is half as large as the one before.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        upsampling: What makes maps larger, called with the channels of input and output and the factor 2.
        layers: Convolutions of each decoder stage, finest first; by default the mirror image of VGG16's.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: The backbone is a plain vision transformer, or its maps do not halve from one to the next.

    Examples:
        >>> network = SegNet(num_classes=11, backbone="resnet18", weights=False, upsampling=MaxUnpooling).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "vgg16_bn",
        weights: bool | str = True,
        upsampling: Callable[[int, int, int], Upsampling] = MaxUnpooling,
        layers: tuple[int, int, int, int, int] = (2, 2, 3, 3, 3),
        in_channels: int = 3,
    ) -> None:
        super().__init__(backbone, weights, in_channels=in_channels)
        strides = self.backbone.strides
        if self.backbone.plain:
            raise UserError(
                "SegNet undoes the poolings of its encoder, and a plain vision transformer has none. Choose a backbone "
                "such as vgg16_bn or resnet50."
            )
        if strides != [strides[0] * 2**i for i in range(len(strides))] or not 1 < len(strides) <= 6:
            raise UserError(
                f"SegNet undoes its encoder in steps of two, but this backbone has strides {strides}. "
                "Choose one such as vgg16_bn or resnet50."
            )
        # The last convolution of the finest stage is the head.
        counts = (layers[0] - 1, *layers[1:])[-len(strides) + 1 :]
        self.decoder = _MirrorDecoder(self.backbone.channels, counts, upsampling)
        self.head = nn.Conv2d(self.decoder.channels, num_classes, 3, padding=1)


class SegNetBasic(Network):
    """SegNet-Basic: four 7x7 convolutions down, four up, for comparing ways to upsample.

    Args:
        num_classes: Number of classes.
        channels: Channels of every convolution.
        upsampling: What makes maps larger, called with the channels of input and output and the factor 2.
        pooling: Makes a pooling from its kernel size, 2 (see `PlainBackbone`).
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = SegNetBasic(num_classes=11, channels=16, upsampling=Bilinear).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 64,
        upsampling: Callable[[int, int, int], Upsampling] = MaxUnpooling,
        pooling: Callable[[int], nn.Module] = nn.MaxPool2d,
        in_channels: int = 3,
    ) -> None:
        widths = [channels] * 5
        blocks = [convolutions([in_channels if i == 0 else channels, channels], kernel=7) for i in range(4)]
        backbone = PlainBackbone([*blocks, nn.Identity()], widths, pooling, in_channels)
        super().__init__(backbone, in_channels=in_channels)
        # As in the authors' network, the decoder's convolutions have no activation.
        self.decoder = _MirrorDecoder(widths, (1, 1, 1, 1), upsampling, kernel=7, relu=False)
        self.head = nn.Conv2d(channels, num_classes, 1)
