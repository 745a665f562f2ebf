"""Learning-rate schedules over the whole training, each with an optional warm-up.

A schedule is made from the optimizer and the number of optimizer steps, so that no YAML repeats the length:

    lr_scheduler: {class_path: lightning_seg.training.schedules.Poly, init_args: {warmup: 0.05}}

The optimizer's learning rates, of all its groups, are the highest ones.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lightning_seg.errors import UserError


class Schedule(LambdaLR):
    """Base of the schedules that are a function of training progress.

    Args:
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.
        curve: Maps the share of the training after the warm-up, 0 to 1, to a factor.
        warmup: Share of the training in which the learning rate rises linearly from nothing, 0 to 1.

    Raises:
        UserError: The warm-up is no such share.
    """

    def __init__(
        self, optimizer: Optimizer, steps: int, curve: Callable[[float], float], warmup: float
    ) -> None:
        if not 0 <= warmup < 1:
            raise UserError(
                f"warmup is a share of the training from 0 to below 1, such as 0.05; got {warmup}."
            )
        rising = round(warmup * steps)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            return curve(min(1.0, (step - rising) / max(1, steps - rising)))

        super().__init__(optimizer, factor)


class Constant(Schedule):
    """The same learning rate all the time, after a warm-up.

    Args:
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.
        warmup: Share of the training in which the learning rate rises linearly.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = Constant(optimizer, steps=100, warmup=0.5)
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in (0, 25, 50, 75, 100)]
        [0.02, 0.51, 1.0, 1.0, 1.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: float = 0.05) -> None:
        super().__init__(optimizer, steps, lambda share: 1.0, warmup)


class Poly(Schedule):
    """Fall to 0 as a power of what is left of the training, as segmentation papers do since arXiv:1606.00915.

    Args:
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.
        power: The power; 1 is a straight line.
        warmup: Share of the training in which the learning rate rises linearly.

    Raises:
        UserError: The power is negative: the learning rate would grow without end.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = Poly(optimizer, steps=100, power=0.9)
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in (0, 25, 50, 75, 100)]
        [1.0, 0.77, 0.54, 0.29, 0.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int, power: float = 0.9, warmup: float = 0.0) -> None:
        if not power >= 0:
            raise UserError(f"power must be at least 0, such as 0.9; got {power}.")
        super().__init__(optimizer, steps, lambda share: (1 - share) ** power, warmup)


class Cosine(Schedule):
    """Fall along half a cosine (arXiv:1608.03983).

    Args:
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.
        end: Factor on the learning rate at the end.
        warmup: Share of the training in which the learning rate rises linearly.

    Raises:
        UserError: `end` is no factor from 0 to 1.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = Cosine(optimizer, steps=100, end=0.01)
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in (0, 25, 50, 75, 100)]
        [1.0, 0.86, 0.51, 0.15, 0.01]
    """

    def __init__(self, optimizer: Optimizer, steps: int, end: float = 0.0, warmup: float = 0.0) -> None:
        if not 0 <= end <= 1:
            raise UserError(f"end is a factor on the learning rate from 0 to 1, such as 0.01; got {end}.")
        super().__init__(
            optimizer, steps, lambda share: end + (1 - end) * (1 + math.cos(math.pi * share)) / 2, warmup
        )


class HeadFirst(LambdaLR):
    """Warm up decoder and head, then the backbone; each falls from then on as `Poly` does.

    The backbone stands still until the rest has warmed up (EoMT, arXiv:2503.19108, and benchmark-vfm-ss,
    arXiv:2404.12172, whose warm-ups take 500 and 1000 steps).

    Args:
        optimizer: The optimizer, whose groups say whether they are of the backbone.
        steps: Number of optimizer steps of the training.
        power: The power of what is left; 1 is a straight line.
        head_warmup: Share of the training in which the learning rate of decoder and head rises from 0.
        backbone_warmup: Share of the training, after that, in which the learning rate of the backbone rises from 0.

    Raises:
        UserError: The shares leave nothing of the training, or the power is negative.

    Examples:
        >>> groups = [{"params": [torch.zeros(1, requires_grad=True)], "backbone": b} for b in (False, True)]
        >>> schedule = HeadFirst(torch.optim.SGD(groups), steps=100, head_warmup=0.1, backbone_warmup=0.1)
        >>> [[round(curve(step), 2) for step in (0, 10, 20, 60)] for curve in schedule.lr_lambdas]  # head, backbone
        [[0.0, 1.0, 0.9, 0.48], [0.0, 0.0, 1.0, 0.54]]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        power: float = 0.9,
        head_warmup: float = 0.02,
        backbone_warmup: float = 0.04,
    ) -> None:
        if not (min(head_warmup, backbone_warmup) >= 0 and head_warmup + backbone_warmup < 1 and power >= 0):
            raise UserError(
                "HeadFirst: head_warmup and backbone_warmup are shares of the training from 0, together below 1, and "
                f"power is at least 0; got {head_warmup}, {backbone_warmup} and {power}."
            )
        first, second = round(head_warmup * steps), round(backbone_warmup * steps)

        def curve(begin: int, rising: int) -> Callable[[int], float]:
            def factor(step: int) -> float:
                if step < begin + rising:
                    return max(0, step - begin) / rising if rising else 0.0
                done = (step - begin - rising) / max(1, steps - begin - rising)
                return float((1 - min(1.0, done)) ** power)

            return factor

        groups = optimizer.param_groups
        super().__init__(
            optimizer,
            [curve(first, second) if group.get("backbone") else curve(0, first) for group in groups],
        )


