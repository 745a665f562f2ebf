"""Averages of the weights over the training: validated, saved and tested in place of the weights themselves.

Lightning's own callbacks for this copy the network before its pretrained weights are loaded, test the last weights
instead of the average when the test follows in the same process, and end an epoch with its average unvalidated.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_seg.data.base import data_of
from lightning_seg.data.dataset import Split
from lightning_seg.data.loading import collate
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.errors import UserError
from lightning_seg.tasks.base import task_of
from lightning_seg.training.checkpoint_io import Checkpoint
from lightning_seg.training.finetune.parts import batch_norms

_PREFIX = "network."


class Averaging(L.Callback, ABC):
    """Base of the averages: keeps one, and puts it into the network from each validation to the next training step.

    A checkpoint's ``state_dict`` is the average; what a resumed training needs besides is under ``unaveraged``. What
    never moves, such as a frozen backbone, is bit-identical in the average. Costs one more copy of the network.

    Args:
        start: Share of the training after which the average begins, 0 to 1.

    Examples:
        >>> isinstance(EMA(), Averaging), isinstance(SWA(), Averaging)
        (True, True)
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self.average: dict[str, Tensor] = {}
        self.count = 0  # of the weights in it
        self._step = 0  # after which the last of them were added
        self._inside = False  # whether the average is in the network, and the weights are in `average`

    @abstractmethod
    def share(self) -> float:
        """Say the share of the newest weights in the average."""

    def due(self, trainer: L.Trainer) -> bool:
        """Say whether the present weights are to be added."""
        return not self.start or trainer.global_step >= self.start * trainer.estimated_stepping_batches

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring what a checkpoint held to the device.

        Raises:
            UserError: The training has no end, so there is no share of it after which to begin.
        """
        if self.start and trainer.estimated_stepping_batches == math.inf:
            raise UserError(
                f"{type(self).__name__} begins after {self.start:g} of the training, and this one has no end: set"
                " trainer.max_epochs or trainer.max_steps (beside max_time), or start: 0."
            )
        self.average = {name: value.to(pl_module.device) for name, value in self.average.items()}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Go on with the weights themselves."""
        self._put(pl_module, inside=False)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Add the weights, if an optimizer step has changed them and it is time."""
        if trainer.global_step == self._step or not self.due(trainer):
            return
        self._step = trainer.global_step
        current = _state(pl_module)
        if not self.count:
            self.average = {name: value.clone() for name, value in current.items()}
        share = self.share()
        for name, value in current.items():
            if value.is_floating_point():
                self.average[name].lerp_(value, share)
            else:
                self.average[name].copy_(value)  # counters
        self.count += 1

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the network."""
        if trainer.state.fn == "fit":
            self._put(pl_module, inside=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the network."""
        self._put(pl_module, inside=True)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Checkpoint
    ) -> None:
        """Save the average as the network, and the weights beside it."""
        if not self.count:
            return
        inside, outside = _state(pl_module), self.average
        average, weights = (inside, outside) if self._inside else (outside, inside)
        checkpoint["state_dict"] |= {_PREFIX + name: value for name, value in average.items()}
        checkpoint["unaveraged"] = weights

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Checkpoint
    ) -> None:
        """Go on with weights and average."""
        if trainer.state.fn != "fit" or "unaveraged" not in checkpoint:
            return
        self.average = {name: value.clone() for name, value in _state(pl_module).items()}
        task_of(pl_module).network.load_state_dict(checkpoint["unaveraged"])

    def state_dict(self) -> dict[str, int]:
        """Return what is saved besides the weights."""
        return {"count": self.count, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore what was saved besides the weights."""
        self.count, self._step = state_dict["count"], state_dict["step"]

    @torch.no_grad()
    def _put(self, pl_module: L.LightningModule, inside: bool) -> None:
        """Exchange the network's tensors with those that are kept, unless they already are where they should be."""
        if self._inside == inside or not self.count:
            return
        self._inside = inside
        for name, value in _state(pl_module).items():
            kept = self.average[name].clone()
            self.average[name].copy_(value)
            value.copy_(kept)


class EMA(Averaging):
    """Exponential moving average of the weights, statistics of BatchNorm included, over all steps.

    Early on, the average forgets faster, as if it had begun with fewer steps: the decay after n of them is at most
    (1 + n) / (10 + n).

    Args:
        decay: What remains of the average at each step; 0.999 looks back over about 1000 steps.
        start: Share of the training after which the average begins, 0 to 1.

    Examples:
        >>> average = EMA(decay=0.999)
        >>> average.share()  # of the newest weights, in the beginning
        0.9
        >>> average.count = 100_000
        >>> round(average.share(), 6)
        0.001
    """

    def __init__(self, decay: float = 0.999, start: float = 0.0) -> None:
        super().__init__(start)
        self.decay = decay

    def share(self) -> float:
        """Return what the decay leaves."""
        return 1 - min(self.decay, (1 + self.count) / (10 + self.count))


class SWA(Averaging):
    """Stochastic weight averaging: the plain mean of the weights at the ends of the last epochs (arXiv:1803.05407).

    Use it with a learning rate that stays high enough to move. Averaged weights see other activations than those that
    BatchNorm's running statistics come from, so these are computed anew before each validation.

    Args:
        start: Share of the training after which weights are averaged, 0 to 1.
        images: Training images, augmented, from which BatchNorm's statistics are computed; they cost as much as the
            forward passes of so many. With 0 the averages of the statistics are used.

    Examples:
        >>> average = SWA(start=0.75)
        >>> average.count = 3  # epochs in it
        >>> average.share()
        0.25
    """

    def __init__(self, start: float = 0.75, images: int = 256) -> None:
        super().__init__(start)
        self.images = images

    def share(self) -> float:
        """Return the share of one among equals."""
        return 1 / (1 + self.count)

    def due(self, trainer: L.Trainer) -> bool:
        """Wait for the end of an epoch."""
        return trainer.is_last_batch and super().due(trainer)

    @torch.no_grad()
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the network, with statistics of its own."""
        super().on_validation_start(trainer, pl_module)
        if not (self._inside and self.images):
            return
        network = task_of(pl_module).network
        pl_module.train()
        norms = [norm for norm in batch_norms(network) if norm.training]
        pl_module.eval()
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        for batch in self._batches(trainer):
            with trainer.strategy.precision_plugin.forward_context():
                network(batch["image"])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    def _batches(self, trainer: L.Trainer) -> Iterator[Batch]:
        """Yield augmented training batches, spread over the split; the same on all processes."""
        data = data_of(trainer)
        split = Split(data, data.train_split, train=True)
        chosen = np.linspace(0, len(split) - 1, min(self.images, len(split))).astype(int)
        for first in range(0, len(chosen), data.batch_size):
            samples = [split[trainer.current_epoch, int(i)] for i in chosen[first : first + data.batch_size]]
            batch = trainer.strategy.batch_to_device(collate(samples))
            yield data.on_after_batch_transfer(batch, 0)


def _state(pl_module: L.LightningModule) -> dict[str, Tensor]:
    return task_of(pl_module).network.state_dict()
