"""What tasks do with batches: images of different sizes, mixed masks, and a process's share of the loss."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, distributed

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.transforms.batch import Batch


def same_size(batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Undo the padding of images of different sizes, so that a score never depends on what shared a batch.

    Yields:
        Images (B, C, H, W), their masks (B, H, W) or (B, K, H, W), and their index (B,).
    """
    images, masks, index = batch["image"], batch["mask"], batch["index"]
    if "size" not in batch:
        yield images, masks, index
        return
    for i, (height, width) in enumerate(batch["size"].tolist()):
        yield images[i : i + 1, :, :height, :width], masks[i : i + 1, ..., :height, :width], index[i : i + 1]


def logits_of_each(network: Callable[[Tensor], Tensor], batch: Batch) -> list[Tensor]:
    """Return the logits (C, H, W) of each image of a batch, one by one and without its padding."""
    images = batch["image"]
    sizes = batch["size"].tolist() if "size" in batch else [images.shape[-2:]] * len(images)
    cut = (image[None, :, :height, :width] for image, (height, width) in zip(images, sizes, strict=True))
    return [network(image)[0] for image in cut]


def mixed_loss(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, batch: Batch) -> Tensor:
    """Return the loss of logits; a MixUp batch has two masks and the share of the first."""
    value = loss(logits, batch["mask"])
    if "mask2" in batch:
        value = batch["mix"] * value + (1 - batch["mix"]) * loss(logits, batch["mask2"])
    return value


def share_of(masks: Tensor, weights: Callable[[Tensor], Tensor] | None) -> Tensor | float:
    """Return this process's share of all counted pixels, times the number of processes.

    DDP takes the mean of the processes' gradients. With this factor on the loss it is the gradient of the mean over the
    pixels of all of them, as if one process had seen the whole batch.

    Args:
        masks: Those of this process's batch.
        weights: How much the loss lets each pixel of masks count; None for all alike but the ignored ones.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1.0
    counted = masks != IGNORE_INDEX if weights is None else weights(masks)
    ours = counted.sum(dtype=torch.float32)
    total = ours.clone()
    distributed.all_reduce(total)
    return ours * distributed.get_world_size() / total.clamp(min=torch.finfo(total.dtype).tiny)
