"""The training step beside a bare loop: what does the framework cost, and what do others'?"""

import copy
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_seg.bench.timing import Goal
from lightning_seg.callbacks.checkpointing import SeededSteps
from lightning_seg.callbacks.nonfinite import NonFinite
from lightning_seg.callbacks.progress import Progress
from lightning_seg.callbacks.training_curves import TrainingCurves
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.experiment.experiment import TaskAndData
from lightning_seg.experiment.trainer import device_of
from lightning_seg.networks.mask_network import MaskNetwork
from lightning_seg.runs.csv_logger import RunLogger
from lightning_seg.tasks.mask_classification import MaskClassification
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.policies import Frozen, Full
from lightning_seg.training.mask_loss import targets_of
from lightning_seg.training.precision import choose_precision

OURS, BARE, PLAIN, FROZEN = "ours", "bare loop", "bare loop, 32 bits, contiguous", "ours, frozen backbone"
TORCHGEO, AUTOTIMM, NOTEBOOK = "torchgeo", "AutoTimm", "smp + Lightning + torchmetrics"
GOALS = (
    Goal(OURS, BARE, 0.97),
    Goal(OURS, TORCHGEO, 1.8),
    Goal(OURS, AUTOTIMM, 2.4),
    Goal(FROZEN, OURS, 2.3),
)
N = TypeVar("N", bound=nn.Module)
WARM = 2  # steps of each turn that are not timed


def silence() -> None:
    """Keep what trainers say at every start out of the table."""
    warnings.simplefilter("ignore")
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


