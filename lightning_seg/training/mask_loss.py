"""The loss of mask classification: each true segment is matched with a query, whose mask and class learn from it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.mask_network import Queries


class Targets(NamedTuple):
    """The true segments of an image.

    Attributes:
        masks: (N, H, W) float, 0 and 1.
        classes: (N,) int64.
    """

    masks: Tensor
    classes: Tensor


class LayerLoss(NamedTuple):
    """The weighted parts of the loss of one layer."""

    classes: Tensor
    masks: Tensor
    dice: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.classes + self.masks + self.dice


class MaskLoss(nn.Module):
    """Cross-entropy of the queries' classes, binary cross-entropy and Dice loss of their masks at sampled points.

    Cheng et al., "Mask2Former", arXiv:2112.01527. The costs of all layers and images are computed on the device and
    fetched at once, so that a training step waits for the device a single time, whatever the number of layers.

    Args:
        class_weight: Weight of the classes.
        mask_weight: Weight of the cross-entropy of masks.
        dice_weight: Weight of their Dice loss.
        no_object_weight: Weight of queries without a segment in the cross-entropy of classes.
        points: Points of a mask that are looked at, 112² in the papers.
        oversample_ratio: How many times as many are drawn to choose the uncertain ones from.
        importance_ratio: Share of points that are uncertain ones; the others are drawn evenly.

    Raises:
        UserError: A number makes no sense.

    Examples:
        >>> loss = MaskLoss(points=1024)
        >>> loss.class_weight, loss.mask_weight, loss.dice_weight
        (2.0, 5.0, 5.0)
    """

    def __init__(
        self,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        if points < 1 or oversample_ratio < 1 or not 0 <= importance_ratio <= 1:
            raise UserError(
                "MaskLoss: expected points and oversample_ratio from 1 on and importance_ratio in 0..1, got "
                f"{points}, {oversample_ratio} and {importance_ratio}."
            )
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.no_object_weight = no_object_weight
        self.points = points
        self.oversample_ratio, self.importance_ratio = oversample_ratio, importance_ratio

    def forward(self, layers: Sequence[Queries], targets: Sequence[Targets]) -> list[LayerLoss]:
        """Return the loss of each layer.

        Args:
            layers: The queries of each supervised layer.
            targets: The true segments of each image; none is fine.
        """
        layers = [Queries(layer.masks.float(), layer.classes.float()) for layer in layers]
        matches = self.match(layers, targets)
        count = layers[0].masks.new_tensor(float(sum(len(target.classes) for target in targets)))
        if self.training:  # in evaluation processes have unevenly many images, and would wait for one another
            count = _mean_over_processes(count)
        count = count.clamp(min=1)
        return [
            self._layer(layer, targets, found, count) for layer, found in zip(layers, matches, strict=True)
        ]

    @torch.no_grad()
    def match(
        self, layers: Sequence[Queries], targets: Sequence[Targets]
    ) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Match queries with true segments so that the sum of the costs is least.

        Returns:
            For each layer and image the numbers of queries and those of their segments.
        """
        costs = [self._costs(layers, image, target) for image, target in enumerate(targets)]
        shapes = [cost.shape for cost in costs]
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()  # the one wait for the device
        parts = flat.split([int(np.prod(shape)) for shape in shapes])
        fetched = [part.view(shape).numpy() for part, shape in zip(parts, shapes, strict=True)]
        return [[linear_sum_assignment(cost[i]) for cost in fetched] for i in range(len(layers))]

    def _costs(self, layers: Sequence[Queries], image: int, target: Targets) -> Tensor:
        """Return the cost of each pair (layers, Q, N) of an image, at points that all masks share."""
        points = self._rand(1, self.points, 2, like=target.masks)
        true = _at(target.masks[None], points)[0]  # (N, P)
        # (layers, Q, P): all layers at once are fewer, larger steps for the device.
        logits = torch.cat([_at(layer.masks[image : image + 1], points) for layer in layers])
        # Cross-entropy of a pixel is softplus(x) - x t.
        cross = (F.softplus(logits).sum(2, keepdim=True) - logits @ true.T) / self.points
        chances = logits.sigmoid()
        dice = 1 - (2 * chances @ true.T + 1) / (chances.sum(2, keepdim=True) + true.sum(1) + 1)
        classes = torch.stack([layer.classes[image] for layer in layers]).softmax(-1)
        cost = self.mask_weight * cross - self.class_weight * classes[..., target.classes]
        return torch.nan_to_num(cost + self.dice_weight * dice, nan=1e30, posinf=1e30, neginf=1e30)

    def _layer(
        self,
        layer: Queries,
        targets: Sequence[Targets],
        matches: Sequence[tuple[np.ndarray, np.ndarray]],
        count: Tensor,
    ) -> LayerLoss:
        device = layer.masks.device
        images = np.repeat(np.arange(len(matches)), [len(query) for query, _ in matches])
        queries = np.concatenate([query for query, _ in matches])
        place, query = (torch.from_numpy(x).to(device, non_blocking=True) for x in (images, queries))
        order = [torch.from_numpy(segment).to(device, non_blocking=True) for _, segment in matches]
        no_object = layer.classes.shape[-1] - 1
        labels = torch.full(layer.classes.shape[:2], no_object, device=device)
        labels[place, query] = torch.cat([t.classes[o] for t, o in zip(targets, order, strict=True)])
        weight = layer.classes.new_ones(no_object + 1)
        weight[-1] = self.no_object_weight
        classes = F.cross_entropy(layer.classes.transpose(1, 2), labels, weight)
        if not len(images):
            nothing = layer.masks.sum() * 0
            return LayerLoss(self.class_weight * classes, nothing, nothing)
        masks = layer.masks[place, query][:, None]
        true = torch.cat([t.masks[o] for t, o in zip(targets, order, strict=True)])[:, None]
        with torch.no_grad():
            points = self._uncertain(masks)
            at = _at(true, points)[:, 0]
        logits = _at(masks, points)[:, 0]
        cross = F.binary_cross_entropy_with_logits(logits, at, reduction="none").mean(1).sum() / count
        chances = logits.sigmoid()
        overlap = (2 * (chances * at).sum(1) + 1) / (chances.sum(1) + at.sum(1) + 1)
        dice = (1 - overlap).sum() / count
        return LayerLoss(self.class_weight * classes, self.mask_weight * cross, self.dice_weight * dice)

    def _uncertain(self, masks: Tensor) -> Tensor:
        """Draw points (N, P, 2) of masks (N, 1, h, w), most of them where the logit is near 0 (PointRend)."""
        drawn = self._rand(len(masks), int(self.points * self.oversample_ratio), 2, like=masks)
        wanted = int(self.importance_ratio * self.points)
        nearest = _at(masks, drawn)[:, 0].abs().topk(wanted, 1, largest=False, sorted=False)[1]
        chosen = drawn.gather(1, nearest[..., None].expand(-1, -1, 2))
        if wanted == self.points:
            return chosen
        return torch.cat([chosen, self._rand(len(masks), self.points - wanted, 2, like=masks)], 1)

    def _rand(self, *shape: int, like: Tensor) -> Tensor:
        """Draw evenly from 0..1; in evaluation always the same, which leaves the training's random numbers alone."""
        if self.training:
            return torch.rand(*shape, device=like.device)
        return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(like.device)


