"""U-Net on any backbone."""

from lightning_seg.networks.backbone import Encoder
from lightning_seg.networks.base import PyramidNetwork


class UNet(PyramidNetwork):
    """U-Net on a backbone: back to full resolution in five steps, each joined by features (arXiv:1505.04597).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or an encoder.
        weights: Pretrained weights of the backbone (see `Backbone`).
        output_stride: Stride in pixels of the deepest feature map.
        decoder_channels: Channels after each of the five steps, deepest first.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Encoder = "resnet50",
        weights: bool | str = True,
        output_stride: int = 32,
        decoder_channels: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16),
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        super().__init__(backbone, weights, output_stride)
        self.decoder = UnetDecoder(self.pyramid_channels, decoder_channels)
        self.head = SegmentationHead(decoder_channels[-1], num_classes, kernel_size=3)
