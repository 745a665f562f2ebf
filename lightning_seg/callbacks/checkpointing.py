"""What makes a stopped or killed run continue as if nothing had happened."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from lightning_seg.runs.directory import LAST_CHECKPOINT

# A terminal that closes sends SIGHUP; SLURM's and torchrun's are included.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(SystemExit):
    """Training left early because a signal asked for it; the run can be continued.

    Args:
        number: The signal.
        first: Whether this is the first process, which ends with the exit code 128 + signal as a shell expects.
            The others end with 0, or whoever started them would kill the first while it tidies up.
    """

    def __init__(self, number: signal.Signals, first: bool) -> None:
        super().__init__(128 + number if first else 0)
        self.signal = number

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}"


class Checkpointing(Checkpoint):
    """Save `last.ckpt` after every validation, within long epochs, and when a signal asks the run to leave.

    After a signal (Ctrl-C, SIGTERM, a closed terminal, or the warning of SLURM that time is nearly up) the running step
    is finished, saved and the run left; in validation it is left at once, and continues from what was saved before. A
    second Ctrl-C interrupts without saving. Where a validation follows, or gradients are only accumulated, the step
    after it is saved.

    Args:
        every_n_minutes: Time between two saves, beside those after validation; 0 saves only after validation.
        every_n_steps: Save after every n-th optimizer step, too.

    Examples:
        >>> callback = Checkpointing(every_n_minutes=5, every_n_steps=1000)
        >>> callback.every_n_steps
        1000
    """

    def __init__(self, every_n_minutes: float = 10, every_n_steps: int | None = None) -> None:
        self.every_n_minutes = every_n_minutes
        self.every_n_steps = every_n_steps
        self.signal: signal.Signals | None = None
        self._stopping = False  # all processes know
        self._due = False
        self._saved_at, self._saved_step = 0.0, -1
        self._position: dict[str, int] | None = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Keep how far the epoch is."""
        if (loader := trainer.train_dataloader) is not None:
            checkpoint["train_position"] = loader.state_dict()  # type: ignore[union-attr]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Keep how far the epoch was."""
        self._position = cast("dict[str, int] | None", checkpoint.get("train_position"))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go to the samples that are left, start the clock, and take over the signals until Lightning's teardown.

        Lightning itself forgets the position of a loader that was asked for its length before, as schedulers do.
        """
        if self._position is not None:
            trainer.train_dataloader.load_state_dict(self._position)  # type: ignore[union-attr]
        self._saved_at = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return  # only there Python allows it

        process = os.getpid()

        def note(number: int, frame: FrameType | None) -> None:
            if os.getpid() != process:
                return  # a data worker, which its parent ends
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = signal.Signals(number)
            if launcher := trainer.strategy.launcher:
                getattr(launcher, "kill", lambda _: None)(signal.SIGTERM)  # the processes that it started

        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup has its way
                signal.signal(number, note)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Leave, now that the last step is saved and logged."""
        if self._stopping:
            self._leave(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save if it is time, or if any process has been asked to leave."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # the gradients gathered so far would not be saved
        now, every = time.monotonic(), self.every_n_steps
        self._due |= bool(self.every_n_minutes) and now - self._saved_at > 60 * self.every_n_minutes
        self._due |= every is not None and trainer.global_step % every == 0
        asked = self._due or self.signal is not None
        if not trainer.strategy.reduce_boolean_decision(asked, all=False):
            return
        self._stopping = trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)
        if not _validates_now(trainer, batch_idx):
            self._save(trainer)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave in the middle of a validation: it may take longer than whoever asked will wait."""
        if not trainer.sanity_checking and (self._stopping or self.signal is not None):
            self._leave(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after every validation; `ModelCheckpoint`'s own `save_last` waits for a better score."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final weights, if no validation came after them."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._due, self._saved_at, self._saved_step = False, time.monotonic(), trainer.global_step
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST_CHECKPOINT)

    def _leave(self, trainer: L.Trainer) -> None:
        raise Stopped(self.signal or signal.SIGTERM, trainer.is_global_zero)


class SeededSteps(L.Callback):
    """Let the random numbers of a training step follow from seed, epoch, step and process alone.

    So dropout is the same after a resume, without a state to save, and differs between processes. Augmentation has
    seeds of its own, by sample.

    Args:
        seed: Of the run; False seeds nothing.

    Examples:
        >>> SeededSteps(seed=0).seed
        0
    """

    def __init__(self, seed: int | Literal[False]) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Seed torch on all devices."""
        if self.seed is not False:
            numbers = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _validates_now(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a validation, or the end of the epoch, follows this step; resumed from here, Lightning would skip it."""
    every = trainer.val_check_batch
    index = batch_idx if trainer.check_val_every_n_epoch else trainer.fit_loop.total_batch_idx
    return trainer.is_last_batch or bool(every and (index + 1) % every == 0)
