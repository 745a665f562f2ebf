"""What every task has in common: a network, a fine-tuning policy, an optimizer and its schedule."""

import math
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Self, TypeVar, cast

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.cli import instantiate_module
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import LRSchedulerTypeUnion, OptimizerLRScheduler
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from lightning_seg.data.base import SegmentationData, data_of
from lightning_seg.data.groups import group_numbers
from lightning_seg.data.pixels import RGB, Measurement, Pixels, restored
from lightning_seg.data.transforms.batch import Batch, Item
from lightning_seg.errors import UserError
from lightning_seg.metrics.confusion import ImageCounts
from lightning_seg.metrics.images import Values
from lightning_seg.metrics.scores import Scores, scores
from lightning_seg.networks.backbones.base import restore_scalings, scalings
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.runs.directory import best_checkpoint
from lightning_seg.training.checkpoint_io import Checkpoint, read
from lightning_seg.training.finetune.groups import Undecayed, scale_learning_rates, without_decay
from lightning_seg.training.finetune.parts import waiting_again
from lightning_seg.training.finetune.policies import Full
from lightning_seg.training.fsdp import is_sharded, shard
from lightning_seg.training.schedules import Plateau, for_lightning, realign

T = TypeVar("T")


class SegmentationTask(L.LightningModule, ABC):
    """A network that trains under a fine-tuning policy; a task adds its steps and its scores.

    Args:
        network: The network; its backbone obeys the policy.
        optimizer: Makes the optimizer from the trainable parameters.
        class_names: The classes in label order; comes from the data module.
        lr_scheduler: Makes the scheduler from the optimizer and the total number of optimizer steps, as those of
            `lightning_seg.training.schedules` are made. Without one the learning rate is constant.
        finetune: Which parts of the backbone train, and how; all of it unless given.
        no_decay: What has no weight decay, whatever the optimizer's: ``norms``, ``biases``, ``scales``, ``tokens``,
            ``positions`` (see `lightning_seg.training.finetune.groups.without_decay`); nothing unless given.
        lr_scaling: Multiply the learning rate by the number of batches that a step gathers, devices x accumulated
            (`linear`), or by its root (`sqrt`).
        gradient_checkpointing: Keep fewer of the backbone's activations and compute them again: less memory, slower.
        compile: Compile the network with torch.compile.
        pixels: What the images are, which decides how the network normalizes them; comes from the data module.

    Attributes:
        pretrained: The weights that the training began with, in words.
        monitor: The score that chooses the best checkpoint; higher is better.
        instances: Whether it wants objects of the data module instead of masks of classes.
        segments: Whether it wants the segments of each image beside the masks of classes.
        overlapping: Whether it wants a mask for each class but the background, which may overlap.
        kind_of_counts: What counts the pixels of each test image.
        image_counts: Those counts while a test runs.
        matrix: Confusion matrix (C, C) of the last finished evaluation, over all processes.
        per_image: Counts (N, C, 3) of the last finished test: intersection, predicted, true pixels.
        image_scores: The scores of the last finished evaluation beside those of the matrix.

    Raises:
        UserError: The network takes another number of channels than the images have.

    Examples:
        >>> [t.__name__ for t in (SemanticSegmentation, InstanceSegmentation) if issubclass(t, SegmentationTask)]
        ['SemanticSegmentation', 'InstanceSegmentation']
    """

    monitor = "val/miou"
    instances = False
    segments = False
    overlapping = False
    kind_of_counts = ImageCounts

    def __init__(
        self,
        network: BackboneNetwork,
        optimizer: Callable[[Iterable], Optimizer],
        class_names: tuple[str, ...],
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        finetune: Full | None = None,
        no_decay: Sequence[Undecayed] = (),
        lr_scaling: Literal["none", "linear", "sqrt"] = "none",
        gradient_checkpointing: bool = False,
        compile: bool = False,
        pixels: Pixels = RGB,
    ) -> None:
        super().__init__()
        if network.backbone.in_channels != pixels.count:
            raise UserError(
                f"The images have {pixels.count} channels, but {type(network).__name__} takes "
                f"{network.backbone.in_channels}. A network of your own gets the number as its argument in_channels, "
                "which it hands to the constructor of lightning_seg.Network and to its first layer."
            )
        self.pixels = pixels
        self.network = network.to(memory_format=torch.channels_last)  # as images are: no conversion
        self._normalize()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.class_names = class_names
        self.finetune = finetune or Full()
        self.no_decay = tuple(no_decay)
        self.lr_scaling = lr_scaling
        self.finetune.apply(network)
        if gradient_checkpointing:
            network.backbone.checkpoint_gradients()
        if compile:
            network.compile()
        self.pretrained = "those of the checkpoint"
        self._palette: tuple[tuple[int, int, int], ...] = ()
        self.image_counts: ImageCounts | None = None
        self.matrix = np.zeros((len(class_names), len(class_names)), int)
        self.per_image = np.zeros((0, len(self.scored_classes), 3), int)
        self.image_scores: Values = {}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        strict: bool = True,
        **settings: object,
    ) -> Self:
        """Build a task with the network of a checkpoint, by the settings in it; it needs no run directory and no data.

        Args:
            checkpoint_path: The file.
            map_location: The device; the CPU unless given.
            strict: Whether every weight must be there, and no other.
            **settings: Arguments of the task to change, such as ``temperature``.

        Raises:
            UserError: It is damaged, of another task or of version 0.1, or its classes cannot be imported or built.
        """
        checkpoint = read(checkpoint_path)
        if "settings" not in checkpoint:
            raise UserError(
                f"{checkpoint_path} holds weights, but no settings, as those of version 0.1 did. Where the run's"
                f" config.yaml is, lightning_seg.load({str(checkpoint_path)!r}) predicts, and lightning_seg.load_run"
                f"({str(checkpoint_path)!r}).task is the task."
            )
        written = yaml.safe_load(checkpoint["settings"])
        here = (str(Path.cwd()), str(Path("experiments").absolute()), *(written.get("modules") or ()))
        sys.path += [folder for folder in here if folder not in sys.path]
        task: type[Self] = pkgutil.resolve_name(written["task"])
        if not issubclass(task, cls):
            raise UserError(
                f"{checkpoint_path} is of {task.__name__}, not of {cls.__name__}: load it by that."
            )
        model = written["model"] | {"compile": False, "class_names": checkpoint["class_names"]}
        pixels = restored(checkpoint.get("pixels", {}))
        model["pixels"] = asdict(pixels)
        given = model["network"].setdefault("init_args", {})
        given["num_classes"] = len(checkpoint["class_names"]) - task.overlapping
        if pixels.count != 3:  # networks of a user's own need not know of it
            given["in_channels"] = pixels.count
        try:
            built = instantiate_module(task, model | settings)
            built.setup("test")  # makes room for what the training has computed
            built.load_state_dict(checkpoint["state_dict"], strict=strict)
        except Exception as error:  # whatever the classes of users and libraries raise
            reason = " ".join(str(error).split())[:500]
            raise UserError(f"the task of {checkpoint_path} cannot be built: {reason}") from error
        built.on_load_checkpoint(checkpoint)
        return built.to(map_location or "cpu").eval()

    @property
    def scored_classes(self) -> tuple[str, ...]:
        """Names of the classes that have scores."""
        return self.class_names

    @property
    def result(self) -> Scores:
        """Overlap scores of the last finished evaluation, over all processes."""
        return scores(self.matrix)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Write down what the data module knows and a prediction needs."""
        checkpoint["class_names"] = list(self.class_names)
        if getattr(self.trainer, "datamodule", None) is None:  # trained on loaders of somebody's own
            return
        data = data_of(self.trainer)
        checkpoint["palette"] = [list(color) for color in data.palette]
        checkpoint["pixels"] = asdict(self.pixels)
        # without what was measured of the training images the weights mean nothing
        if self.pixels.is_measured:
            checkpoint["scaling"] = scalings(self.network)

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Read what `on_save_checkpoint` has written."""
        self._palette = tuple(tuple(color) for color in checkpoint.get("palette", ()))
        if self.pixels.is_measured:
            restore_scalings(self.network, checkpoint.get("scaling", {}))

    def _normalize(self, measured: Measurement | None = None) -> None:
        """Tell the network how to normalize images, unless they are what it expects anyway."""
        if self.pixels.takes_any_values:
            self.network.backbone.expect(self.pixels, measured)

    def setup(self, stage: str) -> None:
        """Have the bands of the training split measured, where the normalization needs that."""
        super().setup(stage)
        if stage == "fit" and self.pixels.is_measured:
            self._normalize(data_of(self.trainer).measurement)

    def on_fit_start(self) -> None:
        """Load the pretrained weights for a fresh training; a checkpoint, known only by now, brings its own."""
        if self.trainer.ckpt_path is None and not is_sharded(self.trainer):
            self.pretrained = self.network.load_weights(best_checkpoint)
        self.finetune.begin(self.network)

    def on_fit_end(self) -> None:
        """Let the policy clean up.

        Raises:
            UserError: The run was to be continued to fewer steps than it has, so that nothing was trained.
        """
        self.finetune.end(self.network)
        if 0 < self.trainer.max_steps < self.global_step:
            raise UserError(
                f"the run has already trained {self.global_step} steps; --trainer.max_steps must be more"
            )

    def configure_model(self) -> None:
        """Spread the network over the processes, if the strategy does that, its pretrained weights loaded before."""
        if is_sharded(self.trainer) and self.trainer.state.fn == "fit":
            self.pretrained = self.network.load_weights(best_checkpoint)
        shard(self.trainer, self.network)

    def on_train_start(self) -> None:
        """Begin in the right mode: Lightning trains in the mode that it finds, and never calls `train`."""
        self._advance()
        self.train()
        self._realign_schedule()
        again = waiting_again(self.network.backbone.stages(), self.trainer.optimizers[0])
        if again and self.trainer.is_global_zero:
            print(
                f"note     {', '.join(again)} trained before, and wait again: the times of model.finetune are fractions"
                " of this training, which is longer"
            )

    def lr_scheduler_step(self, scheduler: LRSchedulerTypeUnion, metric: object) -> None:
        """Step the schedule after an optimizer step; `Plateau` counts validations instead."""
        if not isinstance(scheduler, Plateau):
            super().lr_scheduler_step(scheduler, metric)

    @abstractmethod
    def _evaluate(self, batch: Batch) -> None:
        """Add a batch to the scores, and in a test to `image_counts`."""

    @abstractmethod
    def _log_scores(self, split: str) -> None:
        """Log and keep the scores of a split (``val``, ``test``) and forget what they were made of."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch."""
        self._evaluate(batch)

    def on_test_start(self) -> None:
        """Make room for the counts of each test image, which paired statistics need."""
        self.finetune.begin_test(self.network)
        images = number_of_images(self.trainer.test_dataloaders)
        counts = self.kind_of_counts(images, len(self.scored_classes))
        self.image_counts = counts.to(self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch and count the pixels of its images."""
        self._evaluate(batch)

    def on_test_end(self) -> None:
        """Let the policy clean up, after the callbacks."""
        self.finetune.end(self.network)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split and keep the counts of its images."""
        assert self.image_counts is not None
        self.per_image = self.image_counts.compute().cpu().numpy()
        self.image_counts = None
        self._log_scores("test")

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split; then let `Plateau` count a validation of the training."""
        self._log_scores("val")
        for config in [] if self.trainer.sanity_checking else self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, Plateau):
                config.scheduler.count(self.trainer.callback_metrics)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Let those parts of the network train whose time has come."""
        if self._advance():
            self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        self.finetune.set_mode(self.network)
        return self

    def counts(self, batch: Batch) -> bool:
        """Whether a batch of evaluation counts, or only keeps this process in step with those that have more."""
        if "filler" not in batch:
            return True
        self.network(batch["image"])  # one that is spread over processes needs them all at every step
        return False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer over the trainable parameters and a scheduler that knows the number of steps.

        Raises:
            UserError: The training has no end, and something goes by the share of it that is done.
        """
        if self.trainer.estimated_stepping_batches == math.inf and (follows := self._follows_progress()):
            raise UserError(
                f"{follows} goes by the share of the training that is done, and this one has no end: set"
                " trainer.max_epochs or trainer.max_steps (beside max_time)."
            )
        optimizer = self._make_optimizer()
        scale_learning_rates(optimizer)
        for group in optimizer.param_groups:
            group["lr"] *= self.lr_factor
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self.lr_scheduler is None:
            return {"optimizer": optimizer}
        scheduler = for_lightning(self.lr_scheduler, optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _make_optimizer(self) -> Optimizer:
        """Make the optimizer; Adam's whole update in one pass over the memory, unless the settings say otherwise."""
        groups = without_decay(self.finetune.parameter_groups(self.network), self.network, self.no_decay)
        optimizer = self.optimizer([dict(group) for group in groups])  # it writes its defaults into them
        left_open = optimizer.defaults.get("fused", False) is None and optimizer.defaults["foreach"] is None
        if not (isinstance(optimizer, Adam) and left_open) or self.trainer.precision == "16-mixed":
            return optimizer
        try:
            return self.optimizer(groups, fused=True)  # type: ignore[call-arg]
        except TypeError:  # a function of somebody's own, which takes no more than the groups
            return optimizer

    def _realign_schedule(self) -> None:
        """Keep to the settings where a checkpoint has the learning rates of others, such as fewer epochs."""
        if self.trainer.ckpt_path is None or self.lr_scheduler is None:
            return
        steps = int(self.trainer.estimated_stepping_batches)
        for config in self.trainer.lr_scheduler_configs:
            scheduler = cast(LRScheduler, config.scheduler)
            said = realign(self.lr_scheduler, scheduler.optimizer, scheduler, self._rates, steps)
            if said and self.trainer.is_global_zero:
                print(f"rate     {said}")

    @property
    def lr_factor(self) -> float:
        """What `lr_scaling` multiplies all learning rates by: devices times accumulated batches, or its root."""
        gathered = self.trainer.world_size * self.trainer.accumulate_grad_batches
        return float(gathered ** {"none": 0, "linear": 1, "sqrt": 0.5}[self.lr_scaling])

    def _test_groups(self) -> np.ndarray | None:
        data = data_of(self.trainer)
        return group_numbers([data.group_of(sample) for sample in data.samples(data.test_split)])

    def _once(self, look: Callable[[SegmentationData], T]) -> T:
        """Have one process look at the data; the others wait for what it finds."""
        found = look(data_of(self.trainer)) if self.trainer.is_global_zero else None
        return cast(T, self.trainer.strategy.broadcast(found))

    def _report_weights(self, name: str, weights: Sequence[float], what: str) -> None:
        """Log the weights that the data gave the scored classes, and print them."""
        of_classes = dict(zip(self.scored_classes, weights, strict=True))
        for logger in self.trainer.loggers:
            logger.log_hyperparams({name: of_classes})
        if self.trainer.is_global_zero:
            print(f"classes  {what} {', '.join(f'{c} {weight:.3g}' for c, weight in of_classes.items())}")

    def _follows_progress(self) -> str:
        """Say what changes at some share of the training; nothing if nothing does."""
        shares = [part for part in self.finetune.parts(self.network) if 0 < part.start < 1]
        return f"model.finetune: {type(self.finetune).__name__}" if shares else ""

    def _advance(self) -> bool:
        progress = self.global_step / self.trainer.estimated_stepping_batches
        if not self.finetune.advance(self.network, self.current_epoch, progress):
            return False
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):
            # DDP averages the gradients of those parameters only that wanted one when it was made. Lightning makes it
            # anew from `strategy.model`, and has no argument for that.
            strategy.model = self
            strategy.configure_ddp()
        return True


def number_of_images(loader: DataLoader[Item] | None) -> int:
    """Return how many images the loader of a trainer that evaluates has."""
    assert loader is not None
    return len(cast(Sized, loader.dataset))


def task_of(module: L.LightningModule) -> SegmentationTask:
    """Return the task that a callback was given, whose type in Lightning's hooks is that of any module."""
    return cast(SegmentationTask, module)
