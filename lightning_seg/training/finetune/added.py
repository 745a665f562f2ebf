"""Fine-tuning by what is small: biases, norms, prompts and adapters beside a backbone that stands still."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.tensor_file import ADDED
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.training.finetune.groups import ParameterGroup
from lightning_seg.training.finetune.parts import BatchNorm, Part, batch_norms
from lightning_seg.training.finetune.policies import Full, GradualUnfreeze


class BitFit(Full):
    """Train the backbone's biases alone, those of its norms included (arXiv:2106.10199), and decoder and head.

    Biases are the vectors named `bias` or with that ending, such as BEiT's `q_bias`; tables of relative positions are
    none.

    Args:
        backbone_lr_mult: Factor on the learning rate of the biases.

    Examples:
        >>> network = Linear(2, "test_vit", weights=False)
        >>> BitFit().apply(network)
        >>> sum(p.numel() for p in network.backbone.parameters() if p.requires_grad)
        3968
    """

    def __init__(self, backbone_lr_mult: float = 1.0) -> None:
        super().__init__(backbone_lr_mult, batch_norm="eval")

    def apply(self, network: BackboneNetwork) -> None:
        """Freeze all but biases.

        Raises:
            UserError: The backbone has none.
        """
        names = {name for name, p in network.backbone.named_parameters() if is_bias(name, p)}
        _train_only(network, names, "biases", self)


class NormsOnly(Full):
    """Train scale and shift of the backbone's norms alone (arXiv:2003.00152, arXiv:2312.11420), and decoder and head.

    Args:
        backbone_lr_mult: Factor on the learning rate of the norms.
        batch_norm: Whether BatchNorm uses the statistics of the batch (``train``) or of the pretraining (``eval``).

    Raises:
        UserError: `batch_norm` is frozen.

    Examples:
        >>> network = UNet(2, "test_resnet", weights=False)
        >>> NormsOnly().apply(network)
        >>> sum(p.numel() for p in network.backbone.parameters() if p.requires_grad)
        2080
    """

    def __init__(self, backbone_lr_mult: float = 1.0, batch_norm: BatchNorm = "eval") -> None:
        super().__init__(backbone_lr_mult, batch_norm)
        if batch_norm == "frozen":
            raise UserError("NormsOnly trains BatchNorm's scale and shift: batch_norm must be eval or train.")

    def apply(self, network: BackboneNetwork) -> None:
        """Freeze all but norms.

        Raises:
            UserError: The backbone has none.
        """
        modules = dict(network.backbone.named_modules())
        kinds = ("norm", "rms")  # timm's own, with an activation, are subclasses or called so
        names = {
            name
            for name, _ in network.backbone.named_parameters()
            if any(kind in type(modules[name.rpartition(".")[0]]).__name__.lower() for kind in kinds)
        }
        _train_only(network, names, "norms with scale and shift", self)


class Adapters(Full):
    """Freeze the backbone and train a small network after each transformer block (arXiv:1902.00751).

    A block's output x becomes x + up(GELU(down(x))), where `up` is zero at first; decoder and head train, too.

    Args:
        width: Features within an adapter.
        backbone_lr_mult: Factor on the learning rate of the adapters.

    Raises:
        UserError: `width` is below 1.

    Examples:
        >>> network = Linear(2, "test_vit", weights=False)
        >>> Adapters(width=8).apply(network)
        >>> sum(p.numel() for p in network.backbone.parameters() if p.requires_grad)
        6576
    """

    def __init__(self, width: int = 64, backbone_lr_mult: float = 1.0) -> None:
        super().__init__(backbone_lr_mult, batch_norm="frozen")
        if width < 1:
            raise UserError(f"Adapters need a width of 1 or more, such as 64; got {width}.")
        self.width = width

    def apply(self, network: BackboneNetwork) -> None:
        """Freeze the backbone and put adapters after its blocks.

        Raises:
            UserError: It has no transformer blocks.
        """
        network.backbone.requires_grad_(False)
        for block, features in _blocks(network, self):
            block.add_module(f"{ADDED}adapter", Bottleneck(features, self.width))
            block.register_forward_hook(_adapt)
            block.register_load_state_dict_pre_hook(_keep_added)


class Bottleneck(nn.Module):
    """A residual of two linear layers (..., C); it changes nothing at first.

    Args:
        features: C.
        width: Features between the layers.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, width), nn.Linear(width, features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (..., C) of the same shape."""
        change: Tensor = self.up(nn.functional.gelu(self.down(x)))
        return x + change


class VisualPrompts(Full):
    """Freeze a plain vision transformer and train tokens that its blocks see (arXiv:2203.12119, the deep kind).

    Decoder and head train, too. Unlike other additions, prompts change the features from the start.

    Args:
        prompts: Tokens of each block.
        backbone_lr_mult: Factor on the learning rate of the prompts.

    Raises:
        UserError: `prompts` is below 1.

    Examples:
        >>> network = Linear(2, "test_vit", weights=False)
        >>> VisualPrompts(prompts=5).apply(network)
        >>> sum(p.numel() for p in network.backbone.parameters() if p.requires_grad)
        1920
    """

    def __init__(self, prompts: int = 10, backbone_lr_mult: float = 1.0) -> None:
        super().__init__(backbone_lr_mult, batch_norm="frozen")
        if prompts < 1:
            raise UserError(f"VisualPrompts needs 1 or more prompts, such as 10; got {prompts}.")
        self.prompts = prompts

    def apply(self, network: BackboneNetwork) -> None:
        """Freeze the backbone and give its blocks prompts.

        Raises:
            UserError: It is no plain vision transformer, or its attention knows the places of tokens.
        """
        from timm.models.vision_transformer import Block

        blocks = _blocks(network, self)
        if other := next((type(block).__name__ for block, _ in blocks if not isinstance(block, Block)), ""):
            raise UserError(
                f"VisualPrompts needs blocks whose attention takes any number of tokens, as those of ViT, DeiT-3 and"
                f" DINOv2, and the backbone {getattr(network.backbone, 'name', '')} has {other}. Take Adapters or LoRA."
            )
        network.backbone.requires_grad_(False)
        for block, features in blocks:
            limit = (6 / (2 * features)) ** 0.5
            tokens = nn.Parameter(torch.empty(1, self.prompts, features).uniform_(-limit, limit))
            block.register_parameter(f"{ADDED}prompts", tokens)
            block.register_forward_pre_hook(_insert)
            block.register_forward_hook(_remove)
            block.register_load_state_dict_pre_hook(_keep_added)


class ProbeThenFinetune(GradualUnfreeze):
    """Train decoder and head on the frozen backbone first, then everything (LP-FT, arXiv:2202.10054).

    Args:
        probe: When the backbone begins to train: a fraction of the training below 1, or a whole epoch.
        backbone_lr_mult: Factor on the learning rate of the backbone.
        batch_norm: What its BatchNorm does then (see `Full`).

    Raises:
        UserError: `probe` is no fraction below 1 and no whole epoch.

    Examples:
        >>> network = UNet(2, "test_resnet", weights=False)
        >>> policy = ProbeThenFinetune(probe=0.3)
        >>> policy.apply(network)
        >>> policy.advance(network, epoch=0, progress=0.3)  # the backbone begins to train
        False
    """

    def __init__(
        self, probe: float = 0.3, backbone_lr_mult: float = 0.1, batch_norm: BatchNorm = "eval"
    ) -> None:
        if not probe >= 0 or (probe > 1 and probe % 1 != 0):
            raise UserError(
                "ProbeThenFinetune needs its probe as a fraction of the training below 1 or as a whole epoch, such as"
                f" 0.3 or 2; got {probe}."
            )
        super().__init__([probe], backbone_lr_mult, batch_norm)

    def apply(self, network: BackboneNetwork) -> None:
        """Switch off the gradients of what never trains."""
        self.schedule = self.schedule[:1] * len(network.backbone.stages())
        super().apply(network)


def is_bias(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a bias: a vector named so, or with that ending.

    Args:
        name: Its name, with dots.
        parameter: The parameter.
    """
    leaf = name.rpartition(".")[2]
    return parameter.ndim == 1 and (leaf == "bias" or leaf.endswith("_bias"))


def _train_only(network: BackboneNetwork, names: set[str], what: str, policy: Full) -> None:
    if not names:
        raise UserError(
            f"{type(policy).__name__} trains {what}, and the backbone {getattr(network.backbone, 'name', '')} has none."
        )
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(name in names)


def _blocks(network: BackboneNetwork, policy: Full) -> list[tuple[nn.Module, int]]:
    """List the transformer blocks of a backbone, each with its number of features."""
    found = []
    for part in network.backbone.modules():
        norm = getattr(part, "norm1", None)
        if isinstance(norm, nn.LayerNorm) and hasattr(part, "mlp"):
            found.append((part, norm.normalized_shape[0]))
    if not found:
        raise UserError(
            f"{type(policy).__name__} needs transformer blocks, and the backbone"
            f" {getattr(network.backbone, 'name', '')} has none. Choose a transformer such as vit_small_patch16_224, or"
            " the policy LoRA, which also changes 1x1 convolutions."
        )
    return found


def _adapt(block: nn.Module, _: object, out: Tensor) -> Tensor:
    changed: Tensor = block.get_submodule(f"{ADDED}adapter")(out)
    return changed


def _insert(block: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    tokens = block.get_parameter(f"{ADDED}prompts").to(given[0].dtype)
    return torch.cat([given[0], tokens.expand(len(given[0]), -1, -1)], 1), *given[1:]


def _remove(block: nn.Module, _: object, out: Tensor) -> Tensor:
    return out[:, : -block.get_parameter(f"{ADDED}prompts").shape[1]]


def _keep_added(block: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Let a block with an addition load the weights of one without."""
    own = {f"{prefix}{key}": value for key, value in block.state_dict().items() if key.startswith(ADDED)}
    if not own.keys() & state.keys():
        state.update(own)


class DecoderNorms(Full):
    """Say what the BatchNorm of decoder and head does; everything else is another policy's.

    Usual where small batches continue from a trained decoder (``weights: run:RUN``); one that begins at random has
    statistics of nothing, which only ``train`` replaces.

    Args:
        policy: What else trains; `Full` unless given.
        batch_norm: ``eval`` keeps the statistics, ``frozen`` also scale and shift, ``train`` changes nothing.

    Examples:
        >>> network = UNet(2, "test_resnet", weights=False)
        >>> policy = DecoderNorms(Frozen(), batch_norm="eval")
        >>> [(part.name, part.batch_norm) for part in policy.parts(network)][-2:]
        [('decoder', 'eval'), ('head', None)]
    """

    def __init__(self, policy: Full | None = None, batch_norm: BatchNorm = "eval") -> None:
        self.policy = policy or Full()
        super().__init__(self.policy.backbone_lr_mult, self.policy.batch_norm)
        self.decoder_batch_norm = batch_norm

    def frozen_stages(self, stages: int) -> int:
        """Return how many stages the policy freezes."""
        return self.policy.frozen_stages(stages)

    def stage_lr(self, stage: int, stages: int) -> float:
        """Return the policy's factor on the learning rate of a stage."""
        return self.policy.stage_lr(stage, stages)

    def apply(self, network: BackboneNetwork) -> None:
        """Switch off the gradients of what never trains.

        Raises:
            UserError: Neither decoder nor head has BatchNorm.
        """
        self.policy.apply(network)
        norms = _decoder_norms(network)
        if not norms:
            raise UserError(
                f"DecoderNorms is about BatchNorm, and {type(network).__name__} has none after its backbone: use"
                f" {type(self.policy).__name__} alone."
            )
        for norm in norms if self.decoder_batch_norm == "frozen" else []:
            norm.requires_grad_(False)

    def begin(self, network: BackboneNetwork) -> None:
        """Prepare for a training."""
        self.policy.begin(network)

    def begin_test(self, network: BackboneNetwork) -> None:
        """Prepare for a scoring."""
        self.policy.begin_test(network)

    def end(self, network: BackboneNetwork) -> None:
        """Clean up after a training or a scoring."""
        self.policy.end(network)

    def advance(self, network: BackboneNetwork, epoch: int, progress: float) -> bool:
        """Unfreeze the parts that are due (see `Full.advance`)."""
        return self.policy.advance(network, epoch, progress)

    def set_mode(self, network: BackboneNetwork) -> None:
        """Put what does not train back into evaluation mode."""
        self.policy.set_mode(network)
        for norm in _decoder_norms(network) if self.decoder_batch_norm != "train" else []:
            norm.eval()

    def parameter_groups(self, network: BackboneNetwork) -> list[ParameterGroup]:
        """Return the trainable parameters for the optimizer (see `Full.parameter_groups`)."""
        return self.policy.parameter_groups(network)

    def parts(self, network: BackboneNetwork) -> list[Part]:
        """Describe what happens to each part of the network."""
        return [
            part
            if part.name.startswith("backbone") or part.batch_norm is None
            else replace(part, batch_norm=self.decoder_batch_norm)
            for part in self.policy.parts(network)
        ]


def _decoder_norms(network: BackboneNetwork) -> list[nn.Module]:
    parts = [part for name, part in network.named_children() if name != "backbone"]
    return [norm for part in parts for norm in batch_norms(part)]
