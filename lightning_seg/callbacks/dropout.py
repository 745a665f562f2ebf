"""Dropout for architectures that have none."""

import lightning as L
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_seg.errors import UserError
from lightning_seg.networks.base import Network
from lightning_seg.tasks.base import task_of


class Dropout(L.Callback):
    """Drop whole channels of what the network's head sees, in training (arXiv:1411.4280).

    Some architectures have dropout of their own, as their papers do: look for `dropout` among their arguments.

    Args:
        p: Share of the channels, 0 to 1.

    Raises:
        UserError: `p` is no share from 0 to below 1.

    Examples:
        >>> Dropout(p=0.2).p
        0.2
    """

    def __init__(self, p: float = 0.1) -> None:
        if not 0 <= p < 1:
            raise UserError(f"Dropout needs a share from 0 to below 1, such as 0.1; got {p}.")
        self.p = p
        self._hook: RemovableHandle | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put it before the head."""
        network = task_of(pl_module).network
        if not isinstance(network, Network):
            raise UserError(f"Dropout needs a network of masks, and {type(network).__name__} is none.")
        if isinstance(network.head, nn.Identity):
            raise UserError(f"Dropout acts before the head, and {type(network).__name__} shows none.")
        self._hook = network.head.register_forward_pre_hook(self._drop)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take it away."""
        if self._hook is not None:
            self._hook.remove()

    def _drop(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *rest = inputs
        return F.dropout2d(features, self.p, head.training), *rest
