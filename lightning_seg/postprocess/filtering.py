"""High-dimensional Gaussian filtering, the inner loop of a dense CRF.

`Lattice` filters N values with a Gaussian over their D features in time that grows with N alone:

Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010.

Space is divided into simplices. Each value is spread over the D + 1 corners of its simplex by barycentric weights,
the corners are blurred along D + 1 directions, and each value is read back from its corners. Here all of it is
sums of rows with weights, which torch does on any device.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class GaussianFilter(Protocol):
    """Computes for all points i the sum over points j of ``exp(-|f_i - f_j|^2 / 2)`` times the value of j."""

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values (N, C) float32."""

    def scale(self, factors: Tensor) -> None:
        """Multiply the kernel of points i and j by ``factors[i] * factors[j]``, (N,), from now on."""


class Exact:
    """The filter by definition: time grows with the square of the number of points.

    Args:
        features: (N, D) float32, in units of the Gaussian's standard deviation.
        chunk: Points whose kernel is in memory at a time.
    """

    def __init__(self, features: Tensor, chunk: int = 1024) -> None:
        self.features = features
        self.chunk = chunk
        self.factors = torch.ones(len(features), 1, device=features.device)

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values (N, C) float32."""
        values = self.factors * values
        parts = (torch.cdist(part, self.features) for part in self.features.split(self.chunk))
        return self.factors * torch.cat([torch.exp(-0.5 * distance**2) @ values for distance in parts])

    def scale(self, factors: Tensor) -> None:
        """Multiply the kernel of points i and j by ``factors[i] * factors[j]``, (N,), from now on."""
        self.factors = self.factors * factors[:, None]


class Lattice:
    """The filter on the permutohedral lattice, up to a constant factor that normalisation takes out.

    Args:
        features: (N, D) float32, in units of the Gaussian's standard deviation.
    """

    def __init__(self, features: Tensor) -> None:
        points, dimensions = features.shape
        keys, weights = _enclosing_simplices(features)
        # A corner is one integer, its coordinates the digits: neighbours then differ by a constant.
        keys -= keys.amin((0, 1)) - (dimensions + 1)
        sizes = keys.amax((0, 1)).tolist()
        radix = [1]
        for size in sizes[:-1]:
            radix.append(radix[-1] * (int(size) + dimensions + 2))
        place = torch.tensor(radix, device=features.device)
        corners, index = torch.unique((keys * place).sum(-1), return_inverse=True)  # (N, D + 1)
        self.corners = len(corners)
        self.index, self.weights = index, weights
        order = index.flatten().argsort(stable=True)  # the same spread, sorted by corner
        self.points = order // (dimensions + 1)
        self.point_weights = weights.flatten()[order]
        counts = torch.bincount(index.flatten(), minlength=self.corners)
        self.offsets = F.pad(counts.cumsum(0), (1, 0))
        self.neighbours = [
            self._neighbours(
                corners, int(place.sum()) - (dimensions + 1) * (radix[axis] if axis < dimensions else 0)
            )
            for axis in range(dimensions + 1)
        ]

    def _neighbours(self, corners: Tensor, step: int) -> Tensor:
        """Find the corners one step before and after each along an axis, (M, 2); M where there is none."""
        after = torch.searchsorted(corners, corners + step).clamp_(max=self.corners - 1)
        found = (corners[after] == corners + step).nonzero().squeeze(1)
        pairs = torch.full((self.corners, 2), self.corners, device=corners.device)
        pairs[found, 1] = after[found]
        pairs[after[found], 0] = found
        return pairs

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values (N, C) float32."""
        spread = F.embedding_bag(
            self.points,
            values,
            self.offsets,
            mode="sum",
            per_sample_weights=self.point_weights,
            include_last_offset=True,
        )
        spread = F.pad(spread, (0, 0, 0, 1))  # row M is the empty neighbour
        for pairs in self.neighbours:
            spread[:-1] += 0.5 * F.embedding_bag(pairs, spread, mode="sum")
        return F.embedding_bag(self.index, spread, mode="sum", per_sample_weights=self.weights)

    def scale(self, factors: Tensor) -> None:
        """Multiply the kernel of points i and j by ``factors[i] * factors[j]``, (N,), from now on."""
        self.weights = self.weights * factors[:, None]
        self.point_weights = self.point_weights * factors[self.points]


def _enclosing_simplices(features: Tensor) -> tuple[Tensor, Tensor]:
    """Find the simplex around each point: its corners (N, D + 1, D) int64 and their weights (N, D + 1)."""
    d = features.shape[1]
    device = features.device
    # Lift to the plane of sum 0 in D + 1 dimensions, scaled so that blurring has the variance of the features.
    scale = [math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]
    scaled = features.T * torch.tensor(scale, device=device)[:, None]
    lifted = F.pad(scaled.flip(0).cumsum(0).flip(0), (0, 0, 0, 1))  # (D + 1, N)
    lifted[1:] -= torch.arange(1, d + 1, device=device)[:, None] * scaled
    # The nearest point whose coordinates are all multiples of D + 1 ...
    nearest = (lifted / (d + 1)).round_().mul_(d + 1)
    rest = lifted - nearest
    rank = torch.zeros(lifted.shape, dtype=torch.int64, device=device)  # by descending rest
    for i in range(d):
        lower = rest[i] < rest[i + 1 :]
        rank[i] += lower.sum(0)
        rank[i + 1 :] += ~lower
    # ... brought back to the plane by moving the coordinates that were rounded furthest.
    rank += (nearest.sum(0) / (d + 1)).round_().long()
    wrapped = (rank < 0).long() - (rank > d).long()
    rank += wrapped * (d + 1)
    nearest += wrapped * (d + 1)
    rest = (lifted - nearest) / (d + 1)
    weights = torch.zeros(d + 2, len(features), device=device)
    weights.scatter_add_(0, d - rank, rest)
    weights.scatter_add_(0, d + 1 - rank, -rest)
    weights[0] += 1 + weights[d + 1]
    color = torch.arange(d + 1, device=device)
    moves = color[:, None] - (d + 1) * (color > d - color[:, None])  # (D + 1, D + 1) by corner and rank
    keys = nearest[:d].T.long()[:, None] + moves[:, rank[:d].T].transpose(0, 1)
    return keys, weights[: d + 1].T.contiguous()
