"""Samples with instances: one mask, box and label for each object.

A sample is a dictionary of "image" (3, H, W) ``uint8``, "masks" (N, H, W) ``uint8`` of 0 and 1, "boxes" (N, 4)
``float32`` as left, top, right, bottom in pixels, "labels" (N,) ``int64`` from 1 (0 is the background), and for COCO
"iscrowd" (N,) ``bool``. The first three are tv_tensors, so that any transform of torchvision v2 moves them together;
`augment` puts right what transforms leave behind. N may be 0.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_seg.data.transforms.batch import Batch, Item, Sample
from lightning_seg.errors import UserError


def instance_sample(
    image: np.ndarray, masks: np.ndarray, labels: Sequence[int], iscrowd: Sequence[bool] | None = None
) -> Sample:
    """Make a sample from arrays; instances without a pixel are left out.

    Args:
        image: Image (H, W, 3), ``uint8``.
        masks: Where each instance is (N, H, W), ``bool`` or 0 and 1.
        labels: Class of each instance, from 1.
        iscrowd: Which masks show several objects at once.
    """
    flags = {} if iscrowd is None else {"iscrowd": torch.as_tensor(iscrowd, dtype=torch.bool)}
    return sanitize(
        {
            "image": tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            "masks": tv_tensors.Mask(torch.from_numpy(np.asarray(masks, np.uint8))),
            "labels": torch.as_tensor(labels, dtype=torch.int64),
            **flags,
        }
    )


def masks_of_numbers(numbers: np.ndarray) -> np.ndarray:
    """Split a map of instance numbers (H, W), 0 for none, into masks (N, H, W), in the order of the numbers."""
    present = np.unique(numbers)
    masks: np.ndarray = numbers == present[present > 0][:, None, None]
    return masks


def boxes_from_masks(masks: torch.Tensor) -> torch.Tensor:
    """Find the boxes around masks.

    A box goes from the left edge of the first pixel to the right edge of the last, so that its width is a number of
    pixels; `torchvision.ops.masks_to_boxes` ends one pixel earlier.

    Args:
        masks: Masks (N, H, W).

    Returns:
        Boxes (N, 4) as left, top, right, bottom, ``float32``; zeros for an empty mask.
    """
    ends = []
    for axis in (1, 2):  # over the rows, then over the columns
        there = (masks != 0).any(axis)
        ones = there.to(torch.uint8)  # argmax takes no bool
        end = there.shape[1] - ones.flip(1).argmax(1)
        ends += [ones.argmax(1), torch.where(there.any(1), end, 0)]
    left, right, top, bottom = ends
    return torch.stack([left, top, right, bottom], 1).float()


def sanitize(sample: Sample, min_pixels: int = 1) -> Sample:
    """Recompute the boxes from the masks and leave out instances of which too little is left.

    Without masks, boxes are cut at the edge of the image, and those without an area left out.

    Args:
        sample: A sample; see the module.
        min_pixels: Fewest pixels of an instance that is kept.

    Returns:
        The sample, with everything that belongs to an instance still in one order.
    """
    if "masks" in sample:
        masks = sample["masks"]
        keep = (masks != 0).flatten(1).sum(1) >= min_pixels if len(masks) else masks.new_zeros(0).bool()
        boxes = boxes_from_masks(masks)
    else:
        boxes = v2.functional.clamp_bounding_boxes(sample["boxes"]).as_subclass(torch.Tensor)
        size = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0)
        keep = size.prod(1) >= max(min_pixels, 1e-3)
    canvas = tuple(sample["image"].shape[-2:])
    out = dict(sample)
    for key in ("masks", "labels", "iscrowd"):
        if key in sample:
            kept = sample[key][keep]
            out[key] = tv_tensors.Mask(kept) if key == "masks" else kept
    out["boxes"] = tv_tensors.BoundingBoxes(boxes[keep].float(), format="XYXY", canvas_size=canvas)
    return out


def augment(sample: Sample, transforms: Iterable[v2.Transform], min_pixels: int = 1) -> Sample:
    """Transform image, masks and boxes together, then `sanitize`.

    Args:
        sample: A sample; see the module.
        transforms: Transforms of torchvision v2 or of this package, one after the other.
        min_pixels: Fewest pixels of an instance that is kept.
    """
    for transform in transforms:
        sample = transform(sample)
    return sanitize(sample, min_pixels)


def as_batch_item(sample: Sample, index: int) -> Item:
    """Lay out a sample for a batch: "image", "index", and all of the objects in "targets", as plain tensors."""
    targets = {k: v.as_subclass(torch.Tensor) for k, v in sample.items() if k != "image"}
    return {"image": sample["image"].as_subclass(torch.Tensor), "targets": targets, "index": index}


def mix_objects(batch: Batch, mix: "CopyPaste") -> Batch:
    """Mix the images of a batch and their "targets", on whatever device they are."""
    samples = [{"image": i, **t} for i, t in zip(batch["image"], batch["targets"], strict=True)]
    items = [as_batch_item(sample, 0) for sample in mix(samples)]
    return batch | {
        "image": torch.stack([i["image"] for i in items]),
        "targets": [i["targets"] for i in items],
    }


class CopyPaste:
    """Pastes some of the objects of one image into another.

    Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance segmentation", CVPR 2021,
    without their blurring of borders, which brought them nothing. It belongs after `LargeScaleJitter`, so that
    objects change their size.

    Args:
        p: Probability that an image of a batch receives objects of the next one.
        min_pixels: Fewest pixels of a covered instance that is kept.

    Raises:
        UserError: If `p` is no probability.

    Examples:
        >>> Shapes(batch_size=4, crop_size=(96, 96), instances=True, mix=CopyPaste(p=0.5)).mix.p
        0.5
    """

    def __init__(self, p: float = 0.5, min_pixels: int = 10) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"p of CopyPaste must be between 0 and 1, got {p}.")
        self.p = p
        self.min_pixels = min_pixels

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """Paste into each sample of a batch, with torch's CPU generator; all images have one size."""
        partners = [*samples[1:], *samples[:1]]
        return [
            self._paste(sample, partner) if torch.rand(()).item() < self.p and len(samples) > 1 else sample
            for sample, partner in zip(samples, partners, strict=True)
        ]

    def _paste(self, sample: Sample, other: Sample) -> Sample:
        """Paste a random half of the other's objects; crowds stay where they are."""
        if "masks" not in sample or "masks" not in other:
            raise UserError("CopyPaste needs samples with masks; boxes alone cannot be pasted.")
        if sample["image"].shape != other["image"].shape:
            raise UserError("CopyPaste needs images of one size: cut them to a crop_size before.")
        chosen = torch.rand(len(other["labels"])) < 0.5
        if "iscrowd" in other:
            chosen &= ~other["iscrowd"].cpu()
        chosen = chosen.to(other["labels"].device)
        pasted = other["masks"][chosen]
        if not len(pasted):
            return sample
        over = (pasted != 0).any(0)
        out = dict(sample)
        out["image"] = tv_tensors.wrap(
            torch.where(over, other["image"], sample["image"]), like=sample["image"]
        )
        out["masks"] = tv_tensors.Mask(torch.cat([sample["masks"] * ~over, pasted]))
        for key in ("labels", "iscrowd"):
            if key in sample:
                out[key] = torch.cat([sample[key], other[key][chosen]])
        return sanitize(out, self.min_pixels)
