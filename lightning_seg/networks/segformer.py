"""SegFormer's decoder on any backbone."""

from torch import Tensor

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import PyramidNetwork


class SegFormer(PyramidNetwork):
    """SegFormer: maps of strides 4 to 32, each through a linear layer, resized and fused (arXiv:2105.15203).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`; ``pvt_v2_b2`` is timm's nearest to the authors' MiT-B2.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels of the decoder.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = SegFormer(num_classes=11, backbone=MixTransformer("mit_b0", weights=False)).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "pvt_v2_b2",
        weights: bool | str = True,
        decoder_channels: int = 256,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

        super().__init__(backbone, weights, output_stride=32, in_channels=in_channels)
        channels = [in_channels, 0, *self.encoder.channels[-4:]]
        self.decoder = SegformerDecoder(channels, segmentation_channels=decoder_channels)
        self.head = SegmentationHead(decoder_channels, num_classes, kernel_size=1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Decode the four deepest maps."""
        out: Tensor = self.decoder([x, x[:, :0], *features[-4:]])
        return out
