"""MiT, the encoder of SegFormer, which timm does not have."""

from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.tensor_file import load_fitting, read_tree, split_choice
from lightning_seg.networks.backbones.weights import FLAG, unreachable


class MixTransformer(Backbone):
    """A Mix Transformer of segmentation-models-pytorch: maps of strides 4, 8, 16 and 32 (arXiv:2105.15203).

    In a YAML it stands for the backbone's name:
    ``backbone: {class_path: MixTransformer, init_args: {name: mit_b2}}``.

    Args:
        name: ``mit_b0`` to ``mit_b5``.
        weights: True for ImageNet weights from the hub, False for random ones, or the path of a file.

    Raises:
        UserError: There is no such encoder.

    Examples:
        >>> [tuple(x.shape) for x in MixTransformer("mit_b0", weights=False)(torch.zeros(1, 3, 64, 64))]
        [(1, 32, 16, 16), (1, 64, 8, 8), (1, 160, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(self, name: str = "mit_b0", weights: bool | str = True) -> None:
        from segmentation_models_pytorch.encoders import get_encoder
        from segmentation_models_pytorch.encoders.mix_transformer import mix_transformer_encoders

        if name not in mix_transformer_encoders:
            raise UserError(f"expected one of {', '.join(mix_transformer_encoders)}, got {name!r}.")
        net = get_encoder(name, weights=None)
        super().__init__(net.out_channels[-4:], (4, 8, 16, 32))
        self.name, self.weights, self.net = name, weights, net

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps (B, channels[i], H / strides[i], W / strides[i]) of normalized images."""
        out: list[Tensor] = self.net(x)[-4:]
        return out

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the parts that make each feature map from the one before (see `Backbone.stages`)."""
        parts = ("patch_embed", "block", "norm")
        return [
            (f"stage{i}", nn.ModuleList(getattr(self.net, f"{part}{i + 1}") for part in parts))
            for i in range(4)
        ]

    def load_weights(self) -> str:
        """Load the pretrained weights named in the constructor, and say in words what was loaded.

        Raises:
            UserError: If they cannot be found, or are not this encoder's.
        """
        if self.weights is False:
            return super().load_weights()
        choice = ""
        state: object
        if self.weights is True:
            state, source = _from_hub(self.name), f"ImageNet, {self.name}"
        else:
            file, choice = split_choice(str(self.weights))
            state, source = read_tree(file, FLAG), str(file)
        return "backbone " + load_fitting(self.net, state, source, self.name, choice=choice)


def _from_hub(name: str) -> dict[str, Tensor]:
    import huggingface_hub as hub
    from segmentation_models_pytorch.encoders import get_encoder
    from segmentation_models_pytorch.encoders.mix_transformer import mix_transformer_encoders

    source = mix_transformer_encoders[name]["pretrained_settings"]["imagenet"]
    repo, revision = source["repo_id"], source["revision"]
    cached = hub.try_to_load_from_cache(repo, "model.safetensors", revision=revision)
    # The hub client retries for about half a minute without a network, so ask first whether it answers.
    reason = "" if isinstance(cached, str) else unreachable(hub.constants.ENDPOINT)
    if not reason:
        out: dict[str, Tensor] = get_encoder(name, weights="imagenet").state_dict()
        return out
    raise UserError(
        f"the pretrained weights of {name} ({repo}) cannot be downloaded: {reason}. "
        "Give weights the path of a file, or false to start from random ones."
    )
