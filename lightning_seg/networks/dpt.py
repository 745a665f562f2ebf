"""DPT: dense prediction from a vision transformer."""

import math
from collections.abc import Sequence

from torch import Tensor

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import Network


class DPT(Network):
    """DPT: four maps of a transformer, reassembled at strides 4 to 32 and fused (arXiv:2103.13413).

    The class token is not read (the paper's "ignore").

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`: a plain vision transformer, or any with maps of strides 4, 8, 16
            and 32. With patches of 14 pixels the strides are 7/8 of those.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        decoder_channels: Channels of the fused maps.
        map_channels: Channels of the four maps before they are fused, as the paper has them for ViT-L. DINOv2's authors
            take an eighth, a quarter, a half and all of the transformer's: 48, 96, 192, 384 for ViT-S.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: The backbone has no such maps, or `map_channels` are not four numbers.

    Examples:
        >>> network = DPT(num_classes=11, backbone="vit_tiny_patch16_224", weights=False, decoder_channels=32).eval()
        >>> network(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 11, 64, 96])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "vit_base_patch16_224",
        weights: bool | str = True,
        decoder_channels: int = 256,
        map_channels: Sequence[int] = (256, 512, 1024, 1024),
        in_channels: int = 3,
    ) -> None:
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead

        super().__init__(backbone, weights, in_channels=in_channels)
        strides = self.backbone.strides[-4:]
        if len(strides) < 4 or not (self.backbone.plain or strides == [4, 8, 16, 32]):
            raise UserError(
                "DPT needs four maps of a plain vision transformer, or maps of strides 4, 8, 16 and 32, but this one "
                f"has {self.backbone.strides}. Choose one such as vit_base_patch16_224 or resnet50."
            )
        if len(map_channels) != 4:
            raise UserError(f"DPT: map_channels must be four numbers, one a map, got {list(map_channels)}.")
        self.stride = 32
        if self.backbone.plain:
            patch = strides[-1]
            strides = [2 ** round(math.log2(patch))] * 4  # patches of 14 are taken as if they were of 16
            self.stride = patch * max(1, 32 // strides[-1])
        self.decoder = DPTDecoder(
            encoder_out_channels=self.backbone.channels[-4:],
            encoder_output_strides=strides,
            encoder_has_prefix_tokens=False,
            readout="ignore",
            intermediate_channels=map_channels,
            fusion_channels=decoder_channels,
        )
        self.head = DPTSegmentationHead(decoder_channels, num_classes, upsampling=1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Decode the four deepest maps."""
        out: Tensor = self.decoder(features[-4:], [None] * 4)
        return out
