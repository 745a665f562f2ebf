"""Writes what a run is and what it scored into its directory."""

import json
import math
import resource
import sys
from collections.abc import Sequence, Sized
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_seg import IGNORE_INDEX
from lightning_seg.callbacks.environment import data_version, environment
from lightning_seg.callbacks.score_tables import multi_label_table, object_table, score_table
from lightning_seg.data.base import SegmentationData, data_of
from lightning_seg.data.groups import group_numbers
from lightning_seg.data.pixels import RGB
from lightning_seg.data.test_sets import FurtherTest
from lightning_seg.metrics.scores import Scores
from lightning_seg.metrics.torch_metric import TorchMetric
from lightning_seg.networks.backbones.base import scalings
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.plotting.tables import text_table
from lightning_seg.runs.csv_logger import RunLogger, loggers_of
from lightning_seg.runs.directory import CONFIG, ENVIRONMENT, TEST_IMAGES, TEST_SCORES, write_whole
from lightning_seg.runs.provenance import record_code
from lightning_seg.tasks.base import SegmentationTask, task_of
from lightning_seg.tasks.instance import InstanceSegmentation
from lightning_seg.tasks.mask_classification import MaskClassification
from lightning_seg.tasks.multi_label import MultiLabelSegmentation
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.tracking.media import log_image_scores
from lightning_seg.tracking.wandb_logger import WandbRunLogger
from lightning_seg.training.finetune.groups import describe_groups, group_table
from lightning_seg.training.finetune.parts import never_reached, random_forever
from lightning_seg.training.finetune.parts import table as part_table


