"""High-dimensional Gaussian filtering for the dense CRF.

`Lattice` filters N values with a Gaussian over their D features in time that grows with N alone:

Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010.

Space is divided into simplices. Each value is splatted to the D + 1 corners of its simplex by barycentric weights, the
corners are blurred along D + 1 directions, and each value is sliced from its corners. All three are weighted sums of
rows, which torch computes on any device.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class GaussianFilter(Protocol):
    """Computes for every point i the sum over all points j of ``exp(-|f_i - f_j|^2 / 2)`` times the value of j."""

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values (N, C) float32."""

    def scale(self, factors: Tensor) -> None:
        """Multiply the kernel of points i and j by ``factors[i] * factors[j]``, (N,), in later calls."""


class Exact:
    """The filter by its definition, in time quadratic in the number of points.

    Args:
        features: (N, D) float32, in units of the Gaussian's standard deviation.
        chunk: Number of points whose kernel is in memory at once.
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
        """Multiply the kernel of points i and j by ``factors[i] * factors[j]``, (N,), in later calls."""
        self.factors = self.factors * factors[:, None]


class Lattice:
    """The filter on the permutohedral lattice, up to a constant factor that normalization cancels.

    Args:
        features: (N, D) float32, in units of the Gaussian's standard deviation.
    """

    def __init__(self, features: Tensor) -> None:
        keys, steps, weights = _simplices(features)
        corners, index = torch.unique(keys, return_inverse=True)
        self.corners = len(corners)
        self.index, self.weights = index.T.contiguous(), weights.T.contiguous()  # (N, D + 1)
        order = self.index.flatten().argsort(stable=True)  # the same spread, sorted by corner
        self.points = order // self.index.shape[1]
        self.point_weights = self.weights.flatten()[order]
        counts = torch.bincount(self.index.flatten(), minlength=self.corners)
        self.offsets = F.pad(counts.cumsum(0), (1, 0))
        self.neighbours = [self._neighbours(corners, step) for step in steps]

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
        spread = F.pad(spread, (0, 0, 0, 1))  # row M is the empty neighbor
        for pairs in self.neighbours:
            spread[:-1] += 0.5 * F.embedding_bag(pairs, spread, mode="sum")
        return F.embedding_bag(self.index, spread, mode="sum", per_sample_weights=self.weights)

    def scale(self, factors: Tensor) -> None:
        """Multiply the kernel of points i and j by ``factors[i] * factors[j]``, (N,), in later calls."""
        self.weights = self.weights * factors[:, None]
        self.point_weights = self.point_weights * factors[self.points]


def _simplices(features: Tensor) -> tuple[Tensor, list[int], Tensor]:
    """Find the simplex around each point.

    Returns:
        Its corners (D + 1, N), each as one integer; what the integers of neighbors along each of the D + 1 axes
        differ by; and the weights of the corners (D + 1, N).
    """
    d, device = features.shape[1], features.device
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
    # A corner as one integer: its first D coordinates are the digits, with room for the neighbors of all corners.
    lowest = nearest[:d].amin(1) - 2 * (d + 1)
    place = [1]
    for size in (nearest[:d].amax(1) + 2 * (d + 1) - lowest).tolist():
        place.append(place[-1] * (int(size) + 1))
    place[d] = 0  # the last coordinate follows from the others
    worth = torch.tensor(place, device=device)[:, None]
    first = ((nearest[:d] - lowest[:, None]).long() * worth[:d]).sum(0)
    # From one corner to the next all coordinates grow by 1, but that of the next lower rank falls by D.
    falling = torch.empty_like(rank).scatter_(0, d - rank, worth.expand_as(rank).contiguous())[:d]
    keys = torch.cat([first[None], first + (sum(place) - (d + 1) * falling).cumsum(0)])
    return keys, [sum(place) - (d + 1) * value for value in place], weights[: d + 1]
