"""How much better the network is on images it has learned than on others: overfitting, watched and named."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader, Subset

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import data_of
from lightning_seg.data.dataset import Split
from lightning_seg.data.loading import collate
from lightning_seg.metrics.confusion import ConfusionMatrix
from lightning_seg.metrics.mean import WeightedMean
from lightning_seg.metrics.scores import scores
from lightning_seg.plotting.charts import Panel, draw_lines
from lightning_seg.runs.csv_logger import RunLogger, loggers_of
from lightning_seg.runs.directory import PICTURES
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.fsdp import is_sharded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class OverfittingMonitor(L.Callback):
    """Score some training images as the validation images are, without augmentation, and log the difference.

    ``gap/loss`` and ``gap/miou`` are train minus validation; the mIoU's is over the classes that both have. The
    curves are drawn into ``pictures/curves.png``, and the last lines of a run say what they show (see `judge`).

    Args:
        train_eval_fraction: Number of training images to score, always the same, as a fraction of the number of
            validation images; each validation takes longer by this fraction. 0 turns it off.

    Examples:
        >>> OverfittingMonitor(train_eval_fraction=0.5).train_eval_fraction
        0.5
    """

    def __init__(self, train_eval_fraction: float = 0.25) -> None:
        self.train_eval_fraction = train_eval_fraction

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the training images, log and draw."""
        if not self._watches(trainer, pl_module) or trainer.sanity_checking:
            return
        assert isinstance(pl_module, SemanticSegmentation)
        loss, matrix = self._score(trainer, pl_module)
        train, val = scores(matrix), scores(pl_module.matrix)
        values = {
            "gap/train_loss": loss,
            "gap/train_miou": float(train.miou),
            "gap/loss": loss - float(trainer.callback_metrics["val/loss"]),
            "gap/miou": float(np.nanmean(train.iou_per_class - val.iou_per_class)),
        }
        step = max(0, trainer.global_step - 1)  # that of the validation's own scores
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        if run := _run_logger(trainer):
            folder = Path(run.run) / PICTURES
            folder.mkdir(exist_ok=True)
            curves(run.rows()).savefig(folder / "curves.png")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say whether the network has overfitted or underfitted."""
        run = _run_logger(trainer)
        if not self._watches(trainer, pl_module) or run is None:
            return
        verdict = judge(History.read(run.rows()))
        print(f"fit      {verdict}", flush=True)
        for logger in loggers_of(trainer, WandbLogger):
            logger.experiment.summary["fit"] = verdict

    def _watches(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        if is_sharded(trainer):
            return False  # processes with one image more would wait for the others for ever
        return (
            self.train_eval_fraction > 0
            and trainer.state.fn == "fit"
            and isinstance(pl_module, SemanticSegmentation)
        )

    def _score(self, trainer: L.Trainer, module: SemanticSegmentation) -> tuple[float, np.ndarray]:
        """Return loss and confusion matrix (C, C) of the training images; each process scores some of them."""
        data = data_of(trainer)
        split = Split(data, data.train_split)
        count = min(len(split), max(1, round(self.train_eval_fraction * len(data.samples(data.val_split)))))
        chosen = np.linspace(0, len(split) - 1, count).astype(int).tolist()
        mine = Subset(split, chosen[trainer.global_rank :: trainer.world_size])
        confusion = ConfusionMatrix(len(module.class_names)).to(module.device)
        mean = WeightedMean().to(module.device)
        with torch.inference_mode():
            for batch in DataLoader(mine, batch_size=data.eval_batch_size, collate_fn=collate):
                batch = trainer.strategy.batch_to_device(batch)
                with trainer.strategy.precision_plugin.forward_context():
                    for logits, masks, loss in module.measured(batch):
                        confusion.update(logits.max(1)[1], masks)
                        mean.update(loss, weight=(masks != IGNORE_INDEX).sum())
        return float(mean.compute()), confusion.compute().cpu().numpy()


@dataclass(frozen=True)
class History:
    """The scores of each validation, (N,).

    Attributes:
        step: When.
        train_loss: Loss of the training images.
        val_loss: Loss of the validation images.
        train_miou: mIoU of the training images.
        val_miou: mIoU of the validation images.
        gap: Difference of the mIoUs, over the classes that both have.
    """

    step: np.ndarray
    train_loss: np.ndarray
    val_loss: np.ndarray
    train_miou: np.ndarray
    val_miou: np.ndarray
    gap: np.ndarray

    @classmethod
    def read(cls, rows: list[dict[str, str]]) -> "History":
        """Read the rows of a run's metrics.csv."""
        names = ("gap/train_loss", "val/loss", "gap/train_miou", "val/miou", "gap/miou")
        columns = [_columns(rows, name) for name in names]
        steps = sorted(set.intersection(*map(set, columns)))
        return cls(np.array(steps), *(np.array([column[step] for step in steps]) for column in columns))


