"""How logits are had from a network: of the whole image, of windows, as the mean over scales and mirror images.

An experiment names it by class path, `lightning-seg test RUN --model.inference=...` that of one test:

    model:
      inference:
        class_path: lightning_seg.inference.SlidingWindow
        init_args: {size: [512, 512], overlap: 0.5}
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.ensemble import mean_logits

Predict = Callable[[Tensor], Tensor]
"""Maps images (B, 3, H, W) in 0..255 to logits (B, C, H, W)."""

GRID = 32
"""Windows start at multiples of this, the largest stride of a network, so that its cells are the whole image's."""


class Inferer(ABC):
    """How the logits of an image are had from a network. Its `repr` is recorded with every test score."""

    @abstractmethod
    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """Return the logits (B, C, H, W) of images (B, 3, H, W) in 0..255.

        Args:
            predict: The network in evaluation mode, or another inference around it.
            images: The images, uint8 or float.
        """


@dataclass(frozen=True)
class SlidingWindow(Inferer):
    """Logits of overlapping windows, weighted by a Gaussian around the centre of each (as in nnU-Net).

    An image that fits into the window is taken whole. The memory that the network needs is that of one window.

    Args:
        size: Height and width of a window in pixels.
        overlap: Fraction of a window that it shares with the next.
        margin: Pixels along the edges of a window that count only where no other window sees them further from
            its edge. With the radius of the network's receptive field the result is that for the whole image.

    Raises:
        UserError: An argument makes no sense.
    """

    size: tuple[int, int] = (512, 512)
    overlap: float = 0.5
    margin: int = 0

    def __post_init__(self) -> None:
        if not (len(self.size) == 2 and min(self.size) >= GRID):
            raise UserError(f"SlidingWindow: size must be [height, width], {GRID} or more; got {self.size}.")
        if not 0 <= self.overlap < 1:
            raise UserError(f"SlidingWindow: overlap must be at least 0 and below 1; got {self.overlap}.")
        shared = min(length - self._step(length) for length in self.size)
        if not 0 <= 2 * self.margin <= shared:
            raise UserError(
                f"SlidingWindow: windows share {shared} pixels, which leaves a margin of at most {shared // 2} "
                f"to each; got {self.margin}. Choose a larger overlap or a smaller margin."
            )

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """Return the blended logits."""
        height, width = images.shape[-2:]

        def read(top: int, left: int, bottom: int, right: int) -> Tensor:
            return images[..., top:bottom, left:right]

        return torch.cat([rows for _, _, rows in self.sweep(predict, read, (height, width), width)], dim=-2)

    def sweep(
        self,
        predict: Predict,
        read: Callable[[int, int, int, int], Tensor],
        image: tuple[int, int],
        columns: int,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the logits of an image piece by piece: in strips from left to right, each from top to bottom.

        What is held is one strip of the height of a window. Windows that reach into two strips are computed for
        both, so that the result does not depend on the width of the strips.

        Args:
            predict: The network in evaluation mode, or another inference around it.
            read: Returns the part (B, 3, h, w) of the image between top, left, bottom and right.
            image: Height and width of the image in pixels.
            columns: Width of a strip.

        Yields:
            Top and left of a piece, and its logits (B, C, h, w), float32.
        """
        (height, width), (high, wide) = image, self.size
        tops, lefts = (self.starts(*lengths) for lengths in zip(image, self.size, strict=True))
        for left in range(0, width, columns):
            right = min(left + columns, width)
            inside = [x for x in lefts if left - wide < x < right]
            total = weight = torch.zeros(())
            for top, below in zip(tops, [*tops[1:], height], strict=True):
                bottom = min(top + high, height)
                for x in inside:
                    end = min(x + wide, width)
                    logits = predict(read(top, x, bottom, end)).float()
                    if not total.ndim:
                        total = logits.new_zeros((*logits.shape[:2], high, right - left))
                        weight = logits.new_zeros((high, right - left))
                    start, stop = max(x, left), min(end, right)
                    across = self._profile(x, wide, width)[start - x : stop - x]
                    part = (self._profile(top, high, height)[:, None] * across).to(logits.device)
                    place = slice(0, bottom - top), slice(start - left, stop - left)
                    total[..., *place] += logits[..., start - x : stop - x] * part
                    weight[place] += part
                done = below - top
                yield top, left, total[..., :done, :] / weight[:done]
                total, weight = (F.pad(x[..., done:, :], (0, 0, 0, done)) for x in (total, weight))

    def _step(self, length: int) -> int:
        return max(int(length * (1 - self.overlap)) // GRID, 1) * GRID

    def starts(self, length: int, window: int) -> list[int]:
        """Place windows; the last may reach beyond the image, where it is cut off as the network's padding is."""
        last = -(-max(length - window, 0) // GRID) * GRID
        return [*range(0, last, self._step(window)), last]

    def _profile(self, start: int, window: int, image: int) -> Tensor:
        """Return the weights of the rows (or columns) of a window; the border of the image is no edge of it."""
        axis = torch.exp(-0.5 * ((torch.arange(window) - (window - 1) / 2) / (window / 8)) ** 2)
        if start > 0:
            axis[: self.margin] *= 1e-8
        if start + window < image:
            axis[window - self.margin :] *= 1e-8
        return axis[: image - start]


@dataclass(frozen=True)
class MultiScale(Inferer):
    """Test-time augmentation: the mean probability over magnified and mirrored copies of the image.

    Args:
        scales: Magnifications.
        flip: Whether each copy is also mirrored left to right.
        inference: How the logits of each copy are had; as a whole unless given.

    Raises:
        UserError: An argument makes no sense.
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    flip: bool = True
    inference: Inferer | None = None

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"MultiScale: scales must be magnifications above 0; got {list(self.scales)}.")

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """Return the logarithm of the mean probability."""
        inner = predict if self.inference is None else partial(self.inference, predict)
        size = images.shape[-2:]

        def probabilities() -> Iterator[Tensor]:
            for scale in self.scales:
                copy = _resize(images, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
                yield _resize(inner(copy), size).softmax(1)
                if self.flip:
                    yield _resize(inner(copy.flip(-1)).flip(-1), size).softmax(1)

        return mean_logits(probabilities())


def entropy(logits: Tensor) -> Tensor:
    """Return how unsure each pixel is, (B, H, W) in 0..1: 0 one class alone, 1 all classes alike.

    Args:
        logits: (B, C, H, W).
    """
    logs = logits.float().log_softmax(1)
    return (logs.exp() * logs).sum(1).neg() / np.log(max(logits.shape[1], 2))


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize maps (B, C, h, w) as augmentation resizes images, in float32."""
    if x.shape[-2:] == size:
        return x.float()
    return F.interpolate(x.float(), size, mode="bilinear", align_corners=False)