class RunRecord(L.Callback):
    """Keep the configuration, the environment and the test scores of a run.

    Args:
        run: The run directory.
        config: The resolved configuration as YAML.
        folders: Where the experiment's own files are, whose repository is recorded beside the package's.
        overrides: The arguments by which the run differs from its experiment, ``--key=value``.
        runs: The folder of all runs, in which there is no code.

    Examples:
        >>> RunRecord(run=Path("runs/x"), config="seed_everything: 0").run
        PosixPath('runs/x')
    """

    def __init__(
        self,
        run: Path,
        config: str,
        folders: Sequence[Path] = (),
        overrides: Sequence[str] = (),
        runs: Path | None = None,
    ) -> None:
        self.run = run
        self.config = config
        self.folders = folders
        self.overrides = list(overrides)
        self.runs = runs
        self._began = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write config.yaml and environment.json before anything can fail; tell all processes where."""
        self.run = Path(trainer.strategy.broadcast(str(self.run)))  # only the first has made the directory
        if not trainer.is_global_zero or stage not in ("fit", "test"):
            return
        if not (self.run / CONFIG).exists():
            facts = (
                {"overrides": self.overrides}
                | record_code(self.run, self.folders, runs=self.runs)
                | environment(trainer, task_of(pl_module))
            )
            write_whole(self.run / ENVIRONMENT, json.dumps(facts, indent=2) + "\n")
            write_whole(self.run / CONFIG, self.config)  # last: it makes the folder a run directory
        for logger in loggers_of(trainer, WandbRunLogger) if stage == "fit" else []:
            described = json.loads((self.run / ENVIRONMENT).read_text())
            data = data_of(trainer)
            batch = described["effective_batch_size"]
            seen = partial(lambda batch: trainer.global_step * batch, batch)
            logger.begin_training(described, type(data).__name__, data_version(data), seen)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is about to be trained: five lines, and one for each part of the network."""
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        task = task_of(pl_module)
        network = task.network
        parameters = sum(p.numel() for p in network.parameters())
        trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
        effective = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        print(
            f"run      {self.run}\n"
            f"network  {network.title},"
            f" {parameters / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trainable\n"
            f"backbone {network.describe()}\n"
            f"data     {_describe(data)}\n"
            f"{_describe_pixels(data, network)}"
            f"batch    {effective} = {data.batch_size} x {trainer.world_size} device(s)"
            f" x {trainer.accumulate_grad_batches} accumulated; learning rate x {task.lr_factor:g}"
            f" (scaling {task.lr_scaling})\n"
            f"{part_table(task.finetune.parts(network))}",
            flush=True,
        )

    def _note(self, trainer: L.Trainer, **facts: object) -> None:
        """Add to environment.json, and to W&B, what was not known when it was written."""
        file = self.run / ENVIRONMENT
        described = json.loads(file.read_text()) | facts
        write_whole(file, json.dumps(described, indent=2) + "\n")
        for logger in loggers_of(trainer, WandbRunLogger):
            logger.log_hyperparams({"environment": described})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what the training begins with; take back what a killed run is about to log again."""
        task = task_of(pl_module)
        if trainer.is_global_zero:
            groups = describe_groups(trainer.optimizers[0], task.network)
            resumes = f"resumes  {_position(trainer)}\n" if trainer.ckpt_path else ""
            print(f"weights  {task.pretrained}\n{group_table(groups)}\n{resumes}", end="", flush=True)
            if not trainer.fast_dev_run and (self.run / CONFIG).read_text(encoding="utf-8") != self.config:  # type: ignore[attr-defined]
                write_whole(self.run / CONFIG, self.config)  # a resumed run goes by these from now on
            began = {} if trainer.ckpt_path else {"weights": task.pretrained}
            normalization = (
                {"normalization": scalings(task.network)} if data_of(trainer).pixels != RGB else {}
            )
            groups_of = [asdict(group) for group in groups]
            self._note(trainer, **began, **normalization, groups=groups_of, failed=None, trained=False)
            if lost := steps_without_validation(trainer):
                print(
                    f"note     the last {lost} of {int(trainer.estimated_stepping_batches)} steps will not be"
                    " validated and cannot become the best checkpoint; let the training end with a validation"
                    " (trainer.max_epochs or max_steps, check_val_every_n_epoch, val_check_interval)"
                )
            parts = task.finetune.parts(task.network)
            if late := never_reached(parts, epochs_of(trainer)):
                print(f"note     {late}")
            if useless := random_forever(parts, task.pretrained):
                print(f"WARNING  {useless}")
        for logger in loggers_of(trainer, RunLogger) if trainer.is_global_zero else []:
            logger.rewind(trainer.global_step)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Put the settings into the checkpoint, by which it can be used where the run directory is not."""
        checkpoint["settings"] = self.config

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Note that the training has begun."""
        self._began = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that the training has come to its end, and the memory that it took at most."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            before = json.loads((self.run / ENVIRONMENT).read_text()).get("peak_memory_bytes") or 0
            peak = max(before, _peak_memory(trainer.strategy.root_device))  # of the parts of a resumed run
            self._note(trainer, trained=True, peak_memory_bytes=peak)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write down why a training failed; one that was stopped has not."""
        stopped = isinstance(exception, KeyboardInterrupt | SystemExit)
        if self._began and trainer.is_global_zero and trainer.state.fn == "fit" and not stopped:
            with suppress(OSError):  # a full disk may be the reason
                self._note(
                    trainer, failed=(str(exception) or type(exception).__name__).splitlines()[0].rstrip(":")
                )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table per class, where validation is all that was asked for."""
        if trainer.is_global_zero and trainer.state.fn == "validate":
            data = data_of(trainer)
            module = task_of(pl_module)
            images = _images(trainer, trainer.val_dataloaders, trainer.num_val_batches)
            self._print(module, module.result, f"{data.val_split} split, {images} images")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write test.json and test_images.npz, and print the table per class."""
        if not trainer.is_global_zero:
            return
        module, data = task_of(pl_module), data_of(trainer)
        result = module.result
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._print(module, result, "a trial of a few batches, whose scores are not kept")
            return
        names = module.scored_classes
        protocol: dict[str, object] = {
            "split": data.test_split,
            "images": _images(trainer, trainer.test_dataloaders, trainer.num_test_batches),
            "data": type(data).__name__,
            "fingerprint": data.fingerprint,
            "classes": list(names),
            "ignore_index": IGNORE_INDEX,
            "sequence": data.sequence,
            "resolution": "original",
            "aggregation": "one confusion matrix over the split, then the mean over classes present",
            "test_time_augmentation": None,
            "checkpoint": Path(trainer.ckpt_path).name if trainer.ckpt_path else None,
            "loss": _number(float(trainer.callback_metrics.get("test/loss", np.nan))),
        }
        if isinstance(data, FurtherTest):
            protocol |= data.facts
        if isinstance(module, SemanticSegmentation):
            if module.inference is not None:
                protocol["test_time_augmentation"] = repr(module.inference)
            if others := [m.protocol() for m in module.metrics if isinstance(m, TorchMetric)]:
                protocol["metrics"] = others
            if module.temperature != 1:
                protocol["temperature"] = module.temperature
            if module.postprocess is not None:
                protocol["postprocessing"] = [repr(step) for step in module.postprocess.steps]
        per_class = {
            name: {n: _number(v) for n, v in zip(names, getattr(result, f"{name}_per_class"), strict=True)}
            for name in ("iou", "dice", "precision", "recall")
        }
        means = {name: _number(value) for name, value in result.means().items()}
        further = {k: v for k, v in module.image_scores.items() if not isinstance(v, np.ndarray)}
        means |= {name: _number(value) for name, value in further.items()}
        per_class |= {
            name.removesuffix("_per_class"): {n: _number(v) for n, v in zip(names, value, strict=True)}
            for name, value in module.image_scores.items()
            if isinstance(value, np.ndarray)
        }
        # "precision" and "recall" are means here; a class's own stand beside its IoU.
        table: dict[str, object] = {
            "protocol": protocol,
            "scores": means | {"iou": per_class["iou"]},
            "per_class": per_class,
        }
        further_arrays: dict[str, Any] = {}
        if isinstance(module, MultiLabelSegmentation):
            protocol |= {
                "task": "overlapping classes, each by itself",
                "aggregation": "counts of each class over the split, then the mean over classes present",
                "thresholds": "tuned on the validation split" if module.tunes else "given",
                "test_time_augmentation": repr(module.inference) if module.inference else None,
            }
            # of the masks in pictures, where of several classes one shows
            table["labels"] = list(module.class_names)
        else:
            further_arrays["confusion"] = module.matrix
        if isinstance(module, InstanceSegmentation):
            further_arrays["mask_ap_left_out"] = module.mask_ap_left_out
            further_arrays["panoptic"] = module.panoptic_counts
            protocol["task"] = f"objects, those from score {module.score_threshold:g} on merged by class"
            table["note"] = (
                "average precision is COCO's and takes all objects found; no image has a share of its own in it, so "
                f"{TEST_IMAGES} counts the pixels of the objects merged by class, and holds the mask AP without each "
                "block of images"
            )
        if isinstance(module, MaskClassification) and module.inference is None:
            further_arrays["panoptic"] = module.panoptic_counts
            if module.things:
                further_arrays["mask_ap_left_out"] = module.mask_ap_left_out
            protocol["segments"] = repr(module.rules)
            protocol["things"] = [module.class_names[label] for label in module.things]
        write_whole(self.run / TEST_SCORES, json.dumps(table, indent=2) + "\n")
        samples = data.samples(data.test_split)
        names_of_images = [data.name_of(sample) for sample in samples]
        groups = group_numbers([data.group_of(sample) for sample in samples])
        if groups is not None:
            further_arrays["groups"] = groups
        np.savez_compressed(
            self.run / TEST_IMAGES,
            counts=module.per_image,
            names=np.array(names_of_images),
            **further_arrays,
        )
        step = max(0, trainer.global_step - 1)
        for logger in loggers_of(trainer, WandbRunLogger):
            counted = module.per_image, names, step
            log_image_scores(logger, "test/images", names_of_images, *counted)
        self._print(module, result, f"{protocol['split']} split, {protocol['images']} images")

    def _print(self, module: SegmentationTask, result: Scores, of_what: str) -> None:
        """Print all scores of an evaluation."""
        lines = [score_table(result, module.scored_classes)]
        further = {k: v for k, v in module.image_scores.items() if not isinstance(v, np.ndarray)}
        if module.instances:
            lines = [object_table(module.image_scores, module.class_names), "", "merged by class", *lines]
        else:
            if isinstance(module, MultiLabelSegmentation):
                lines = [multi_label_table(result, module.image_scores, module.scored_classes)]
            rows = [[name, f"{value:.4g}"] for name, value in further.items()]
            lines += [text_table(["", ""], rows)] if rows else []
        print("\n" + "\n".join([*lines, f"{of_what}; {self.run}"]))


