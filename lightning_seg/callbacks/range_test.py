"""The learning-rate range test: raise the rate from step to step and watch the loss (arXiv:1506.01186).

Lightning's finder gives all parameters the same learning rate and leaves a checkpoint behind if it is interrupted.
Here those that a fine-tuning policy slows down keep their factors, and nothing is written.
"""

import math
from collections.abc import Mapping

import lightning as L
import numpy as np
from lightning.pytorch.utilities.types import STEP_OUTPUT

from lightning_seg.errors import UserError

BEYOND = 4  # times the lowest loss: there the test ends
FIRST = 5  # steps that the smoothed loss needs to mean something


class RangeTest(L.Callback):
    """Raise the learning rate at every step and keep the smoothed losses.

    Args:
        steps: Steps from the lowest to the highest learning rate, at equal ratios.
        low: Lowest learning rate of those parameters that have no factor.
        high: Highest learning rate; the test ends before, when the loss has grown to several times its lowest.

    Attributes:
        rates: Learning rate of each step taken.
        losses: Loss of each step, smoothed.
    """

    def __init__(self, steps: int = 100, low: float = 1e-6, high: float = 1.0) -> None:
        if not (0 < low < high and steps > 2 * FIRST):
            raise UserError(
                f"expected 0 < low < high and more than {2 * FIRST} steps; got {low}, {high}, {steps}."
            )
        self.steps, self.low, self.high = steps, low, high
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._factors: list[float] = []
        self._mean = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note how fast each group of parameters is to be, relative to the optimizer's learning rate."""
        (optimizer,) = trainer.optimizers
        self._factors = [group["lr"] / optimizer.defaults["lr"] for group in optimizer.param_groups]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Set the learning rate of this step."""
        rate = self.low * (self.high / self.low) ** (trainer.global_step / (self.steps - 1))
        self.rates.append(rate)
        for group, factor in zip(trainer.optimizers[0].param_groups, self._factors, strict=True):
            group["lr"] = rate * factor

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Keep the loss, and end the test where training no longer works."""
        assert isinstance(outputs, Mapping)  # as Lightning has it, whatever the step returns
        loss = float(outputs["loss"])
        self._mean = 0.9 * self._mean + 0.1 * loss
        self.losses.append(self._mean / (1 - 0.9 ** len(self.rates)))
        lost = not math.isfinite(loss) or self.losses[-1] > BEYOND * min(self.losses)
        if lost and len(self.losses) > FIRST:
            trainer.should_stop = True

    def suggestion(self) -> float | None:
        """Return the learning rate at which the loss fell most steeply; None if it fell by less than a hundredth."""
        losses = np.array(self.losses)[FIRST:]
        losses = losses[np.isfinite(losses)]
        if len(losses) < 3 or losses.min() > 0.99 * losses[0]:
            return None
        falling = losses[: losses.argmin() + 1]
        return self.rates[FIRST + int(np.diff(falling).argmin())]
