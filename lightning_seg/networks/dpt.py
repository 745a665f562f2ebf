"""DPT: dense prediction from a vision transformer."""

from torch import Tensor

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import Network


class DPT(Network):
    """DPT: four maps of a transformer, reassembled at strides 4 to 32 and fused (arXiv:2103.13413).

    The class token is not read (the paper's "ignore").

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`: a vision transformer with patches of 16 pixels, or any
            with maps of strides 4, 8, 16 and 32.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels of the fused maps.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "vit_base_patch16_224",
        weights: bool | str = True,
        decoder_channels: int = 256,
    ) -> None:
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead

        super().__init__(backbone, weights)
        strides = self.backbone.strides[-4:]
        if strides not in ([16] * 4, [4, 8, 16, 32]):
            raise UserError(
                "DPT needs a transformer with patches of 16 pixels, or maps of strides 4, 8, 16 and 32, but "
                f"this one has {self.backbone.strides}. Choose one such as vit_base_patch16_224 or resnet50."
            )
        self.stride = 32
        self.decoder = DPTDecoder(
            encoder_out_channels=self.backbone.channels[-4:],
            encoder_output_strides=strides,
            encoder_has_prefix_tokens=False,
            readout="ignore",
            fusion_channels=decoder_channels,
        )
        self.head = DPTSegmentationHead(decoder_channels, num_classes, upsampling=1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Decode the four deepest maps."""
        out: Tensor = self.decoder(features[-4:], [None] * 4)
        return out
