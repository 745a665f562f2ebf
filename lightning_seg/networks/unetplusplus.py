"""U-Net++."""

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import PyramidNetwork


class UNetPlusPlus(PyramidNetwork):
    """U-Net++: a U-Net whose skips are dense chains of convolutions (arXiv:1807.10165).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels after each of the five steps, deepest first.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = UNetPlusPlus(num_classes=2, backbone="resnet18", weights=False).eval()
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        decoder_channels: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16),
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder

        super().__init__(
            backbone, weights, 32, in_channels=in_channels
        )  # the decoder doubles the size of every map
        self.decoder = UnetPlusPlusDecoder(self.pyramid_channels, decoder_channels)
        self.head = SegmentationHead(decoder_channels[-1], num_classes, kernel_size=3)
