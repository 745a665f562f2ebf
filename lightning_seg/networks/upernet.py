"""UPerNet."""

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import AuxiliaryHead, PyramidNetwork, train_on_one_image


class UPerNet(PyramidNetwork):
    """UPerNet: pyramid pooling on the deepest map, then FPN down to stride 4 (arXiv:1807.10221).

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        output_stride: Stride in pixels of the deepest feature map.
        decoder_channels: Channels of every map in the decoder.
        auxiliary: Whether training also gives the logits of a head on the second deepest map.
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = UPerNet(num_classes=11, backbone="test_resnet", weights=False).eval()
        >>> network(torch.zeros(1, 3, 90, 120)).shape
        torch.Size([1, 11, 90, 120])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        output_stride: int = 32,
        decoder_channels: int = 256,
        auxiliary: bool = False,
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        super().__init__(backbone, weights, output_stride, in_channels=in_channels)
        decoder = UPerNetDecoder(self.pyramid_channels, decoder_channels=decoder_channels)
        self.decoder = train_on_one_image(decoder)
        self.head = SegmentationHead(decoder_channels, num_classes, kernel_size=1)
        if auxiliary:
            self.auxiliary = AuxiliaryHead(self.encoder.channels, num_classes)
