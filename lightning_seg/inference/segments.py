"""From queries to objects and to segments of which each pixel has one."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.instances import boxes_from_masks
from lightning_seg.errors import UserError
from lightning_seg.metrics.instance import View
from lightning_seg.networks.mask_network import Queries


class Segmented(NamedTuple):
    """The segments of an image.

    Attributes:
        view: Number of the segment at each pixel, from 1 on, and its class.
        labels: Class of each segment (N,) int64.
        scores: Probability of that class (N,) float32; of all that is one class of stuff the largest.
    """

    view: View
    labels: np.ndarray
    scores: np.ndarray


class SegmentRules:
    """The rules of inference of MaskFormer and its successors.

    Args:
        score_threshold: From which probability of its class on a query is a segment.
        overlap_threshold: Share of its mask that a segment must keep when each pixel goes to the most confident query.
        mask_threshold: From which probability on a pixel is in a mask.
        objects: How many objects of an image average precision looks at, the most confident ones.

    Raises:
        UserError: A threshold is not in 0..1.

    Examples:
        >>> network = EoMT(3, "test_vit", weights=False, queries=10, blocks=1).eval()
        >>> with torch.no_grad():
        ...     queries = network.queries(torch.zeros(1, 3, 64, 64))
        >>> sorted(SegmentRules().instances(queries, things=(1, 2)))
        ['boxes', 'labels', 'masks', 'scores']
    """

    def __init__(
        self,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        mask_threshold: float = 0.5,
        objects: int = 100,
    ) -> None:
        given = (score_threshold, overlap_threshold, mask_threshold)
        if not all(0 <= value <= 1 for value in given) or objects < 1:
            raise UserError(
                f"SegmentRules: expected thresholds in 0..1 and at least one object, got {given} and {objects}."
            )
        self.score_threshold, self.overlap_threshold = score_threshold, overlap_threshold
        self.mask_threshold, self.objects = mask_threshold, objects

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value:g}" for name, value in vars(self).items())
        return f"{type(self).__name__}({given})"

    def segments(self, queries: Queries, things: Collection[int]) -> View:
        """Give each pixel of an image to one segment, or to none; see `found`."""
        return self.found(queries, things).view

    def found(self, queries: Queries, things: Collection[int]) -> Segmented:
        """Give each pixel of an image to one segment, or to none.

        Args:
            queries: Those of one image, masks (1, Q, H, W) at its size.
            things: Classes whose segments are objects; all segments of another class are one.
        """
        scores, labels = queries.classes[0].softmax(-1).max(-1)
        kept = (labels != queries.classes.shape[-1] - 1) & (scores > self.score_threshold)
        size = queries.masks.shape[-2:]
        parts = np.zeros(size, np.int32)
        classes = np.full(size, IGNORE_INDEX, np.uint8)
        listed: list[tuple[int, float]] = []
        if not bool(kept.any()):
            return Segmented(View(parts, classes), np.zeros(0, np.int64), np.zeros(0, np.float32))
        chances = queries.masks[0, kept].sigmoid()
        owner = (chances * scores[kept, None, None]).argmax(0)
        inside = chances >= self.mask_threshold
        own = owner[None] == torch.arange(len(chances), device=owner.device)[:, None, None]
        left = own & inside
        # As published: what a query keeps of its mask is what it is the most confident of, in the mask or not.
        areas = torch.stack([x.flatten(1).sum(1) for x in (own, inside, left)], 1).tolist()
        masks = left.cpu().numpy()
        of_stuff = dict[int, int]()
        confident = zip(labels[kept].tolist(), scores[kept].tolist(), strict=True)
        for mask, (label, score), (owned, full, remaining) in zip(masks, confident, areas, strict=True):
            if not (owned and full and remaining) or owned / full < self.overlap_threshold:
                continue
            part = of_stuff.get(label, 0)
            if part:
                listed[part - 1] = label, max(score, listed[part - 1][1])
            else:
                listed.append((label, score))
                part = len(listed)
                if label not in things:
                    of_stuff[label] = part
            parts[mask], classes[mask] = part, label
        kinds = np.array([label for label, _ in listed], np.int64)
        return Segmented(View(parts, classes), kinds, np.array([score for _, score in listed], np.float32))

    def instances(self, queries: Queries, things: Collection[int]) -> dict[str, np.ndarray]:
        """Return the most confident objects of an image, which may overlap.

        Args:
            queries: Those of one image, masks (1, Q, H, W) at its size.
            things: Classes of objects.

        Returns:
            "boxes" (N, 4), "labels" (N,), the classes, "scores" (N,) and "masks" (N, H, W).
        """
        chances = queries.classes[0].softmax(-1)[:, :-1]
        count = chances.shape[1]
        scores, order = chances.flatten().topk(min(self.objects, chances.numel()))
        labels, query = order % count, order // count
        kept = torch.isin(labels, torch.tensor(sorted(things), device=labels.device, dtype=labels.dtype))
        scores, labels, query = scores[kept], labels[kept], query[kept]
        once, place = query.unique(return_inverse=True)  # a query may be found as several classes
        masks = queries.masks[0, once]
        inside = masks > 0
        confidence = (masks.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
        boxes = boxes_from_masks(inside) if len(inside) else masks.new_zeros(0, 4)
        found: dict[str, Tensor] = {
            "boxes": boxes[place],
            "labels": labels,
            "scores": scores * confidence[place],
            "masks": inside[place],
        }
        return {key: value.cpu().numpy() for key, value in found.items()}
