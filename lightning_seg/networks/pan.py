"""PAN."""

from collections.abc import Mapping
from typing import ClassVar

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import SMP_DILATES, PyramidNetwork, train_on_one_image


class PAN(PyramidNetwork):
    """PAN: attention over a pyramid of the deepest map guides the finer ones (arXiv:1805.10180).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        decoder_channels: Channels of every map in the decoder.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = PAN(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    differs: ClassVar[Mapping[str, str]] = {"smp": SMP_DILATES}

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: int = 16,
        decoder_channels: int = 32,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder

        super().__init__(backbone, weights, output_stride, in_channels=in_channels)
        self.stride *= 8  # the decoder halves the deepest map three times
        decoder = PANDecoder(self.pyramid_channels, encoder_depth=5, decoder_channels=decoder_channels)
        self.decoder = train_on_one_image(decoder)
        self.head = SegmentationHead(decoder_channels, num_classes, kernel_size=3)
