"""MA-Net."""

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import PyramidNetwork


class MAnet(PyramidNetwork):
    """MA-Net: a U-Net with attention over positions and over channels (doi:10.1109/ACCESS.2020.3025372).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels after each of the five steps, deepest first.
        attention_channels: Channels of the keys and queries of the attention over positions.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = MAnet(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        decoder_channels: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16),
        attention_channels: int = 64,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder

        super().__init__(
            backbone, weights, 32, in_channels=in_channels
        )  # the decoder doubles the size of every map
        self.decoder = MAnetDecoder(
            self.pyramid_channels, list(decoder_channels), pab_channels=attention_channels
        )
        self.head = SegmentationHead(decoder_channels[-1], num_classes, kernel_size=3)
