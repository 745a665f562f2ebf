"""What a policy does with each part of a network, as a table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from lightning_seg.plotting.tables import text_table

BatchNorm = Literal["train", "eval", "frozen"]
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def batch_norms(module: nn.Module) -> Iterator[Norm]:
    """Yield the layers of a module that keep running statistics."""
    return (part for part in module.modules() if isinstance(part, Norm))


@dataclass(frozen=True)
class Part:
    """What a policy does with one part of a network.

    Attributes:
        name: The part, such as ``backbone.stage0`` or ``decoder``.
        parameters: Number of parameters.
        trainable: How many of them train, perhaps not from the start.
        lr_factor: Factor on their learning rate; None if none trains.
        batch_norm: What its BatchNorm layers do; None if it has none.
        start: When they begin to train: a fraction of the training below 1, or an epoch.
    """

    name: str
    parameters: int
    trainable: int
    lr_factor: float | None
    batch_norm: BatchNorm | None
    start: float = 0


def table(parts: list[Part]) -> str:
    """Format what a policy does as a table, one line for each part."""
    rows = []
    for part in parts:
        factor = "–" if part.lr_factor is None else f"{part.lr_factor:.3g}"
        start = (
            f"from epoch {part.start:g}" if part.start >= 1 else f"from {100 * part.start:g} % of the steps"
        )
        when = "no" if not part.trainable else start if part.start else "yes"
        counts = f"{part.parameters:,}", f"{part.trainable:,}"
        rows.append([part.name, *counts, factor, part.batch_norm or "–", when])
    header = ["part", "parameters", "trainable", "lr x", "BatchNorm", "trains"]
    return text_table(header, rows, left=(0, 3, 4, 5))


def never_reached(parts: Sequence[Part], epochs: int) -> str:
    """Say which parts would begin to train after the last epoch; nothing if none would.

    Args:
        parts: The parts of the network.
        epochs: How many epochs there are; -1 for no limit.
    """
    late = [part for part in parts if part.start >= max(1, epochs)] if epochs > 0 else []
    if not late:
        return ""
    names, first = ", ".join(part.name for part in late), min(part.start for part in late)
    return f"{names} would train from epoch {first:g} on, but the last is {epochs - 1}: the first is 0"


def random_forever(parts: Sequence[Part], weights: str) -> str:
    """Warn of a backbone, or stages of it, that begins at random and never trains; nothing if there is none.

    Args:
        parts: The parts of the network.
        weights: What the training begins with, in words.
    """
    fixed = [part for part in parts if part.name.startswith("backbone") and not part.start]
    names = [part.name for part in fixed if part.trainable < part.parameters / 2]
    if not names or not weights.startswith("random"):
        return ""
    which = f"{names[0]} to {names[-1]} begin" if len(names) > 1 else f"{names[0]} begins"
    return (
        f"{which} at random and will not train: the rest learns from random features. Give the backbone weights"
        " (model.network.init_args.weights: true, a file or run:RUN), or train it (leave out model.finetune)"
    )


def waiting_again(stages: Iterable[tuple[str, nn.Module]], optimizer: Optimizer) -> list[str]:
    """Name the stages that have trained, as the optimizer of a checkpoint knows, but do not now.

    Args:
        stages: The stages of a backbone by their names.
        optimizer: The optimizer, with the state of the checkpoint.
    """
    known = {parameter for parameter, state in optimizer.state.items() if state}
    return [
        name for name, stage in stages if any(p in known and not p.requires_grad for p in stage.parameters())
    ]
