"""LinkNet."""

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import PyramidNetwork


class LinkNet(PyramidNetwork):
    """LinkNet: a light decoder whose steps add the encoder's maps (arXiv:1707.03718).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels of the decoder's output.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = LinkNet(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        decoder_channels: int = 32,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder

        super().__init__(
            backbone, weights, 32, in_channels=in_channels
        )  # the decoder doubles the size of every map
        self.decoder = LinknetDecoder(self.pyramid_channels, prefinal_channels=decoder_channels)
        self.head = SegmentationHead(decoder_channels, num_classes, kernel_size=1)
