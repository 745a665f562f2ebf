"""Anchor boxes of the region proposal network."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(AnchorGenerator):
    """One size of anchors for each level of a feature pyramid, in several shapes.

    Args:
        levels: Square root of the area of the anchors of each level, finest first, in pixels.
        shapes: Height over width.

    Examples:
        >>> Anchors(levels=(16, 32, 64, 128, 256), shapes=(0.5, 1, 2)).num_anchors_per_location()
        [3, 3, 3, 3, 3]
    """

    cells: Tensor
    in_checkpoint = False  # they belong to the network's arguments

    def __init__(
        self,
        levels: Sequence[float] = (32, 64, 128, 256, 512),
        shapes: Sequence[float] = (0.5, 1.0, 2.0),
    ) -> None:
        super().__init__(tuple((size,) for size in levels), (tuple(shapes),) * len(levels))
        self.levels, self.shapes = tuple(levels), tuple(shapes)
        self.register_buffer("cells", torch.stack(self.cell_anchors), persistent=self.in_checkpoint)

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Use the anchors that may have come with a checkpoint."""
        self.cell_anchors = list(self.cells.to(device, dtype))

    def join_levels(self) -> None:
        """Put the anchors of all sizes on one level, for a network without a pyramid."""
        self.sizes, self.aspect_ratios = (self.levels,), (self.shapes,)
        self.cells = self.cells.flatten(0, 1)[None]


class DataAnchors(Anchors):
    """Anchors that take sizes and shapes from the boxes of the training split, when a training begins.

    A box belongs to the level whose usual size is nearest to its own; the anchors of a level get the median size
    of its boxes, and a level without boxes keeps its size. The shapes are three quantiles (1/6, 1/2, 5/6) of
    those of all boxes, so that each stands for a third of them. All of it is part of the checkpoint.

    Examples:
        >>> sizes, shapes = DataAnchors().fit(torch.tensor([[0.0, 0.0, 20.0, 40.0], [5.0, 5.0, 95.0, 105.0]]))
        >>> [round(size) for size in sizes], [round(shape, 2) for shape in shapes]
        ([28, 64, 95, 256, 512], [1.23, 1.49, 1.81])
    """

    in_checkpoint = True

    def __init__(self) -> None:
        super().__init__()

    def fit(self, boxes: Tensor) -> tuple[list[float], list[float]]:
        """Adapt to boxes (N, 4) as x1, y1, x2, y2, in pixels; without any, nothing changes.

        Returns:
            The size of each level's anchors in pixels, and their shapes, height over width.
        """
        levels, shapes = (torch.tensor(own, dtype=torch.float64) for own in (self.levels, self.shapes))
        if len(boxes):
            width, height = (boxes[:, 2:] - boxes[:, :2]).double().T
            size = (width * height).sqrt()
            level = (size.log()[:, None] - levels.log()).abs().argmin(1)
            for i in level.unique().tolist():
                levels[i] = size[level == i].median()
            parts = torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=torch.float64)
            shapes = (height / width).log().quantile(parts).exp()
        cells = [self.generate_anchors([size], shapes.tolist()) for size in levels.tolist()]
        self.cells.copy_(torch.stack(cells).view_as(self.cells))
        return levels.tolist(), shapes.tolist()
