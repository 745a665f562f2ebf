"""Parts of Lightning that would silently break what a run promises: refused, with what does the same here.

docs/lightning.md lists what was tried, and how it went.
"""

from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import JsonObject

REFUSED: dict[type[Callback], str] = {
    StochasticWeightAveraging: "its average is neither validated nor saved nor tested. Use SWA (docs/training.md)",
    WeightAveraging: (
        "it copies the network before its pretrained weights are loaded, and the test sees the weights, not their"
        " average. Use EMA or SWA (docs/training.md)"
    ),
    BaseFinetuning: (
        "what it freezes is not what the run records, and BatchNorm is not that of the policy. Use"
        " model.finetune: GradualUnfreeze, Frozen ... (docs/training.md)"
    ),
    GradientAccumulationScheduler: (
        "the learning-rate schedule would not reach its end, and the recorded batch size, by which runs are compared,"
        " would be wrong. Use trainer.accumulate_grad_batches"
    ),
    BatchSizeFinder: "it ends the training before its first step. Use 'lightning-seg find-batch-size NAME'",
    LearningRateFinder: "it looks for an attribute `lr` of the task. Use 'lightning-seg find-lr NAME'",
    OnExceptionCheckpoint: (
        "a new run would begin with what an earlier one has left. 'lightning-seg resume RUN' continues a run from its"
        " last.ckpt"
    ),
    ModelPruning: "it renames the weights, so that no checkpoint fits the network any more",
}
_OURS = ("best", "last", "previous")  # checkpoints of every run
_STRATEGIES: dict[str, type[Strategy]] = {"fsdp": FSDPStrategy, "deepspeed": DeepSpeedStrategy}


def refuse_parts(settings: JsonObject, own: ModelCheckpoint) -> None:
    """Refuse parts of Lightning with which a run would not be what it says it is.

    Args:
        settings: Those of the trainer, built.
        own: The checkpoint callback of every run.

    Raises:
        UserError: Names the part, the reason and what to use instead.
    """
    for callback in listed(settings["callbacks"]):
        name = type(callback).__name__
        for kind, why in REFUSED.items():
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks: {name} is refused: {why}.")
        if isinstance(callback, ModelCheckpoint):
            _check(callback, own)
    if any(isinstance(plugin, CheckpointIO) for plugin in listed(settings["plugins"])):
        raise UserError(
            "trainer.plugins: a CheckpointIO is refused: a run's own writes checkpoints that are whole after a crash."
        )
    strategy = settings["strategy"]
    for word, sharding in _STRATEGIES.items():
        if isinstance(strategy, sharding) or str(strategy).startswith(word):
            raise UserError(
                f"trainer.strategy={word} is refused: it wraps the network before its weights are loaded, and writes"
                " checkpoints past those that are whole after a crash. Use fully_shard (docs/cluster.md)."
            )
    if settings["use_distributed_sampler"]:
        raise UserError(
            "trainer.use_distributed_sampler: true is refused: on several devices some images would be scored twice."
            " The data module distributes them itself."
        )
    if settings["enable_checkpointing"] is False or settings["barebones"]:
        raise UserError(
            "trainer.enable_checkpointing: false and barebones: true are refused: a run without checkpoints cannot be"
            " tested or continued. 'lightning-seg bench train' measures what they cost."
        )


def _check(given: ModelCheckpoint, own: ModelCheckpoint) -> None:
    """Refuse a second checkpoint callback that would write over the files of the first."""
    if given.save_last:
        raise UserError(
            "trainer.callbacks: ModelCheckpoint: save_last is refused: every run has its last.ckpt."
        )
    if given.dirpath is None and given.filename in _OURS:
        raise UserError(
            f"trainer.callbacks: ModelCheckpoint: {given.filename}.ckpt is that of every run; choose another filename."
        )
    if given.state_key == own.state_key:
        raise UserError(
            f"trainer.callbacks: ModelCheckpoint: best.ckpt keeps the best {own.monitor} already. Keep more by"
            " another score or interval, such as save_top_k: -1 with every_n_epochs: 5."
        )


def listed(value: object) -> list[Any]:
    """Return a setting that may be a list, one value or nothing as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
