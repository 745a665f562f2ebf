"""Settings that Lightning takes, but that train nothing or cannot work: refused before anything is written."""

import math
import os
from datetime import timedelta

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.backbones.weights import published
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.runs.directory import best_checkpoint

_MOST_SEED = 2**32 - 1
_PROCESSES_A_CORE = 4
_MOST_RATE = torch.finfo(torch.float32).max / 1e8  # optimizers multiply it, Adam by 1 / (1 - beta1)


def check_seed(seed: int | bool) -> None:
    """Refuse a seed that NumPy does not take.

    Raises:
        UserError: It is below 0 or above 2^32 - 1.
    """
    if not (isinstance(seed, bool) or 0 <= seed <= _MOST_SEED):
        raise UserError(f"seed_everything must be from 0 to {_MOST_SEED}, or false for none; got {seed}.")


def refuse_useless(config: Namespace) -> None:
    """Refuse settings of the trainer by which nothing would be trained, or more devices than there are.

    Args:
        config: The settings of the experiment.

    Raises:
        UserError: Names the setting and what to write instead.
    """
    trainer = config.trainer
    for name, instead in (
        ("max_epochs", "at least 1, or -1 for no limit"),
        ("max_steps", "at least 1, or -1 for no limit"),
        ("limit_train_batches", "above 0: a number of batches, or a fraction such as 0.1"),
        ("accumulate_grad_batches", "at least 1"),
        ("check_val_every_n_epoch", "at least 1, or null to count batches with val_check_interval"),
        ("val_check_interval", "above 0: a number of batches, or a fraction of the epoch"),
        ("log_every_n_steps", "at least 1"),
        ("num_nodes", "at least 1"),
    ):
        value = trainer[name]
        if isinstance(value, int | float) and (value == 0 or value < 0 and not name.startswith("max_")):
            raise UserError(f"trainer.{name} must be {instead}; got {value}.")
    if (norm := trainer.gradient_clip_val) is not None and not norm >= 0:
        raise UserError(f"trainer.gradient_clip_val must be above 0, or null for no clipping; got {norm}.")
    if trainer.max_time is not None and not _seconds(trainer.max_time) > 0:
        raise UserError(
            f"trainer.max_time must be above 0, as DD:HH:MM:SS such as 00:12:00:00; got {trainer.max_time}."
        )
    gpus = torch.cuda.device_count()
    if trainer.accelerator in ("gpu", "cuda") and not gpus and not torch.backends.mps.is_available():
        raise UserError(
            f"trainer.accelerator={trainer.accelerator}: this machine has no GPU; cpu trains without."
        )
    devices = asked_devices(trainer.devices)
    if devices is None or trainer.num_nodes > 1:
        return
    if devices == 0:
        raise UserError("trainer.devices must be at least 1, or auto; got 0.")
    if trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and gpus):
        if devices > gpus:
            raise UserError(f"trainer.devices={devices}: this machine has {gpus} GPU(s).")
    elif trainer.accelerator in ("cpu", "auto") and not torch.backends.mps.is_available():
        cores = os.cpu_count() or 1
        if devices > _PROCESSES_A_CORE * cores:
            raise UserError(
                f"trainer.devices={devices}: on CPUs each device is a process, and this machine has {cores} cores."
            )


def refuse_unscored(config: Namespace) -> None:
    """Refuse to train for scores that no image would give.

    Args:
        config: The settings of an experiment that is to be tested after its training.

    Raises:
        UserError: Names the setting and what to write instead.
    """
    for split, lost in (("val", "no checkpoint would be the best"), ("test", "nothing would be scored")):
        if config.trainer[f"limit_{split}_batches"] == 0:
            raise UserError(
                f"trainer.limit_{split}_batches is 0, so {lost}: --trainer.limit_{split}_batches=1.0 takes all"
                " images, and 'lightning-seg fit' only trains."
            )


def check_weights(network: BackboneNetwork, config: Namespace) -> None:
    """Load weights that come from files or runs once, before anything is written; training loads them again.

    Of those that would be downloaded, only whether there are any is looked up.

    Args:
        network: The network.
        config: The settings of the experiment.

    Raises:
        UserError: They cannot be loaded; it names the setting.
    """
    named = [getattr(part, "weights", False) for part in network.modules()]
    named += [getattr(network, "detector_weights", None) or False]
    try:
        for part in network.modules():
            if isinstance(part, TimmBackbone) and part.weights is True:
                published(part.name)
        if any(value is None or isinstance(value, str) for value in named):
            network.load_weights(best_checkpoint)
    except UserError as error:
        text, key = str(error), "model.network.init_args"
        text = text if key in text else f"{key}.weights: {text}"
        if isinstance(config.model.network.init_args.get("backbone"), Namespace):  # then they are its own
            text = text.replace(f"{key}.weights", f"{key}.backbone.init_args.weights")
        raise UserError(text) from None


def refuse_useless_rate(optimizer: Optimizer) -> None:
    """Refuse a learning rate that is infinite, NaN or too large for float32, or by which nothing changes.

    Raises:
        UserError: It is.
    """
    for group in optimizer.param_groups:
        if not math.isfinite(rate := float(group["lr"])):
            raise UserError(f"model.optimizer: lr must be a finite number, such as 1e-3; got {rate}.")
        if rate > _MOST_RATE:
            raise UserError(
                f"model.optimizer: lr is {rate}, by which weights of 32 bits overflow; give one such as 1e-3."
            )
    if not any(group["lr"] for group in optimizer.param_groups):
        raise UserError("model.optimizer: a lr of 0 trains nothing; give one above 0, such as 1e-3.")


def _seconds(time: Namespace | dict[str, int] | timedelta | str) -> float:
    try:
        return Timer(dict(time) if isinstance(time, Namespace) else time).time_remaining() or 0.0
    except (MisconfigurationException, TypeError, ValueError):
        return 0.0


def asked_devices(devices: str | int | list[int]) -> int | None:
    """The number of devices that is asked for, where it is a number; -1 are all."""
    if isinstance(devices, list):
        return len(devices)
    try:
        number = int(devices)
    except ValueError:
        return None
    return None if number < 0 else number
