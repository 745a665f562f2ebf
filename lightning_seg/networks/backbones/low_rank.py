"""Changes of low rank to the weights of layers, beside them while they train, and merged into them afterwards."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_MARK = ".parametrizations.weight."


class LowRank(nn.Module):
    """Adds a product of two small matrices to the weight of a linear layer or a 1x1 convolution, as a parametrization.

    The weight W (out, in, ...) becomes W + scale * up @ down, where `up` (out, rank) is zero at first. With a magnitude
    (DoRA, arXiv:2402.09353) each of its rows then gets the length that `magnitude` (out,) says, at first that of W's.

    Args:
        weight: The weight that is changed.
        rank: Rank of the change.
        scale: Factor on the change.
        magnitude: Whether rows have a length of their own.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, magnitude: bool = False) -> None:
        super().__init__()
        outputs, inputs = weight.shape[:2]
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.register_buffer("scale", torch.tensor(scale))
        self.magnitude = nn.Parameter(_lengths(weight)) if magnitude else None
        self.register_load_state_dict_pre_hook(_fill_scale)  # type: ignore[no-untyped-call]

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight (out, in, ...)."""
        return _changed(weight, self.up, self.down, self.get_buffer("scale"), self.magnitude)


def add_low_rank(layer: nn.Module, rank: int, scale: float, magnitude: bool = False) -> None:
    """Give a layer a change of low rank; it still loads the weights of one without.

    Args:
        layer: A linear layer or a 1x1 convolution.
        rank: Rank of the change.
        scale: Factor on the change.
        magnitude: Whether rows have a length of their own (see `LowRank`).
    """
    weight = layer.get_parameter("weight")
    parametrize.register_parametrization(layer, "weight", LowRank(weight, rank, scale, magnitude))
    layer.register_load_state_dict_pre_hook(_load_plain)


def merge(network: nn.Module) -> int:
    """Write the changes of low rank of a network into its weights, which then stand alone.

    Returns:
        In how many layers.
    """
    layers = [
        m for m in network.modules() if parametrize.is_parametrized(m, "weight") and _low_rank(m) is not None
    ]
    for layer in layers:
        # Not by `remove_parametrizations`, which breaks copies of the layer: they share its class, where it works.
        weight: Any = layer.weight
        kind = parametrize.type_before_parametrizations(layer)
        del layer.parametrizations
        layer.__class__ = kind
        layer.register_parameter("weight", nn.Parameter(weight.detach()))
    return len(layers)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with changes of low rank merged into the weights.

    Args:
        state: That of a network with or without such changes.
    """
    found = {}
    for key, value in state.items():
        layer, mark, name = key.partition(_MARK)
        if not mark:
            found[key] = value
        elif name == "original":
            up, down, scale = (state[f"{layer}{_MARK}0.{part}"] for part in ("up", "down", "scale"))
            magnitude = state.get(f"{layer}{_MARK}0.magnitude")
            found[f"{layer}.weight"] = _changed(value, up, down, scale, magnitude)
    return found


def _changed(weight: Tensor, up: Tensor, down: Tensor, scale: Tensor, magnitude: Tensor | None) -> Tensor:
    changed = weight + (scale * (up @ down)).view_as(weight)
    if magnitude is None:
        return changed
    lengths = _lengths(changed).detach()  # the paper treats them as constants
    factors = (magnitude / lengths).view(-1, *[1] * (weight.ndim - 1))
    return changed * factors


def _lengths(weight: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(weight.detach().flatten(1), dim=1)
    return lengths


def _low_rank(layer: nn.Module) -> LowRank | None:
    changes: Any = layer.parametrizations
    change = changes.weight[0]
    return change if isinstance(change, LowRank) else None


def _fill_scale(change: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Load checkpoints from before the scale was in them."""
    if f"{prefix}up" in state:
        state.setdefault(f"{prefix}scale", change.get_buffer("scale"))


def _load_plain(layer: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Let a layer with a change load the weights of one without: the change stays, lengths are those of the weights."""
    weight = state.get(f"{prefix}weight")
    if weight is None or not parametrize.is_parametrized(layer, "weight"):
        return
    del state[f"{prefix}weight"]
    changes: Any = layer.parametrizations
    state.update(changes.state_dict(prefix=f"{prefix}parametrizations."))
    state[f"{prefix}parametrizations.weight.original"] = weight
    change = _low_rank(layer)
    if change is not None and change.magnitude is not None:
        whole = _changed(
            weight.to(change.up.device), change.up, change.down, change.get_buffer("scale"), None
        )
        state[f"{prefix}parametrizations.weight.0.magnitude"] = _lengths(whole)
