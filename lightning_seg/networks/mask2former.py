"""Mask2Former: masked attention on a pyramid of maps, as transformers implements it, on any backbone here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.tensor_file import Translation, misfit
from lightning_seg.networks.backbones.weights import read_weights
from lightning_seg.networks.mask_network import MaskNetwork, Queries


class Mask2Former(MaskNetwork):
    """Cheng et al., "Masked-attention mask transformer for universal image segmentation", arXiv:2112.01527.

    Pixel decoder (multi-scale deformable attention in plain PyTorch) and transformer decoder are those of transformers
    (extra ``transformers``); the backbone is timm's or any other with maps of strides 4, 8, 16 and 32, with its own
    policies and weights.

    Args:
        num_classes: Number of classes.
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of a backbone given by name (see `TimmBackbone`).
        queries: Number of queries.
        channels: Channels of maps and queries, a multiple of 32.
        encoder_layers: Layers of the pixel decoder.
        decoder_layers: Layers of the transformer decoder.
        heads: Heads of attention.
        hidden: Channels within a layer of the transformer decoder; of the pixel decoder half as many.
        pretrained: File of a whole Mask2Former as transformers publishes it, of which all is taken but the backbone; a
            classifier for another number of classes is left out.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: transformers is not installed, the backbone has other maps, or a number makes no sense.

    Examples:
        >>> small = {"queries": 10, "encoder_layers": 1, "decoder_layers": 1}
        >>> network = Mask2Former(num_classes=3, backbone="test_resnet", weights=False, **small).eval()
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    decoder: nn.ModuleDict

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        queries: int = 100,
        channels: int = 256,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        heads: int = 8,
        hidden: int = 2048,
        pretrained: str | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__(backbone, weights, 32, levels=range(4), in_channels=in_channels)
        if self.encoder.strides[-4:] != [4, 8, 16, 32]:
            raise UserError(
                f"Mask2Former needs maps of strides 4, 8, 16 and 32, but this backbone has {self.encoder.strides}. "
                "Choose one with a pyramid, such as resnet50."
            )
        if channels % 32 or channels % heads or min(encoder_layers, decoder_layers) < 1:
            raise UserError(
                f"Mask2Former: expected channels that are a multiple of 32 and of heads, and layers from 1 on, got "
                f"channels {channels}, heads {heads}, layers {encoder_layers} and {decoder_layers}."
            )
        self.pretrained = pretrained
        model = _transformers_model(
            self.encoder.channels[-4:],
            num_queries=queries,
            feature_size=channels,
            mask_feature_size=channels,
            hidden_dim=channels,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers + 1,  # there the one before the first layer counts, too
            num_attention_heads=heads,
            dim_feedforward=hidden,
            encoder_feedforward_dim=max(1, hidden // 2),
        )
        self.decoder = nn.ModuleDict(
            {"pixels": model.pixel_level_module.decoder, "queries": model.transformer_module}
        )
        self.head = nn.Linear(channels, num_classes + 1)

    def layers(self, x: Tensor) -> list[Queries]:
        """Return the queries before the first layer of the transformer decoder and after each."""
        features = self.backbone(self.pad_to_patches(x))
        if self.neck is not None:
            features = self.neck(features, x)
        pixels = self.decoder["pixels"](features[-4:])
        out = self.decoder["queries"](pixels.multi_scale_features, pixels.mask_features)
        states = out.intermediate_hidden_states
        return [
            Queries(masks, self.head(state.transpose(0, 1)))
            for masks, state in zip(out.masks_queries_logits, states, strict=True)
        ]

    def load_weights(self, find_checkpoint: Callable[[str], Path] = Path) -> str:
        """Load those of the backbone, and those of pixel and transformer decoder if `pretrained` names a file."""
        said = super().load_weights(find_checkpoint)
        if self.pretrained is None:
            return said
        tree, source, _ = read_weights("Mask2Former", self.pretrained)
        return f"{said}; {self.set_published(tree if isinstance(tree, dict) else {}, source)}"

    def set_published(self, state: Mapping[str, Tensor], source: str) -> str:
        """Take all but the backbone from the state dict of transformers' Mask2FormerForUniversalSegmentation.

        Args:
            state: The state dict.
            source: Its file, for messages.

        Returns:
            What was loaded, in words.

        Raises:
            UserError: Tensors are missing, of other shapes or not finite; the network is as it was.
        """
        names = {
            "decoder.pixels.": "model.pixel_level_module.decoder.",
            "decoder.queries.": "model.transformer_module.",
            "head.": "class_predictor.",
        }
        own = {k: v for k, v in self.state_dict().items() if k.startswith(tuple(names))}
        found, wrong, left = {}, [], ""
        for key, value in own.items():
            mine = next(prefix for prefix in names if key.startswith(prefix))
            there = names[mine] + key.removeprefix(mine)
            theirs = state.get(there)
            if theirs is not None and theirs.shape == value.shape:
                found[key] = theirs
            elif theirs is not None and mine == "head.":
                left = "; at random: the classifier, which is for other classes"
            else:
                wrong.append(f"{there} is {'missing' if theirs is None else tuple(theirs.shape)}")
        if wrong:
            raise UserError(
                f"{source} does not hold the decoders of this Mask2Former: {'; '.join(wrong[:3])}; {len(wrong)} "
                "tensors in all. Choose its queries, channels and layers, and a backbone of the same channels."
            )
        why, *_ = misfit({key: own[key] for key in found}, Translation(found))
        if why:  # of another kind, NaN or infinite
            raise UserError(f"{source} does not hold the decoders of this Mask2Former: {why}.")
        self.load_state_dict(found, strict=False)
        return f"decoders {len(found)} tensors of {source}{left}"


def _transformers_model(channels: list[int], **settings: Any) -> Any:
    """Make transformers' model for maps of these channels; its own backbone is not used."""
    try:
        from transformers import Mask2FormerConfig, Mask2FormerModel, ResNetConfig
    except ImportError:
        raise UserError(
            "Mask2Former needs transformers, which is not installed: uv pip install 'lightning-seg[transformers]'."
        ) from None
    stages = [f"stage{i}" for i in range(1, 5)]
    options: dict[str, Any] = {"layer_type": "basic", "depths": [1, 1, 1, 1], "out_features": stages}
    stand_in = ResNetConfig(embedding_size=8, hidden_sizes=list(channels), **options)
    return Mask2FormerModel(Mask2FormerConfig(backbone_config=stand_in, **settings))
