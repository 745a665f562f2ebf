"""Curves that tell how a training goes, beside its loss: learning rates, gradient norm, peak memory."""

import resource
import sys

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

_GB = 1e9
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class TrainingCurves(L.Callback):
    """Log the learning rate of every group, the norm of the gradient and the peak of the memory.

    ``train/lr`` is the rate of decoder and head, ``train/lr/backbone`` that of the backbone where it has one of its own
    (``backbone0``, ``backbone1`` ... from the image on, where its stages have); ``train/gradient_norm`` is that of all
    gradients of a step, before they are clipped; ``train/peak_memory_gb`` that of the device since the training began,
    on a CPU that of the process.

    Examples:
        >>> isinstance(TrainingCurves(), lightning.pytorch.Callback)
        True
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the memory of the training alone."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log what the step is made with, at the steps that are logged."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        values: dict[str, float | Tensor] = dict(learning_rates(optimizer))
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:  # none, if the step is skipped
            norm = get_total_norm(gradients)
            values["train/gradient_norm"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        pl_module.log_dict(values, rank_zero_only=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the peak of the memory."""
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        pl_module.log("train/peak_memory_gb", peak / _GB, rank_zero_only=True)


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the learning rate of each parameter group by the name of its curve."""
    groups = optimizer.param_groups
    # the decoder's are the last
    whole = [group["lr"] for group in groups if group.get("lr_factor", 1.0) == 1]
    own = sorted({(group["lr_factor"], group["lr"]) for group in groups if group.get("lr_factor", 1.0) != 1})
    rates = {"train/lr": float(whole[-1])} if whole else {}
    for i, (_, rate) in enumerate(own):  # the nearer to the image, the smaller the factor
        rates["train/lr/backbone" + (str(i) if len(own) > 1 else "")] = float(rate)
    return rates
