"""When trackers beside W&B are brought up to date."""

import math
from collections.abc import Sequence

import lightning as L

from lightning_seg.tracking.tracker_sync import TrackerSync


class TrackerUpdates(L.Callback):
    """Have trackers brought up to date once a checkpoint is on the disk: no continuation takes that back.

    Trackers that can take rows back are it every 15 seconds, too.

    Args:
        trackers: Those of the run.
    """

    def __init__(self, trackers: Sequence[TrackerSync]) -> None:
        self.trackers = trackers
        self._saved: int | None = None  # step of a checkpoint whose rows are not sent yet

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the copies, with what an earlier part of the run has."""
        self._update(trainer, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Note that a checkpoint is about to be written."""
        self._saved = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Send what the last checkpoint covers."""
        if self._saved is not None:
            self._update(trainer, self._saved)
        for tracker in self.trackers:
            tracker.update_in_between(max(0, trainer.global_step - 1))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send all; the last checkpoint is written."""
        self._update(trainer, math.inf)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the pictures of the test, which the end of the run sends."""
        self._update(trainer, math.inf)

    def _update(self, trainer: L.Trainer, before: float) -> None:
        self._saved = None
        for tracker in self.trackers:
            tracker.update(before, max(0, trainer.global_step - 1))