def judge(history: History) -> str:
    """Say whether a network has overfitted or underfitted, and by which figures.

    It says *overfitting* only if after its lowest point the validation loss, at the last two validations, was at
    least a tenth above it, while the loss of the training images fell and the gap in mIoU grew by at least 0.02; and
    *underfitting* only if in the last third of the training even the mIoU of the training images still rose by at
    least 0.02, the last validation was the best, and the gap in mIoU is below 0.05. Everything else is *neither*.
    """
    h, count = history, len(history.step)
    if count < 4:
        return f"not judged: {count} validations, and it takes 4 to see where the curves go"
    low, third = int(h.val_loss.argmin()), count - 1 - max(1, count // 3)
    end = f"mIoU of training images {h.train_miou[-1]:.3f}, of validation images {h.val_miou[-1]:.3f}"
    losses = (
        f"from step {h.step[low]:.0f} on the validation loss went from {h.val_loss[low]:.3f} to {h.val_loss[-1]:.3f}, "
        f"that of training images from {h.train_loss[low]:.3f} to {h.train_loss[-1]:.3f}"
    )
    rose = low < count - 2 and h.val_loss[-2:].min() >= 1.1 * h.val_loss[low]
    if rose and h.train_loss[-1] < h.train_loss[low] and h.gap[-1] - h.gap[low] >= 0.02:
        return f"overfitting: {losses}; {end}, a gap of {h.gap[-1]:.3f} that was {h.gap[low]:.3f}"
    still = h.train_miou[-1] - h.train_miou[third]
    if still >= 0.02 and h.val_miou.argmax() == count - 1 and h.gap[-1] < 0.05:
        return (
            f"underfitting: {end}, and the first still rose by {still:.3f} since step {h.step[third]:.0f}: "
            "train longer, with a higher learning rate or less regularization"
        )
    return (
        f"neither overfitting nor underfitting: {end}, a gap of {h.gap[-1]:.3f}; "
        f"validation loss {h.val_loss[-1]:.3f}, lowest {h.val_loss[low]:.3f} at step {h.step[low]:.0f}"
    )


def curves(rows: list[dict[str, str]]) -> "Figure":
    """Draw loss and mIoU of training and validation images over the steps, from the rows of a metrics.csv."""
    training, validation = "training images", "validation images"
    wanted = {
        "loss": {"training batches": "train/loss", training: "gap/train_loss", validation: "val/loss"},
        "mIoU": {training: "gap/train_miou", validation: "val/miou"},
    }
    panels = []
    for title, names in wanted.items():
        columns = {label: _columns(rows, name) for label, name in names.items()}
        lines = {label: (np.array([*c]), np.array([*c.values()])) for label, c in columns.items()}
        panels.append(Panel(title, "step", lines))
    return draw_lines(panels)


def _columns(rows: list[dict[str, str]], name: str) -> dict[float, float]:
    """The values of one column by step, those that are no number left out."""
    values = {float(row["step"]): float(row[name]) for row in rows if row.get(name) and row["step"]}
    return {step: value for step, value in values.items() if np.isfinite(value)}


def _run_logger(trainer: L.Trainer) -> RunLogger | None:
    """The run's own logger, on the process that writes."""
    if not trainer.is_global_zero:
        return None
    return next(iter(loggers_of(trainer, RunLogger)), None)
