"""What happens when the loss is not a number."""

from collections.abc import Mapping
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, distributed
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lightning_seg.data.base import data_of
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import resume_command

MOST_IN_A_ROW = 20  # steps left out one after the other; then there is nothing left to learn


class NonFinite(L.Callback):
    """Stop at a loss that is infinite or not a number, name its images, and let no such weights be saved.

    The losses of some steps are looked at together, and whenever a checkpoint is about to be written: reading each
    one would make a GPU wait at every step.

    Args:
        action: ``stop``, or ``skip`` to leave out every step whose loss or gradient is not finite: the weights, the
            optimizer and BatchNorm's statistics stay as they were. ``train/skipped_steps`` counts them. Skipping looks
            at every step.
        every_n_steps: How often to look. On a CPU, where it costs nothing, every step.

    Examples:
        >>> callback = NonFinite(action="skip")
        >>> callback.state_dict()
        {'skipped': 0}
    """

    at_once: tuple[str, ...] = ("cpu",)  # kinds of device whose losses can be read without waiting

    def __init__(self, action: Literal["stop", "skip"] = "stop", every_n_steps: int = 10) -> None:
        self.action = action
        self.every_n_steps = every_n_steps
        self.skipped = 0
        self._in_a_row = 0
        # step, loss and images of the steps not yet looked at
        self._seen: list[tuple[int, Tensor, Tensor | None]] = []
        self._losses: list[Tensor] = []  # of the batches that one optimizer step gathers
        self._buffers: list[Tensor] | None = None  # as they were before that step

    def state_dict(self) -> dict[str, int]:
        """Count on after a resume."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Count on after a resume."""
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Keep BatchNorm's statistics, if the step may have to be taken back."""
        if self.action == "skip" and self._buffers is None:
            self._buffers = [buffer.clone() for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        if self.action == "skip":
            self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the gradients away from a step that is to be skipped: no optimizer moves a weight without one."""
        if self.action == "stop":
            return
        parameters = list(pl_module.parameters())
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        values = torch.stack([*self._losses, norm])
        bad = not bool(torch.isfinite(values).all())
        if trainer.strategy.reduce_boolean_decision(bad, all=False):
            for parameter in parameters:
                parameter.grad = None
            for buffer, before in zip(pl_module.buffers(), self._buffers or [], strict=True):
                buffer.copy_(before)
            self.skipped += 1
            self._in_a_row += 1
        else:
            self._in_a_row = 0
        self._losses, self._buffers = [], None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Look at the losses if it is time."""
        if self.action == "skip":
            pl_module.log("train/skipped_steps", float(self.skipped), rank_zero_only=True)
            if self._in_a_row == MOST_IN_A_ROW:
                raise UserError(
                    f"the loss or its gradient was not finite in {MOST_IN_A_ROW} steps one after the other."
                    f" {_remedies(trainer)}"
                )
            return
        assert isinstance(outputs, Mapping)  # as Lightning has it, whatever the step returns
        loss = outputs["loss"].detach()
        self._seen.append(
            (trainer.global_step, loss, batch.get("index") if isinstance(batch, dict) else None)
        )
        if loss.device.type in self.at_once or len(self._seen) >= self.every_n_steps:
            self._look(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look before time goes into a validation."""
        self._look(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Look before anything is written."""
        self._look(trainer)

    def _look(self, trainer: L.Trainer) -> None:
        """Raise if one of the losses since the last look was not finite, on all processes alike."""
        if not self._seen:
            return
        seen, self._seen = self._seen, []
        finite = torch.stack([loss.isfinite() for _, loss, _ in seen])
        first = torch.where(finite.all(), len(seen), finite.int().argmin())
        earliest = int(trainer.strategy.reduce(first.clone(), reduce_op="min"))
        if earliest == len(seen):
            self._seen = seen[
                -1:
            ]  # a gradient that is not finite shows in the next loss: the error names both
            return
        mine = earliest == int(first)
        told = "\n".join(_describe(trainer, *seen[i]) for i in (earliest - 1, earliest) if mine and i >= 0)
        if trainer.world_size > 1:
            everyones: list[str] = [""] * trainer.world_size
            distributed.all_gather_object(everyones, told)
            told = "\n".join(filter(None, everyones))
        raise UserError(
            f"the loss is not finite, and training has stopped:\n{told}\nNo checkpoint was written since."
            f" If these images and masks look right ('lightning-seg check-data'): {_remedies(trainer)}"
        )


def _remedies(trainer: L.Trainer) -> str:
    run = trainer.strategy.broadcast(trainer.default_root_dir)  # that of the first process
    again = f"\n{resume_command(run, '--nonfinite.action=skip')} continues and leaves such steps out."
    wider = f", or --trainer.precision=32 (it is {trainer.precision})" * (trainer.precision != "32-true")
    return (
        "try a lower learning rate or --trainer.gradient_clip_val=1"
        f"{wider}.{'' if trainer.fast_dev_run else again}"  # type: ignore[attr-defined]
    )


def _describe(trainer: L.Trainer, step: int, loss: Tensor, index: Tensor | None) -> str:
    """Say what the loss of a step was, and of which images."""
    data = data_of(trainer)
    names = "unknown"
    if index is not None:
        samples = data.samples(data.train_split)
        names = ", ".join(data.name_of(samples[i]) for i in index.tolist())
    return f"  step {step}: loss {float(loss):.4g}, images {names}"
