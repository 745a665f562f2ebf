"""Fine-tuning policies: which parts of a pretrained backbone train, how fast, and what its BatchNorm does."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from lightning_seg.errors import UserError
from lightning_seg.networks.base import Network

BatchNorm = Literal["train", "eval", "frozen"]


class Full:
    """Train everything, the backbone if wanted at a learning rate of its own.

    Args:
        backbone_lr: Factor on the learning rate for the backbone.
        batch_norm: What the backbone's BatchNorm does in the parts that train: ``train`` uses and updates the
            statistics of the batch, ``eval`` keeps those of the pretraining, ``frozen`` also keeps scale and shift.
    """

    def __init__(self, backbone_lr: float = 1.0, batch_norm: BatchNorm = "train") -> None:
        if backbone_lr <= 0:
            raise UserError(
                f"backbone_lr must be above 0, got {backbone_lr}; to train no backbone use Frozen."
            )
        self.backbone_lr = backbone_lr
        self.batch_norm = batch_norm

    def frozen_stages(self, stages: int) -> int:
        """Say how many of the backbone's stages, from the image on, do not train."""
        return 0

    def apply(self, network: Network) -> None:
        """Switch off the gradients of what does not train. Call it once, before the optimizer is made."""
        for stage in self._frozen(network):
            stage.requires_grad_(False)
        if self.batch_norm == "frozen":
            for norm in batch_norms(network.backbone):
                norm.requires_grad_(False)

    def set_mode(self, network: Network) -> None:
        """Put what does not train back into evaluation mode. Call it after every ``network.train()``."""
        if not network.training:
            return
        for stage in self._frozen(network):
            stage.eval()  # neither BatchNorm's statistics nor dropout move
        if self.batch_norm != "train":
            for norm in batch_norms(network.backbone):
                norm.eval()

    def parameter_groups(self, network: Network) -> list[dict[str, Any]]:
        """Return the trainable parameters for the optimizer, each group with its factor on the learning rate."""
        groups: dict[float, list[nn.Parameter]] = {}
        backbone = {id(p) for p in network.backbone.parameters()}
        for parameter in network.parameters():
            if parameter.requires_grad:
                factor = self.backbone_lr if id(parameter) in backbone else 1.0
                groups.setdefault(factor, []).append(parameter)
        return [{"params": parameters, "lr_factor": factor} for factor, parameters in sorted(groups.items())]

    def _frozen(self, network: Network) -> list[nn.ModuleList]:
        stages = [stage for _, stage in network.backbone.stages()]
        return stages[: self.frozen_stages(len(stages))]


class Frozen(Full):
    """Train decoder and head on a backbone that does not change: feature extraction."""

    def __init__(self) -> None:
        super().__init__()

    def frozen_stages(self, stages: int) -> int:
        """Freeze all."""
        return stages


class FrozenStages(Full):
    """Freeze the backbone's first stages, from the image on, and train the rest.

    Args:
        stages: Number of stages to freeze.
        backbone_lr: Factor on the learning rate for the stages that train.
        batch_norm: What BatchNorm does in the stages that train (see `Full`).
    """

    def __init__(self, stages: int, backbone_lr: float = 1.0, batch_norm: BatchNorm = "train") -> None:
        super().__init__(backbone_lr, batch_norm)
        self.stages = stages

    def frozen_stages(self, stages: int) -> int:
        """Freeze as many as were asked for.

        Raises:
            UserError: The backbone has fewer.
        """
        if not 0 <= self.stages <= stages:
            raise UserError(f"FrozenStages(stages={self.stages}): this backbone has stages 0 to {stages}.")
        return self.stages


def scale_learning_rates(optimizer: Optimizer) -> None:
    """Multiply each group's learning rate by its ``lr_factor``; call it before the scheduler is made."""
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_factor"]


def batch_norms(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a module that keep running statistics."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return (part for part in module.modules() if isinstance(part, kinds))
