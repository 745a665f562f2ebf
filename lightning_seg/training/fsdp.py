"""Networks too large for one device: weights, gradients and optimizer states spread over all of them (FSDP)."""

from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.optim import Optimizer

from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.training.checkpoint_io import Checkpoint, read

if TYPE_CHECKING:
    from torch.distributed.checkpoint.state_dict import StateDictOptions


class FullyShard(ModelParallelStrategy):
    """PyTorch's fully sharded data parallelism, ``--trainer.strategy=fully_shard``.

    Each stage of the backbone, and then the rest of the network, is gathered when it is needed and freed again.
    Within a machine the network is spread over the devices; on several machines each holds a copy. A checkpoint is one
    file, the same as without it.

    Examples:
        >>> isinstance(FullyShard(), lightning.pytorch.strategies.Strategy)
        True
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def shard(self, network: BackboneNetwork) -> None:
        """Spread a network over the processes; once is enough."""
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if isinstance(network, FSDPModule):
            return
        network.to(memory_format=torch.contiguous_format)  # FSDP cuts weights along their first axis
        for _, stage in network.backbone.stages():
            for part in stage:
                if any(True for _ in part.parameters()):
                    fully_shard(part, mesh=self.device_mesh)
        fully_shard(network, mesh=self.device_mesh)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> Checkpoint:
        """Read a checkpoint on every process and let each take its part of it.

        Lightning's own stumbles over an optimizer that has no state, such as SGD without momentum.
        """
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        state = read(self.broadcast(checkpoint_path))
        assert self.model is not None and self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=self.lightning_module.strict_loading)
        set_model_state_dict(self.model, state.pop("state_dict"), options=options)
        if self.lightning_module.trainer.state.fn == "fit":
            for optimizer, saved in zip(self.optimizers, state.pop("optimizer_states"), strict=True):
                self._restore(optimizer, saved, options)
        return state

    def _restore(self, optimizer: Optimizer, saved: Checkpoint, options: "StateDictOptions") -> None:
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict
        from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

        assert self.model is not None
        if saved["state"]:
            name = OptimStateKeyType.PARAM_NAME
            by_name = FullyShardedDataParallel.rekey_optim_state_dict(saved, name, self.model)
            set_optimizer_state_dict(self.model, optimizer, by_name, options=options)
            return
        for group, before in zip(optimizer.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in before.items() if key != "params"})

    def on_validation_start(self) -> None:
        """Make all processes evaluate with the same BatchNorm statistics."""
        self._agree()

    def on_test_start(self) -> None:
        """Make all processes evaluate with the same BatchNorm statistics."""
        self._agree()

    def _agree(self) -> None:
        assert self.model is not None
        for buffer in self.model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether the network is spread over the processes, so that all of them must call it together."""
    return isinstance(trainer.strategy, FullyShard)


def shard(trainer: L.Trainer, network: BackboneNetwork) -> None:
    """Spread a network over the processes if the trainer's strategy asks for it."""
    if isinstance(trainer.strategy, FullyShard):
        trainer.strategy.shard(network)


StrategyRegistry.register("fully_shard", FullyShard, description="FSDP of PyTorch, version 2")
