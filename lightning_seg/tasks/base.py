"""What every task has in common: a network, a fine-tuning policy, an optimizer and its schedule."""

from collections.abc import Callable, Iterable
from typing import Any, Self

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_seg.finetune import Full, scale_learning_rates
from lightning_seg.networks.base import Network


class SegmentationTask(L.LightningModule):
    """A network that trains under a fine-tuning policy; a task adds its steps and its scores.

    Args:
        network: The network; its backbone obeys the policy.
        optimizer: Makes the optimizer from the trainable parameters.
        class_names: The classes in label order; comes from the data module.
        lr_scheduler: Makes the scheduler from the optimizer and the total number of optimizer steps; it is
            stepped after every optimizer step. Without one the learning rate is constant.
        finetune: Which parts of the backbone train, and how; all of it unless given.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Callable[[Iterable], Optimizer],
        class_names: tuple[str, ...],
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        finetune: Full | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.class_names = class_names
        self.finetune = finetune or Full()
        self.finetune.apply(network)

    def setup(self, stage: str) -> None:
        """Load the pretrained weights for a fresh training; a checkpoint brings its own."""
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.network.load_weights()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        self.finetune.set_mode(self.network)
        return self

    def configure_optimizers(self) -> Any:
        """Make the optimizer over the trainable parameters and a scheduler that knows the number of steps."""
        optimizer = self.optimizer(self.finetune.parameter_groups(self.network))
        scale_learning_rates(optimizer)
        if self.lr_scheduler is None:
            return {"optimizer": optimizer}
        scheduler = self.lr_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