class TrainBench:
    """Training steps of an experiment on one batch that stays in memory, so that data plays no part.

    Args:
        experiment: The experiment; its data is asked for sizes only.
        steps: Steps that are timed in a turn.
        processor_time: Whether to count the processor's time instead of that on the wall, and to use one thread:
            threads that wait for one another count, too.
    """

    def __init__(self, experiment: TaskAndData, steps: int, processor_time: bool = False) -> None:
        self._now = time.process_time if processor_time else time.perf_counter
        if processor_time:
            torch.set_num_threads(1)
        data = experiment.datamodule
        self.experiment, self.steps = experiment, steps
        self.device = device_of(experiment.config.trainer.accelerator)
        given = experiment.config.trainer.precision
        self.precision = str(given or choose_precision(experiment.model.network, self.device).precision)
        self.compile = bool(experiment.config.model.compile)
        generator = torch.Generator().manual_seed(0)
        size = (data.batch_size, 3, *data.crop_size)
        images = torch.randint(256, size, generator=generator, dtype=torch.uint8)
        self.num_classes = data.num_classes
        self.batch: Batch = {
            "image": images.contiguous(memory_format=torch.channels_last),
            "mask": images[:, 0] % data.num_classes,
            "index": torch.arange(len(images)),
        }
        if experiment.model.segments:
            self.batch |= _rectangles(len(images), size[2:], data.num_classes)

    @property
    def arithmetic(self) -> str:
        """The precision, and whether the network is compiled."""
        return f"{self.precision}, compiled" if self.compile else self.precision

    @property
    def device_name(self) -> str:
        """What the steps run on."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"

    def ways(self) -> dict[str, Callable[[], float]]:
        """Return the ways to make a step that need nothing but this package; the last one is never compiled."""
        return {
            BARE: self.bare(self.autocast, torch.channels_last, self.compile),
            OURS: self.fitted(self.task(Full(), self.compile)),
            FROZEN: self.fitted(self.task(Frozen(), self.compile)),
            PLAIN: self.bare(nullcontext, torch.contiguous_format),
        }

    def autocast(self) -> AbstractContextManager:
        """Return the arithmetic that was chosen."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def task(self, finetune: Full, compile: bool = False) -> SemanticSegmentation:
        """Return the experiment's task under another policy, and compiled if that is wanted."""
        model = self.experiment.model
        assert isinstance(model, SemanticSegmentation)
        given = model.optimizer, model.class_names  # a copy of a network is not compiled
        if isinstance(model, MaskClassification):
            network = _trainable(model.network)
            return MaskClassification(
                network, *given, model.things, loss=model.mask_loss, finetune=finetune, compile=compile
            )
        return SemanticSegmentation(
            _trainable(model.network), *given, loss=model.loss, finetune=finetune, compile=compile
        )

    def bare(
        self, arithmetic: Callable, layout: torch.memory_format, compile: bool = False
    ) -> Callable[[], float]:
        """Return a loop that does a step's work and nothing else."""
        task = self.task(Full(), compile)
        network: nn.Module = task.network.to(self.device).to(memory_format=layout).train()
        loss = _bare_loss(task.to(self.device))
        optimizer = task.optimizer(network.parameters())
        given = self.batch | {"image": self.batch["image"].contiguous(memory_format=layout)}

        def run() -> float:
            for step in range(WARM + self.steps):
                if step == WARM:
                    start = self.clock()
                if isinstance(network, MaskNetwork):
                    network.anneal(step / (WARM + self.steps))  # as the task: it changes what a step costs
                batch = move_data_to_device(given, self.device)
                with arithmetic():
                    total = loss(batch)
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
            return (self.clock() - start) / self.steps

        return run

    def fitted(
        self,
        module: L.LightningModule,
        batch: object = None,
        precision: str | None = None,
        make_trainer: Callable[..., L.Trainer] = L.Trainer,
    ) -> Callable[[], float]:
        """Return a loop of Lightning's trainer over one batch, with what every run has at its steps if it is ours."""
        batches: list[object] = [self.batch if batch is None else batch] * (
            WARM + self.steps + 1
        )  # no epoch ends
        loader: DataLoader[object] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

        def run() -> float:
            clock = _Clock(self)
            with tempfile.TemporaryDirectory() as folder:
                ours = isinstance(module, SemanticSegmentation)
                trainer = make_trainer(
                    max_steps=WARM + self.steps,
                    accelerator="gpu" if self.device.type == "cuda" else "cpu",
                    devices=1,
                    precision=precision or self.precision,
                    logger=RunLogger(Path(folder)) if ours else False,
                    callbacks=[*_at_each_step(), clock] if ours else [clock],
                    log_every_n_steps=10,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                )
                trainer.fit(module, loader)
            return clock.seconds / self.steps

        return run

    def clock(self) -> float:
        """Return the time once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._now()

    def memory(self) -> dict[str, str]:
        """Say what a step keeps for the backward pass, ours against the bare loop."""
        ours, bare = self._kept(self.task(Full())), self._kept(self.task(Full()), bare=True)
        frozen = self._kept(self.task(Frozen()))
        return {
            "memory for the backward pass, ours / bare": f"{ours / bare:.3f}",
            "memory for the backward pass, frozen / full": f"{frozen / ours:.3f}",
        }

    def _kept(self, task: SemanticSegmentation, bare: bool = False) -> int:
        """Count the bytes that one step keeps for its backward pass, each storage once."""
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        task.to(self.device).train()
        task.log = task.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
        batch = move_data_to_device(self.batch, self.device)
        own = {p.untyped_storage().data_ptr() for p in task.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), self.autocast():
            loss = _bare_loss(task)(batch) if bare else task.training_step(batch, 0)
        del loss
        return sum(size for pointer, size in kept.items() if pointer not in own)


def _at_each_step() -> list[L.Callback]:
    """Make the callbacks of every run that compute something at its steps; none writes files or validates."""
    return [Progress(), NonFinite(), TrainingCurves(), SeededSteps(0)]


def _trainable(network: N) -> N:
    """Return a copy that trains whole, whatever the experiment freezes."""
    return copy.deepcopy(network).requires_grad_(True)


def _bare_loss(task: SemanticSegmentation) -> Callable[[Batch], Tensor]:
    """Return what a loop of one's own would compute of a batch: the loss, and nothing of what the task adds."""

    def loss(batch: Batch) -> Tensor:
        output = task.network(batch["image"])
        if isinstance(task, MaskClassification):
            numbers = task.network.pad_segments(batch["segments"])
            targets = targets_of(numbers, batch["segment_class"], batch["segment_list"])
            return torch.stack([layer.total for layer in task.mask_loss(output, targets)]).sum()
        first, *auxiliary = output if isinstance(output, tuple) else [output]
        total: Tensor = task.loss(first, batch["mask"])
        return total + sum(task.auxiliary_weight * task.loss(each, batch["mask"]) for each in auxiliary)

    return loss


def _rectangles(images: int, size: tuple[int, int], num_classes: int) -> Batch:
    """Return segments for each image, nine rectangles."""
    rows, columns = (torch.arange(side) * 3 // side for side in size)
    numbers = (3 * rows[:, None] + columns).to(torch.uint8)
    return {
        "segments": numbers.expand(images, *size).contiguous(),
        "segment_class": (torch.arange(256) % num_classes).to(torch.uint8).repeat(images, 1),
        "segment_list": [list(range(9)) for _ in range(images)],
    }


class _Clock(L.Callback):
    """Times the steps after the first few."""

    def __init__(self, bench: TrainBench) -> None:
        self._bench = bench
        self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx
    ) -> None:
        """Start after the warm-up, stop after the last step."""
        if batch_idx == WARM - 1:
            self._start = self._bench.clock()
        elif batch_idx == WARM + self._bench.steps - 1:
            self.seconds = self._bench.clock() - self._start
