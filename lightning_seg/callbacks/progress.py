"""One line an epoch for logs, and where the time went."""

import math
import time

import lightning as L

from lightning_seg.tasks.base import task_of

NAMES = {"val/miou": "val mIoU", "val/mask_ap": "val mask AP", "val/pq": "val PQ"}


class Progress(L.Callback):
    """Print a line after every validation; log images per second and the share of time spent waiting for data.

    Examples:
        >>> isinstance(Progress(), lightning.pytorch.Callback)
        True
    """

    def __init__(self) -> None:
        self._images = 0
        self._busy = self._waiting = 0.0  # seconds in training steps, and between them
        self._mark = self._start = 0.0
        self._best = -math.inf

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = self._mark = time.perf_counter()  # resumed in mid-epoch, no epoch starts

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a new measurement."""
        self._images, self._busy, self._waiting = 0, 0.0, 0.0
        self._mark = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx
    ) -> None:
        """Count the time since the last step as waiting."""
        now = time.perf_counter()
        self._waiting += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx
    ) -> None:
        """Count the time of the step as busy."""
        now = time.perf_counter()
        self._busy += now - self._mark
        self._mark = now
        self._images += len(batch["image"]) * trainer.world_size

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch's line; validation time counts neither as busy nor as waiting."""
        self._mark = time.perf_counter()
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        task = task_of(pl_module)
        score = metrics.get(task.monitor, math.nan)
        self._best = max(self._best, score)
        minutes, seconds = divmod(int(time.perf_counter() - self._start), 60)
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        bar = trainer.progress_bar_callback
        line = (
            f"epoch {trainer.current_epoch + 1}{of}  step {trainer.global_step}  "
            f"loss {metrics.get('train/loss', math.nan):.3f}  "
            + (f"val loss {metrics['val/loss']:.3f}  " if "val/loss" in metrics else "")
            + f"{NAMES.get(task.monitor, task.monitor)} {score:.4f} (best {self._best:.4f})  "
            f"{self._rate():.1f} images/s  {minutes}:{seconds:02d}"
        )
        if bar is None:
            print(line, flush=True)
        else:
            bar.print(line)  # above the bar

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's speed."""
        total = self._busy + self._waiting
        pl_module.log("train/images_per_second", self._rate(), rank_zero_only=True)
        pl_module.log("train/data_wait", self._waiting / total if total else 0.0, rank_zero_only=True)

    def _rate(self) -> float:
        total = self._busy + self._waiting
        return self._images / total if total else 0.0
