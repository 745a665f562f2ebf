"""Parts of an experiment that fail on purpose, for its YAML."""

import os
import signal
import time
from pathlib import Path

import lightning as L
import torch

from lightning_seg.callbacks.checkpointing import Checkpointing
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.errors import UserError
from lightning_seg.training.losses import CrossEntropy


class Pause(L.Callback):
    """Wait at a place, and say so by a file `paused`, until there is a file `go`.

    A file `noticed` says that a signal has arrived meanwhile: who sends one by SLURM is answered before it does.
    """

    def __init__(self, place: str, step: int) -> None:
        self.place, self.step = place, step

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._pause("validation", trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._pause("training", trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        if self.place == "writing" and trainer.global_step >= self.step and not Path("paused").exists():
            checkpoint["slow"] = Slow()  # fails half-way through the file

    def _pause(self, place, trainer):
        if place == self.place and trainer.global_step >= self.step and not Path("paused").exists():
            Path("paused").touch()
            while not Path("go").exists():
                if any(isinstance(one, Checkpointing) and one.signal for one in trainer.callbacks):
                    Path("noticed").touch()
                time.sleep(0.05)


class Slow:
    """Takes for ever to be written."""

    def __reduce__(self):
        Path("paused").touch()
        time.sleep(600)
        return (int, ())


class NanLoss(CrossEntropy):
    """Is not a number on the n-th calls in training, all of them or only their gradient."""

    def __init__(self, calls: list[int], gradient_only: bool = False, rank: int = 0) -> None:
        super().__init__()
        if int(os.environ.get("RANK", 0)) != rank:
            calls = []
        self.calls, self.gradient_only = calls, gradient_only
        self.count = 0

    def forward(self, logits, masks):
        loss = super().forward(logits, masks)
        if not logits.requires_grad:
            return loss
        self.count += 1
        if self.count in self.calls:
            if self.gradient_only:
                return loss + 0 * torch.sqrt(0 * logits.sum())  # the derivative of the root at 0 is infinite
            return loss * float("nan")
        return loss


class Greedy(CrossEntropy):
    """Runs out of memory on more than some images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, logits, masks):
        if logits.requires_grad and len(logits) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().forward(logits, masks)


class BadShapes(Shapes):
    """Does something terrible when the image of a number is read by a data worker or a rank."""

    def __init__(self, deed: str = "none", number: int = 20, **kwargs) -> None:
        super().__init__(**kwargs)
        self.deed, self.number = deed, number
        self.main = os.getpid()

    def read(self, sample):
        if (
            sample[0] == "train"
            and sample[1] == self.number
            and (os.getpid() != self.main or self.deed == "raise")
        ):
            if self.deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.deed == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self.deed == "raise" and Path("begun").exists():  # not yet in the check before training
                raise UserError("the image bad.png cannot be read")
        return super().read(sample)


class Asynchronous(L.Callback):
    """Make losses look as if they were on a GPU, where they are read together."""

    def setup(self, trainer, pl_module, stage):
        from lightning_seg.callbacks.nonfinite import NonFinite

        (callback,) = (c for c in trainer.callbacks if isinstance(c, NonFinite))
        callback.at_once = ()


class KeepAll(L.Callback):
    """Keep the weights and buffers after every step."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        state = {k: v.clone() for k, v in pl_module.network.state_dict().items()}
        torch.save(state, Path(trainer.default_root_dir) / f"step-{trainer.global_step}.pt")


class Begun(L.Callback):
    """Make a file when the first step is done."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Path("begun").touch()


class Phase(L.Callback):
    """Keep a file that says what the program is doing."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Path("phase").write_text("training")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        Path("phase").write_text("validation")