class MultiStep(Schedule):
    """Fall by a factor at given milestones.

    Args:
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.
        milestones: When the learning rate falls, as fractions of the training after the warm-up.
        gamma: What the learning rate is multiplied by at each milestone.
        warmup: Share of the training in which the learning rate rises linearly.

    Raises:
        UserError: The milestones are no such fractions, or not in order, or `gamma` is not above 0 and up to 1.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = MultiStep(optimizer, steps=100, milestones=(0.6, 0.9))
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in (0, 25, 50, 75, 100)]
        [1.0, 1.0, 1.0, 0.1, 0.01]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        milestones: tuple[float, ...] = (0.6, 0.8),
        gamma: float = 0.1,
        warmup: float = 0.0,
    ) -> None:
        if not all(0 <= time <= 1 for time in milestones) or list(milestones) != sorted(milestones):
            raise UserError(
                "milestones are fractions of the training from 0 to 1 in rising order, such as [0.6, 0.8]; got"
                f" {list(milestones)}."
            )
        if not 0 < gamma <= 1:
            raise UserError(f"gamma must be above 0 and up to 1, such as 0.1; got {gamma}.")
        super().__init__(
            optimizer, steps, lambda share: gamma ** sum(share >= time for time in milestones), warmup
        )


class OneCycle(OneCycleLR):
    """Rise to the optimizer's learning rate, then fall far below the initial one (arXiv:1708.07120).

    The momentum, or the first of Adam's betas, goes the other way. The names are those of
    `torch.optim.lr_scheduler.OneCycleLR`.

    Args:
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.
        pct_start: Fraction of the training in which the learning rate rises.
        div_factor: The optimizer's learning rate divided by the one at the start.
        final_div_factor: The learning rate at the start divided by the one at the end.
        momentum: Lowest and highest momentum; None leaves it as it is.

    Raises:
        UserError: `pct_start` is not from 0 to below 1, or a factor is not above 0.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
        >>> OneCycle(optimizer, steps=100).get_last_lr()  # it rises to 0.1
        [0.0040000000000000036]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        momentum: tuple[float, float] | None = (0.85, 0.95),
    ) -> None:
        if not (0 <= pct_start < 1 and 0 < div_factor < math.inf and 0 < final_div_factor < math.inf):
            raise UserError(
                "OneCycle: pct_start is a fraction of the training from 0 to below 1, and div_factor and"
                f" final_div_factor are above 0; got {pct_start}, {div_factor} and {final_div_factor}."
            )
        # torch would divide by the length of the rise, which begins and ends at step 0
        if pct_start * steps == 1:
            pct_start -= 1e-9
        low, high = momentum or (0.0, 0.0)
        super().__init__(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=steps,
            pct_start=float(pct_start),
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            cycle_momentum=momentum is not None,
            base_momentum=low,
            max_momentum=high,
        )