def targets_of(numbers: Tensor, classes: Tensor, segments: Sequence[Sequence[int]]) -> list[Targets]:
    """Make the targets of images from their segments.

    Args:
        numbers: Number of the segment at each pixel (B, H, W) uint8; `IGNORE_INDEX` for none.
        classes: Class of each number (B, 256).
        segments: Numbers of the segments of each image that are targets; known beforehand, so that nothing waits for
            the device here.
    """
    counts = [len(listed) for listed in segments]
    places = np.repeat(np.arange(len(counts)), counts), np.concatenate([np.array(s, int) for s in segments])
    image, segment = (torch.from_numpy(place).to(numbers.device, non_blocking=True) for place in places)
    masks = (numbers[image] == segment[:, None, None]).float()
    labels = classes[image, segment].long()
    return [Targets(*one) for one in zip(masks.split(counts), labels.split(counts), strict=True)]


def _at(masks: Tensor, points: Tensor) -> Tensor:
    """Look masks (N, C, h, w) up at points (N, P, 2), x and y in 0..1: (N, C, P)."""
    if not masks.shape[1]:
        return masks.new_zeros(len(masks), 0, points.shape[1])
    return F.grid_sample(masks, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def _mean_over_processes(number: Tensor) -> Tensor:
    """Return the mean of a number over all processes."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(number)
        number = number / distributed.get_world_size()
    return number
