"""Plain vision transformers of timm: all their blocks have one resolution, and a norm may follow the last."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError

# Settings of timm's that are set elsewhere, or that do not concern feature maps.
_ELSEWHERE = {
    "in_chans": "in_channels, which comes from the data",
    "output_stride": "output_stride, beside backbone_args",
    "out_indices": "out_indices, beside backbone_args",
    "pretrained": "weights",
    "checkpoint_path": "weights: FILE",
    "pretrained_cfg": "the name of the model, with its tag",
    "pretrained_cfg_overlay": "weights: FILE",
    "features_only": "nothing: it always is",
    "feature_cls": "nothing: it follows from the model",
    "num_classes": "the data: the classifier of the pretraining is left out",
    "global_pool": "nothing: maps are not pooled",
}
# Whose authors' code for dense tasks applies the final norm to every map that it takes.
_NORM_ON_ALL = ("dinov2", "dinov3")


def check_args(name: str, args: Mapping[str, Any]) -> None:
    """Refuse settings of timm's that are set elsewhere.

    Raises:
        UserError: There is one; it says where.
    """
    for key in args:
        if key in _ELSEWHERE:
            raise UserError(f"backbone_args of {name}: {key} is set by {_ELSEWHERE[key]}.")


def full_model(name: str, args: Mapping[str, Any]) -> Any:
    """Return timm's whole model without storage: names and shapes, and what timm's conversions ask of it.

    Raises:
        UserError: timm refuses the settings.
    """
    return _full_model(name, tuple((key, _hashable(value)) for key, value in sorted(args.items())))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


@lru_cache(maxsize=8)
def _full_model(name: str, args: tuple[tuple[str, Any], ...]) -> nn.Module:
    import timm

    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name, pretrained=False, **dict(args))
    except Exception as error:  # whatever a model's own code raises about its settings
        if not args:
            raise
        given = ", ".join(f"{key}: {value}" for key, value in args)
        raise UserError(
            f"timm cannot make {name} with backbone_args {{{given}}}: {str(error) or type(error).__name__}."
        ) from None
    return model


def count_blocks(name: str, args: Mapping[str, Any]) -> int:
    """Return how many blocks a plain vision transformer has; 0 if the model is none."""
    model = full_model(name, args)
    info = getattr(model, "feature_info", [])
    plain = len(info) > 1 and len({i["reduction"] for i in info}) == 1
    return len(info) if plain and hasattr(model, "blocks") and hasattr(model, "forward_intermediates") else 0


def taken_blocks(name: str, blocks: int, out_indices: int | Sequence[int] | None) -> list[int]:
    """Return the blocks whose output is taken, counted from 0: four evenly spaced ones unless told otherwise.

    Args:
        name: The model, for messages.
        blocks: How many it has.
        out_indices: The last so many, or their numbers.

    Raises:
        UserError: It has no such blocks.
    """
    if out_indices is None:
        return [blocks * i // 4 - 1 for i in range(1, 5)]
    chosen = list(range(blocks - out_indices, blocks)) if isinstance(out_indices, int) else list(out_indices)
    found = sorted({i + blocks if i < 0 else i for i in chosen})
    if not found or len(found) != len(chosen) or found[0] < 0 or found[-1] >= blocks:
        raise UserError(
            f"out_indices of {name}: expected the number of last blocks, 1 to {blocks}, or a list of blocks from 0 to "
            f"{blocks - 1}, each once; got {out_indices}."
        )
    return found


def final_norm(name: str, model: nn.Module) -> str:
    """Return the name of the part that follows the last block, as the whole model has it; empty if there is none."""
    if isinstance(getattr(model, "neck", None), nn.Sequential):  # of SAM, which ends in norms
        return "neck"
    norm = getattr(model, "norm", None)
    return "" if norm is None or isinstance(norm, nn.Identity) else "norm"


def applies_norm(name: str, model: nn.Module, taken: Sequence[int], blocks: int, norm: bool | None) -> bool:
    """Say whether the final norm is applied to the maps that are taken.

    Args:
        name: The model.
        model: The whole model.
        taken: Blocks that are taken.
        blocks: How many there are.
        norm: What was asked for; None for what the model's authors do.

    Raises:
        UserError: A norm was asked for, and there is none.
    """
    has = final_norm(name, model)
    if norm and not has:
        raise UserError(
            f"{name} has no norm after its last block: its only one follows the pooling of the classifier. Leave norm"
            " out."
        )
    if norm is None:
        everywhere = any(family in name for family in _NORM_ON_ALL)
        return bool(has) and (everywhere or list(taken) == [blocks - 1])
    return norm


class PlainTransformer(nn.Module):
    """The blocks of a plain vision transformer up to the last that is taken; its head is removed.

    Args:
        model: The whole model of timm.
        taken: Blocks whose output is taken, counted from 0.
        norm: Whether the final norm is applied to each of them; it is removed otherwise.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map in pixels.
    """

    def __init__(self, model: Any, taken: Sequence[int], norm: bool) -> None:
        super().__init__()
        self.model = model
        self.taken, self.norm = list(taken), norm
        info = [self.model.feature_info[i] for i in self.taken]
        self.strides: list[int] = [i["reduction"] for i in info]
        self.channels: list[int] = [
            i.get("num_chs_norm", i["num_chs"]) if norm else i["num_chs"] for i in info
        ]
        self.model.prune_intermediate_layers(self.taken, prune_norm=not norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps (B, C, h, w) of the blocks, without class and register tokens."""
        maps: list[Tensor] = self.model.forward_intermediates(
            x, indices=self.taken, norm=self.norm, intermediates_only=True
        )
        return maps


def parts(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """List what makes up a plain vision transformer: embeddings, blocks, final norm, each parameter once.

    Args:
        model: The transformer, with its blocks in `blocks`.
    """
    before: list[nn.Module] = []
    own = list(model.parameters(recurse=False))  # tokens and position embeddings belong to no child
    if own:
        before.append(nn.ParameterList(own))
    after: list[nn.Module] = []
    blocks: list[tuple[str, nn.ModuleList]] = []
    for name, child in model.named_children():
        if name == "blocks":
            blocks = [(f"block{i}", nn.ModuleList([block])) for i, block in enumerate(child.children())]
        else:
            (after if blocks else before).append(child)
    found = [("embeddings", nn.ModuleList(before)), *blocks, ("norm", nn.ModuleList(after))]
    return [(name, part) for name, part in found if any(True for _ in part.parameters())]