class Plateau(ReduceLROnPlateau):
    """Fall when a validation score has stopped improving; the length of the training is not used.

    Args:
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.
        monitor: The score.
        mode: Whether the score is better when it is larger (max) or smaller (min).
        factor: What the learning rate is multiplied by.
        patience: Number of validations without improvement before the learning rate falls.

    Raises:
        UserError: `factor` is not between 0 and 1, or `patience` below 0.

    Examples:
        >>> Plateau(torch.optim.SGD([torch.zeros(1, requires_grad=True)]), steps=100, monitor="val/loss").monitor
        'val/loss'
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        monitor: str = "val/miou",
        mode: Literal["min", "max"] = "max",
        factor: float = 0.1,
        patience: int = 5,
    ) -> None:
        if not (0 < factor < 1 and patience >= 0):
            raise UserError(
                f"Plateau: factor is above 0 and below 1, such as 0.1, and patience 0 or more; got {factor} and"
                f" {patience}."
            )
        super().__init__(optimizer, mode, factor=factor, patience=patience, threshold=0.0)
        self.monitor = monitor

    def count(self, scores: Mapping[str, Tensor]) -> None:
        """Take the scores of a validation into account.

        Raises:
            UserError: The monitored one is not among them.
        """
        if self.monitor not in scores:
            known = ", ".join(name for name in scores if name.count("/") < 2)
            raise UserError(
                f"Plateau monitors {self.monitor!r}, which validation does not log. Known are {known}."
            )
        self.step(float(scores[self.monitor]))


def for_lightning(
    make: Callable[[Optimizer, int], LRScheduler], optimizer: Optimizer, steps: float
) -> LRSchedulerConfigType:
    """Make a scheduler and say when Lightning is to step it.

    Args:
        make: Makes the scheduler.
        optimizer: The optimizer.
        steps: Number of optimizer steps of the training.

    Raises:
        UserError: The scheduler cannot be made from the number of steps, or there is none.
    """
    if steps == math.inf:
        raise UserError("a learning-rate schedule needs an end: set trainer.max_epochs or trainer.max_steps.")
    hint = "Choose one of lightning_seg.training.schedules: Poly, Cosine, MultiStep, OneCycle, Plateau, Constant."
    try:
        scheduler = make(optimizer, int(steps))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"this learning-rate schedule cannot be made for {int(steps)} steps: {error}\n{hint}"
        ) from error
    if steps in (getattr(scheduler, "step_size", None), getattr(scheduler, "gamma", None)):
        raise UserError(
            f"{type(scheduler).__name__} takes something else than the length of the training as its second argument, "
            f"and was given {int(steps)} steps for it. {hint}"
        )
    # The task lets a Plateau count validations, however many there are in an epoch; Lightning would count epochs.
    return {"scheduler": scheduler, "interval": "step", "reduce_on_plateau": False}


def realign(
    make: Callable[[Optimizer, int], LRScheduler],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    rates: list[float],
    steps: int,
) -> str | None:
    """Put a scheduler that a checkpoint restored on the curve of this training, if that is another one.

    A training that is continued for more steps than planned goes on as if they had been planned from the start. The
    checkpoint knows the old curve: some schedulers keep its length in their state, others only its last rate.

    Args:
        make: Makes the scheduler.
        optimizer: The optimizer, with the rates of the checkpoint.
        scheduler: The scheduler, with the state of the checkpoint.
        rates: The learning rates of the optimizer's groups before any schedule.
        steps: Number of optimizer steps of the training.

    Returns:
        What changed, in words; None if nothing did.
    """
    groups = optimizer.param_groups
    if isinstance(scheduler, Plateau) or len(groups) != len(rates):
        return None
    kept = [{k: v for k, v in group.items() if k not in ("params", "initial_lr")} for group in groups]
    kind: Callable[..., Optimizer] = type(optimizer)
    trial = kind(
        [{**group, "params": [torch.zeros(1)], "lr": rate} for group, rate in zip(kept, rates, strict=True)]
    )
    planned = make(trial, steps)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that the optimizer makes no steps, which would call the hooks of others
        for _ in range(min(scheduler.last_epoch, steps)):
            planned.step()
    before, after = ([float(group["lr"]) for group in some] for some in (groups, trial.param_groups))
    if all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12) for a, b in zip(before, after, strict=True)):
        return None
    scheduler.load_state_dict(planned.state_dict())
    for group, new in zip(groups, trial.param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key != "params"})
    return (
        f"the learning rate goes from {max(before):.3g} to {max(after):.3g}, its value at step {scheduler.last_epoch}"
        f" of {steps} under the settings of this run"
    )