def _peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has had: on the GPU, or, without one, of the processor's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def epochs_of(trainer: L.Trainer) -> int:
    """Return how many epochs a training has, those begun included, be they or its steps limited; -1 if neither is.

    Args:
        trainer: Whose training has begun.
    """
    end, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    if math.isinf(end) or math.isinf(batches) or not batches:
        return trainer.max_epochs or -1
    steps = -(-int(batches) // trainer.accumulate_grad_batches)
    return -(-int(end) // steps)


def steps_without_validation(trainer: L.Trainer) -> int:
    """Return how many optimizer steps of a training come after its last validation; 0 if its end is not known.

    Args:
        trainer: Whose training has begun.
    """
    end, interval = trainer.estimated_stepping_batches, trainer.val_check_batch
    if math.isinf(end) or not trainer.enable_validation or not interval:
        return 0
    batches, gathered = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    steps, every = -(-batches // gathered), trainer.check_val_every_n_epoch  # steps of an epoch
    epochs, rest = divmod(int(end), steps)
    if every is None:  # batches are counted over all epochs
        seen = epochs * batches + rest * gathered
        whole, inside = divmod(int(seen // interval * interval), batches)
        return int(end) - whole * steps - -(-inside // gathered)
    for epoch in range(epochs + 1, 0, -1):
        seen = batches if epoch <= epochs else rest * gathered
        inside = int(seen // interval * interval) if epoch % every == 0 and seen >= interval else 0
        if inside:
            return int(end) - (epoch - 1) * steps - -(-inside // gathered)
    return int(end)


def _position(trainer: L.Trainer) -> str:
    """Say how far a run is that goes on."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    count = trainer.fit_loop.epoch_progress.current
    # What is saved after an epoch's last step, its validation included, has not counted the epoch yet.
    uncounted = count.completed < count.ready and trainer.is_last_batch
    return (
        f"after epoch {trainer.current_epoch + uncounted}{f' of {epochs}' * (epochs > 0)},"
        f" step {trainer.global_step}{f' of {steps}' * (steps > 0)}"
    )


def _describe(data: SegmentationData) -> str:
    splits = {"train": data.train_split, "val": data.val_split, "test": data.test_split}
    counts = ", ".join(f"{len(data.samples(split))} {use} ({split})" for use, split in splits.items())
    height, width = data.crop_size
    return f"{type(data).__name__}, {data.num_classes} classes; images: {counts}; crops {height}x{width}"


def _describe_pixels(data: SegmentationData, network: BackboneNetwork) -> str:
    """Say which bands are read and how they are normalized, where they are not those of photographs."""
    if data.pixels == RGB:
        return ""
    scaling, lines = network.backbone.scaling, [f"pixels   {data.pixels.describe()}\n"]
    if data.pixels.is_measured and scaling is not None:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (scaling.mean, scaling.std))
        lines.append(f"         minus {mean}; divided by {std}\n")
    return "".join(lines)


def _images(trainer: L.Trainer, loader: object, batches: Sequence[int | float]) -> int:
    """Return how many images were scored: all of the loader's, unless the number of batches is limited."""
    assert isinstance(loader, DataLoader)
    images = len(cast(Sized, loader.dataset))
    return min(images, int(batches[0]) * (loader.batch_size or 1) * trainer.world_size)


def _number(value: float) -> float | None:
    """JSON has no NaN: a score that does not exist is null."""
    return None if np.isnan(value) else float(value)
