"""The largest batch that fits into a device's memory."""

import gc
import warnings
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.segments import batch_columns
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.experiment.failures import is_out_of_memory
from lightning_seg.tasks.base import SegmentationTask

STEPS = 3  # an optimizer makes its state in the first, and the allocator settles after the second
MOST = {"cuda": 4096, "cpu": 32}  # a CPU's memory ends in swapping, not in an error
OBJECTS = 30  # as in a crowded image
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def largest_batch(
    task: SegmentationTask, data: SegmentationData, device: torch.device, precision: str
) -> int:
    """Return the largest power of two of crops that some training steps have room for; 0 if there is none.

    Args:
        task: The task; this trains it.
        data: Its crop size and number of classes are taken; no data is read.
        device: Where to try.
        precision: As the trainer calls it.
    """
    warnings.filterwarnings(
        "ignore", ".*`self.trainer` reference is not registered.*"
    )  # steps without a trainer
    task = task.to(device).train()
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


def _step(task: SegmentationTask, optimizer: Optimizer, batch: Batch, dtype: torch.dtype | None) -> None:
    device = batch["image"].device.type
    with torch.autocast(device, dtype) if dtype else nullcontext():
        loss = task.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _random_batch(data: SegmentationData, size: int, device: torch.device) -> Batch:
    """Make noise of a batch's shape; where objects are sought, each image has as many as crowded ones have."""
    shape = size, data.num_channels, *data.crop_size
    images = torch.randint(256, shape, dtype=torch.uint8, device=device)
    masks = torch.randint(data.num_classes, (size, *data.crop_size), dtype=torch.uint8, device=device)
    if data.overlapping:
        shape = size, data.num_outputs, *data.crop_size
        masks = torch.randint(2, shape, dtype=torch.uint8, device=device)
    batch: Batch = {"image": images.contiguous(memory_format=torch.channels_last), "mask": masks}
    if data.segments:
        numbers = torch.randint(OBJECTS, (size, *data.crop_size), dtype=torch.uint8)
        columns = batch_columns(numbers, [i % data.num_classes for i in range(OBJECTS)], ())
        batch |= {
            "mask": columns["mask"].to(device),
            "segments": columns["segments"].to(device),
            "segment_class": columns["segment_class"].expand(size, -1).to(device),
            "segment_crowd": columns["segment_crowd"].expand(size, -1).to(device),
            "segment_list": [columns["segment_list"]] * size,
        }
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
