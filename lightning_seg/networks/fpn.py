"""FPN for segmentation."""

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import PyramidNetwork


class FPN(PyramidNetwork):
    """FPN: features fused from the deepest to the finest, each level scored (Kirillov et al., CVPR 2019).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels of the pyramid.
        head_channels: Channels of the decoder's output.
        dropout: Dropout before the head.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = FPN(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        decoder_channels: int = 256,
        head_channels: int = 128,
        dropout: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

        super().__init__(
            backbone, weights, 32, in_channels=in_channels
        )  # the decoder doubles the size of every map
        self.decoder = FPNDecoder(
            self.pyramid_channels,
            pyramid_channels=decoder_channels,
            segmentation_channels=head_channels,
            dropout=dropout,
        )
        self.head = SegmentationHead(head_channels, num_classes, kernel_size=1)
