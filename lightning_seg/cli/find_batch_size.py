"""The largest batch that fits into a device's memory."""

import gc
import warnings
from contextlib import nullcontext
from typing import Any

import torch

from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import TaskAndData, device_of
from lightning_seg.experiment.failures import is_out_of_memory
from lightning_seg.training.precision import choose_precision

STEPS = 3  # an optimizer makes its state in the first, and the allocator settles after the second
MOST = {"cuda": 4096, "cpu": 32}  # a CPU's memory ends in swapping, not in an error
OBJECTS = 30  # as in a crowded image
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def main(args: list[str]) -> None:
    """Try batches of 1, 2, 4, ... random crops of an experiment, ``NAME [--key=value ...]``, and name the largest."""
    experiment = TaskAndData(args)
    warnings.filterwarnings(
        "ignore", ".*`self.trainer` reference is not registered.*"
    )  # steps without a trainer
    given, data = experiment.config.trainer, experiment.datamodule
    device = device_of(given.accelerator)
    precision = given.precision or choose_precision(experiment.model.network, device).precision
    batch, (height, width) = largest(experiment, device, precision), data.crop_size
    if batch == 0:
        raise UserError(
            f"not one crop of {height}x{width} fits into the memory of {device}. Try a smaller"
            " --data.init_args.crop_size, a smaller backbone, or --model.gradient_checkpointing=true."
        )
    limit = "" if batch < MOST[device.type] else " (more was not tried)"
    print(
        f"{batch} crops of {height}x{width} fit in {precision}{limit}: --data.init_args.batch_size={batch}\n"
        "It changes what is learned: keep batch_size x devices x accumulate_grad_batches to compare with other runs."
    )


def largest(experiment: Any, device: torch.device, precision: str) -> int:
    """Return the largest power of two of crops that some training steps have room for; 0 if there is none.

    Args:
        experiment: Its task, crop size and number of classes are taken; no data is read.
        device: Where to try.
        precision: As the trainer calls it.
    """
    task, data = experiment.model.to(device).train(), experiment.datamodule
    optimizer = task.optimizer(task.finetune.parameter_groups(task.network))
    dtype = DTYPES.get(str(precision))
    fits, batch = 0, 1
    while batch <= MOST[device.type]:
        try:
            for _ in range(STEPS):
                _step(task, optimizer, _random_batch(data, batch, device), dtype)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        finally:
            optimizer.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
        fits, batch = batch, 2 * batch
    return fits


def _step(task: Any, optimizer: Any, batch: dict[str, Any], dtype: torch.dtype | None) -> None:
    device = batch["image"].device.type
    with torch.autocast(device, dtype) if dtype else nullcontext():
        loss = task.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _random_batch(data: Any, size: int, device: torch.device) -> dict[str, Any]:
    """Make noise of a batch's shape; where objects are sought, each image has as many as crowded ones have."""
    images = torch.randint(256, (size, 3, *data.crop_size), dtype=torch.uint8, device=device)
    masks = torch.randint(data.num_classes, (size, *data.crop_size), dtype=torch.uint8, device=device)
    batch = {"image": images.contiguous(memory_format=torch.channels_last), "mask": masks}
    if not data.instances:
        return batch
    corners = torch.rand(OBJECTS, 2, 2, device=device).sort(1)[0] * torch.tensor(
        data.crop_size[::-1], device=device
    )
    objects = {
        "boxes": corners.flatten(1) + torch.tensor([0, 0, 1, 1], device=device),  # no box without an area
        "labels": torch.randint(1, data.num_classes, (OBJECTS,), device=device),
        "masks": torch.randint(2, (OBJECTS, *data.crop_size), dtype=torch.uint8, device=device),
    }
    return {**batch, "targets": [objects] * size}
