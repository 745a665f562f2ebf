"""Low-rank adapters: fine-tuning a transformer by few parameters, as a fine-tuning policy."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_seg.errors import UserError
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.training.finetune.policies import Full


class LoRA(Full):
    """Freeze the backbone and train a change of low rank to each of its linear layers (arXiv:2106.09685).

    A layer's weight W becomes W + alpha / rank * up @ down, where only `up` (out, rank), zero at first, and `down`
    (rank, in) train; so do decoder and head. BatchNorm, if any, stays as pretrained.

    Args:
        rank: Rank of the change.
        alpha: Factor on the change, relative to its rank.
        layers: Only layers with this in their name, such as ``attn`` or ``qkv``; all linear ones unless given.
        backbone_lr_mult: Factor on the learning rate of the adapters.
    """

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, layers: str = "", backbone_lr_mult: float = 1.0
    ) -> None:
        super().__init__(backbone_lr_mult, batch_norm="frozen")
        if rank < 1:
            raise UserError(f"LoRA needs a rank of 1 or more, such as 8; got {rank}.")
        self.rank, self.alpha, self.layers = rank, alpha, layers

    def apply(self, network: BackboneNetwork) -> None:
        """Freeze the backbone and put adapters into it.

        Raises:
            UserError: It has no such layers.
        """
        network.backbone.requires_grad_(False)
        modules = network.backbone.named_modules()
        chosen = [part for name, part in modules if isinstance(part, nn.Linear) and self.layers in name]
        if not chosen:
            raise UserError(
                f"LoRA changes linear layers{f' named {self.layers!r}' if self.layers else ''}, and the backbone "
                f"{getattr(network.backbone, 'name', '')} has none. Choose a transformer, such as "
                "swin_tiny_patch4_window7_224, or the policy FrozenStages."
            )
        for layer in chosen:
            change = _LowRank(layer.weight, self.rank, self.alpha / self.rank)
            parametrize.register_parametrization(layer, "weight", change)
            layer.register_load_state_dict_pre_hook(_load_plain)


class _LowRank(nn.Module):
    """Adds a product of two small matrices to a weight (out, in)."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def _load_plain(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a layer with an adapter load the weights of one without; the adapter stays as it is."""
    weight = state.pop(f"{prefix}weight", None)
    if weight is None:
        return
    inner = f"{prefix}parametrizations.weight."
    own = layer.parametrizations.state_dict(prefix=f"{prefix}parametrizations.")  # type: ignore[union-attr]
    state.update({**own, f"{inner}original": weight})
