"""Mixing the samples of a training batch, on the device, after everything else."""

import math
from abc import ABC, abstractmethod

import torch

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.errors import UserError


class Mix(ABC):
    """Mixes every image of a batch with the next one.

    Args:
        p: Probability that a batch is mixed.

    Raises:
        UserError: If `p` is no probability.

    Examples:
        >>> class Swap(Mix):
        ...     def mix(self, batch, other):
        ...         return {"image": other["image"], "mask": other["mask"]}
        >>> batch = {"image": torch.tensor([1, 2]), "mask": torch.tensor([3, 4])}
        >>> Swap(p=1)(batch)["image"]
        tensor([2, 1])
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"p of {type(self).__name__} must be between 0 and 1, got {p}.")
        self.p = p

    def __call__(self, batch: Batch) -> Batch:
        """Mix "image" (B, 3, H, W) and "mask" (B, H, W) or (B, K, H, W), with torch's CPU generator."""
        if len(batch["image"]) > 1 and torch.rand(()).item() < self.p:
            other = batch | {"image": batch["image"].roll(1, 0), "mask": batch["mask"].roll(1, 0)}
            batch = batch | self.mix(batch, other)
        return batch

    @abstractmethod
    def mix(self, batch: Batch, other: Batch) -> Batch:
        """Return what changes in the batch; `other` holds the partner of each sample."""


class MixUp(Mix):
    """Blends two images; the loss is blended in the same way.

    Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018. The batch gets the partner's mask as
    "mask2" (B, H, W) and the share of the first as "mix", a number: the loss is mix * loss(mask) + (1 - mix) *
    loss(mask2).

    Args:
        alpha: Parameter of the beta distribution of the share.
        p: Probability that a batch is mixed.

    Examples:
        >>> batch = {"image": torch.rand(4, 3, 8, 8), "mask": torch.randint(0, 3, (4, 8, 8))}
        >>> sorted(MixUp(p=1)(batch))
        ['image', 'mask', 'mask2', 'mix']
    """

    def __init__(self, alpha: float = 0.4, p: float = 0.5) -> None:
        super().__init__(p)
        self.alpha = alpha

    def mix(self, batch: Batch, other: Batch) -> Batch:
        """Blend the images."""
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        image = share * batch["image"].float() + (1 - share) * other["image"].float()
        return {"image": image, "mask2": other["mask"], "mix": share}


class CutMix(Mix):
    """Pastes a rectangle of one image, with its labels, into another.

    Yun et al., "CutMix", ICCV 2019; French et al., "Semi-supervised semantic segmentation needs strong, varied
    perturbations", BMVC 2020.

    Args:
        alpha: Parameter of the beta distribution of the share of the rectangle.
        p: Probability that a batch is mixed.

    Examples:
        >>> batch = {"image": torch.rand(4, 3, 8, 8), "mask": torch.randint(0, 3, (4, 8, 8))}
        >>> CutMix(alpha=1, p=1)(batch)["mask"].shape
        torch.Size([4, 8, 8])
    """

    def __init__(self, alpha: float = 1.0, p: float = 0.5) -> None:
        super().__init__(p)
        self.alpha = alpha

    def mix(self, batch: Batch, other: Batch) -> Batch:
        """Paste one rectangle per batch."""
        height, width = batch["image"].shape[-2:]
        side = math.sqrt(torch.distributions.Beta(self.alpha, self.alpha).sample().item())
        rows, columns = round(side * height), round(side * width)
        top, left = (torch.rand(2) * torch.tensor([height - rows + 1, width - columns + 1])).int().tolist()
        inside = torch.zeros(
            len(batch["image"]), height, width, dtype=torch.bool, device=batch["image"].device
        )
        inside[:, top : top + rows, left : left + columns] = True
        return _paste(batch, other, inside)


class ClassMix(Mix):
    """Pastes half of the classes of one image, with their labels, into another.

    Olsson et al., "ClassMix", WACV 2021. Pixels of `ignore_index` stay where they are.

    Args:
        p: Probability that a batch is mixed.

    Examples:
        >>> batch = {"image": torch.rand(4, 3, 8, 8), "mask": torch.randint(0, 3, (4, 8, 8))}
        >>> ClassMix(p=1)(batch)["mask"].shape
        torch.Size([4, 8, 8])
    """

    def mix(self, batch: Batch, other: Batch) -> Batch:
        """Choose the classes of each image and paste them."""
        chosen = torch.zeros(len(batch["image"]), 256, dtype=torch.bool)
        for row, mask in zip(chosen, other["mask"], strict=True):
            present = torch.unique(mask).cpu()
            present = present[present != IGNORE_INDEX].long()
            order = torch.randperm(len(present))
            row[present[order[: (len(present) + 1) // 2]]] = True
        inside = torch.stack(
            [
                row[mask.long()]
                for row, mask in zip(chosen.to(other["mask"].device), other["mask"], strict=True)
            ]
        )
        return _paste(batch, other, inside)


def _paste(batch: Batch, other: Batch, inside: torch.Tensor) -> Batch:
    """Take the partner's pixels where `inside` (B, H, W) says so."""
    overlapping = batch["mask"].ndim == 4
    return {
        "image": torch.where(inside[:, None], other["image"], batch["image"]),
        "mask": torch.where(inside[:, None] if overlapping else inside, other["mask"], batch["mask"]),
    }
