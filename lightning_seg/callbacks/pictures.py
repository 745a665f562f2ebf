"""Pictures of predictions, the same images at every validation, in the run directory and in W&B."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch

from lightning_seg.data.base import data_of
from lightning_seg.data.dataset import Split
from lightning_seg.data.overlapping import flat
from lightning_seg.metrics.instance import arrays, view_of_found, view_of_truth
from lightning_seg.metrics.panoptic import drawn_segments
from lightning_seg.plotting.pictures import comparison, save_parts
from lightning_seg.runs.csv_logger import RunLogger, loggers_of
from lightning_seg.runs.directory import PICTURES
from lightning_seg.tasks.base import task_of
from lightning_seg.tasks.instance import InstanceSegmentation
from lightning_seg.tasks.mask_classification import MaskClassification
from lightning_seg.tasks.multi_label import MultiLabelSegmentation
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.tracking.media import PictureSet, log_confusion_matrix, log_per_class
from lightning_seg.tracking.wandb_logger import WandbRunLogger
from lightning_seg.training.fsdp import is_sharded


class Pictures(L.Callback):
    """Draw image, truth, prediction and error of a few images after validation and test.

    The images are spread evenly over the split, so that every run of an experiment shows the same ones. The first
    process runs the network on them once more, which costs as much as that many images of validation.

    Args:
        count: Images to draw, at most 8 of which go to W&B; 0 draws nothing.
        every_n_validations: Draw after every n-th validation.
        tables_every_n: After every n-th drawing, and after the last one, W&B gets tables: the pictures side by side,
            the confusion matrix, the IoU of each class. Each of them is an artifact.

    Examples:
        >>> Pictures(count=8, every_n_validations=5).count
        8
    """

    def __init__(self, count: int = 6, every_n_validations: int = 1, tables_every_n: int = 10) -> None:
        self.count = count
        self.every_n_validations = every_n_validations
        self.tables_every_n = tables_every_n
        self._validations = self._drawn = 0
        self._tables: list[Callable[[], None]] = []  # those of the last drawing, if they are not logged

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the validation images, except in the sanity check."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations == 0:
            self._draw(trainer, pl_module, "val", data_of(trainer).val_split)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the tables of the last validation."""
        self._log_tables()

    def _log_tables(self) -> None:
        for log in self._tables:
            log()
        self._tables = []

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the test images."""
        self._draw(trainer, pl_module, "test", data_of(trainer).test_split)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str, split_name: str) -> None:
        run = next((logger.run for logger in loggers_of(trainer, RunLogger)), None)
        spread = is_sharded(trainer)  # then all processes have to run the network together
        if self.count < 1 or run is None or not (trainer.is_global_zero or spread):
            return
        data = data_of(trainer)
        module = task_of(pl_module)
        split = Split(data, split_name)
        shown = sorted({int(i) for i in np.linspace(0, len(split) - 1, self.count)})
        images, truths, predictions, objects, maps = [], [], [], [], []
        with torch.inference_mode():
            for sample in (split[i] for i in shown):
                batch = sample["image"][None].to(module.device)
                with trainer.strategy.precision_plugin.forward_context():
                    out = module(batch)
                images.append(data.pixels.picture(sample["image"].permute(1, 2, 0).contiguous().numpy()))
                if isinstance(module, InstanceSegmentation):
                    found, true = arrays(out[0]), arrays(sample["targets"])
                    views = view_of_truth(true), view_of_found(found, module.score_threshold)
                    objects.append(({**true, "parts": views[0].parts}, {**found, "parts": views[1].parts}))
                    truths.append(views[0].labels)
                    predictions.append(views[1].labels)
                elif isinstance(module, SemanticSegmentation):
                    labels = module.labels(out, batch)[0] if stage == "test" else out.max(1)[1][0]
                    predictions.append(labels.byte().cpu().numpy())
                    truths.append(sample["mask"].numpy())
                    if isinstance(module, MaskClassification) and module.inference is None:
                        drawn = [drawn_segments(view, module.things) for view in module.views(batch, sample)]
                        objects.append((drawn[0], drawn[1]))
                elif isinstance(module, MultiLabelSegmentation):
                    found_maps = module.decide(out)[0].byte().cpu().numpy()
                    maps.append((sample["mask"].numpy(), found_maps))
                    true_flat, found_flat = (flat(m.transpose(1, 2, 0)) for m in maps[-1])
                    truths.append(true_flat)
                    predictions.append(found_flat)
        if not trainer.is_global_zero:
            return
        folder = Path(run) / PICTURES
        folder.mkdir(exist_ok=True)
        sheet = comparison(
            images,
            truths,
            predictions,
            data.class_names,
            data.palette,
            objects=objects or None,
            maps=maps or None,
        )
        sheet.save(folder / f"{stage}.png")
        if stage == "test":  # for the report that lays several runs side by side
            for parts in zip(shown, images, truths, predictions, strict=True):
                save_parts(folder / stage, *parts, data.palette)
        samples = data.samples(split_name)
        names = [data.name_of(samples[i]) for i in shown]
        classes = data.class_names
        step = max(0, trainer.global_step - 1)  # the step that Lightning gives the scores of this validation
        iou = dict(zip(module.scored_classes, module.result.iou_per_class, strict=True))
        shown_there = PictureSet(images, truths, predictions, classes, names, objects or None)
        matrix = np.array(module.matrix)
        self._tables, self._drawn = [], self._drawn + (stage == "val")
        for logger in loggers_of(trainer, WandbRunLogger):
            shown_there.log(logger, f"{stage}/pictures", step)
            if matrix.size:
                confusion = partial(log_confusion_matrix, logger, f"{stage}/confusion", matrix, classes, step)
                self._tables.append(confusion)
            self._tables += [
                partial(shown_there.log_table, logger, f"{stage}/pictures_table", step),
                partial(log_per_class, logger, f"{stage}/iou_per_class", iou, step),
            ]
        if stage == "test" or self._drawn % self.tables_every_n == 0:
            self._log_tables()
