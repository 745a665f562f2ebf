"""Early stopping."""

from typing import Literal

import lightning as L
from lightning.pytorch import callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Stop when a score of the validation has not improved for some time.

    Lightning's own looks at the end of an epoch, where a resumed run has no score yet and fails, and takes its patience
    from the checkpoint.

    Args:
        patience: Validations without a better score that are tolerated.
        min_delta: What counts as better, in units of the score.
        monitor: The score.
        mode: Whether the score is better when it is larger (max) or smaller (min).

    Examples:
        >>> callback = EarlyStopping(patience=20, min_delta=0.001)
        >>> callback.monitor, callback.patience
        ('val/miou', 20)
    """

    def __init__(
        self,
        patience: int = 10,
        min_delta: float = 0.0,
        monitor: str = "val/miou",
        mode: Literal["min", "max"] = "max",
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on waiting, with the patience of this configuration."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train no further where a run that had stopped is resumed."""
        trainer.should_stop = self.wait_count >= self.patience

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say why training ended."""
        if self.wait_count >= self.patience and trainer.is_global_zero:
            print(
                f"stopped  {self.wait_count} validations without a better {self.monitor} than {self.best_score:.4f}"
                + f" by more than {abs(self.min_delta):g}" * bool(self.min_delta),
                flush=True,
            )
