"""Groups of the optimizer: which parameters have no weight decay, and what the groups are, in a table."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from torch import nn
from torch.optim import Optimizer

from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.plotting.tables import text_table

Undecayed = Literal["norms", "biases", "scales", "tokens", "positions"]


class ParameterGroup(TypedDict):
    """What an optimizer is given: parameters, the factor of their learning rate, and whose they are."""

    params: list[nn.Parameter]
    lr_factor: float
    backbone: bool
    weight_decay: NotRequired[float]


@dataclass(frozen=True)
class Group:
    """A group of the optimizer.

    Attributes:
        parts: What it holds parameters of, such as ``backbone.block3`` or ``decoder``.
        parameters: Number of parameters.
        lr: Their learning rate, before any schedule.
        weight_decay: Their weight decay; None if the optimizer has none.
    """

    parts: list[str]
    parameters: int
    lr: float
    weight_decay: float | None


def depth(network: BackboneNetwork) -> int:
    """Return how many stages the backbone has, the final norm of a plain vision transformer not counted."""
    return sum(name != "norm" for name, _ in network.backbone.stages())


def scale_learning_rates(optimizer: Optimizer) -> None:
    """Multiply each group's learning rate by its ``lr_factor``; call it before the scheduler is made."""
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_factor"]


def without_decay(
    groups: list[ParameterGroup], network: nn.Module, kinds: Iterable[Undecayed]
) -> list[ParameterGroup]:
    """Split the groups for an optimizer, so that some kinds of parameters have no weight decay.

    Args:
        groups: The groups, with their parameters under ``params``.
        network: The network.
        kinds: ``norms``: scale and shift of normalization layers. ``biases``: whatever is called so. ``scales``: those
            of LayerScale. ``tokens``: class, register and other learned tokens. ``positions``: position embeddings,
            relative ones included.
    """
    chosen = set(kinds)
    spared = {id(p) for kind, p in _kinds(network) if kind in chosen}
    split: list[ParameterGroup] = []
    for group in groups:
        plain = [p for p in group["params"] if id(p) not in spared]
        free = [p for p in group["params"] if id(p) in spared]
        if plain:
            split.append({**group, "params": plain})
        if free:
            split.append({**group, "params": free, "weight_decay": 0.0})
    return split


def _kinds(network: nn.Module) -> Iterator[tuple[Undecayed, nn.Parameter]]:
    """Yield every parameter with the kinds that it is of."""
    for module in network.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm:
                yield "norms", parameter
            if name.endswith("bias"):
                yield "biases", parameter
            if name.startswith("gamma"):
                yield "scales", parameter
            if name.endswith(("_token", "_tokens")):
                yield "tokens", parameter
            if "pos_embed" in name or name in ("relative_position_bias_table", "rel_pos_h", "rel_pos_w"):
                yield "positions", parameter


def describe_groups(optimizer: Optimizer, network: BackboneNetwork) -> list[Group]:
    """Describe the groups of an optimizer, those of the highest rate last."""
    names = {
        id(p): f"backbone.{name}" for name, stage in network.backbone.stages() for p in stage.parameters()
    }
    for name, part in network.named_children():
        names |= {id(p): name for p in part.parameters() if id(p) not in names}
    found = []
    for group in optimizer.param_groups:
        parts = list(dict.fromkeys(names[id(p)] for p in group["params"] if id(p) in names))
        count = sum(p.numel() for p in group["params"])
        rate = float(group.get("initial_lr", group["lr"]))
        found.append(Group(parts, count, rate, group.get("weight_decay")))
    return found


def group_table(groups: list[Group]) -> str:
    """Format groups of an optimizer as a table, one line for each."""
    rows = []
    for group in groups:
        parts = group.parts if len(group.parts) < 4 else [group.parts[0], "...", group.parts[-1]]
        decay = "–" if group.weight_decay is None else f"{group.weight_decay:g}"
        rows.append([", ".join(parts), f"{group.parameters:,}", f"{group.lr:.3g}", decay])
    return text_table(["optimizer's groups", "parameters", "learning rate", "weight decay"], rows, left=(0,))
