"""Inference strategies: whole image, sliding window, multi-scale.

An experiment names one by class path; `lightning-seg test RUN --model.inference=...` sets it for one test:

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
"""Windows start at multiples of this, the largest stride of a network: feature maps are aligned with the image's."""


class Inferer(ABC):
    """Base of the inference strategies. Its `repr` is recorded in the protocol of every test.

    Examples:
        >>> [repr(SlidingWindow()), isinstance(MultiScale(), Inferer)]
        ['SlidingWindow(size=(512, 512), overlap=0.5, margin=0)', True]
    """

    @abstractmethod
    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """Return the logits (B, C, H, W) of images (B, 3, H, W) in 0..255.

        Args:
            predict: The network in evaluation mode, or another strategy around it.
            images: The images, uint8 or float.
        """


@dataclass(frozen=True)
class SlidingWindow(Inferer):
    """Logits of overlapping windows, weighted by a Gaussian around the center of each (as in nnU-Net).

    An image that fits into the window is processed whole. The network needs the memory of one window.

    Args:
        size: Height and width of a window in pixels.
        overlap: Fraction of a window that it shares with the next.
        margin: Pixels along the edges of a window that have almost no weight where another window covers them. With
            the radius of the network's receptive field the result equals that of the whole image.

    Raises:
        UserError: An argument is out of its range.

    Examples:
        >>> network = UNet(2, "test_resnet", weights=False).eval()
        >>> SlidingWindow(size=(64, 64), overlap=0.5)(network, torch.zeros(1, 3, 100, 150)).shape
        torch.Size([1, 2, 100, 150])
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
        """Return the blended logits (B, C, H, W)."""
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
        """Yield the logits of an image in pieces: in strips from left to right, each from top to bottom.

        Memory holds one strip of the height of a window. Windows that overlap two strips are computed for both, so
        that the result does not depend on the width of the strips.

        Args:
            predict: The network in evaluation mode, or another strategy around it.
            read: Returns the part (B, 3, h, w) of the image between top, left, bottom and right.
            image: Height and width of the image in pixels.
            columns: Width of a strip in pixels.

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
        """Return the first pixel of each window along an axis; the last window may extend beyond the image.

        Args:
            length: Of the image, in pixels.
            window: Length of a window, in pixels.
        """
        last = -(-max(length - window, 0) // GRID) * GRID
        return [*range(0, last, self._step(window)), last]

    def _profile(self, start: int, window: int, image: int) -> Tensor:
        """Return the weights of the rows (or columns) of a window; the margin is not that of the image's border."""
        axis = torch.exp(-0.5 * ((torch.arange(window) - (window - 1) / 2) / (window / 8)) ** 2)
        if start > 0:
            axis[: self.margin] *= 1e-8
        if start + window < image:
            axis[window - self.margin :] *= 1e-8
        return axis[: image - start]


@dataclass(frozen=True)
class UniformWindow(Inferer):
    """Mean logits of equally weighted windows at a stride, as papers on vision transformers evaluate (mmsegmentation).

    The last window of a row or column is moved back into the image. An image smaller than a window is one window.

    Args:
        size: Height and width of a window in pixels.
        stride: Pixels from one window to the next, down and across; 341 for windows of 512 in DINOv2 and DINOv3.
        shorter_side: Images are first resized so that their shorter side has this many pixels, and the logits back to
            the image; None leaves the size alone. With the window's own size and stride, as benchmark-vfm-ss has it.

    Raises:
        UserError: An argument is out of its range.

    Examples:
        >>> network = UNet(2, "test_resnet", weights=False).eval()
        >>> UniformWindow(size=(64, 64), stride=(42, 42))(network, torch.zeros(1, 3, 100, 150)).shape
        torch.Size([1, 2, 100, 150])
    """

    size: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    shorter_side: int | None = None

    def __post_init__(self) -> None:
        pairs = zip(self.size, self.stride, strict=True)
        if not (len(self.size) == 2 and all(0 < step <= side for side, step in pairs)):
            raise UserError(
                "UniformWindow: size and stride must be [height, width], a stride at least 1 and no larger than the "
                f"window, which would leave pixels out; got {self.size} and {self.stride}."
            )
        if self.shorter_side is not None and self.shorter_side < 1:
            raise UserError(
                f"UniformWindow: shorter_side must be pixels, 1 or more; got {self.shorter_side}."
            )

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """Return the mean logits (B, C, H, W)."""
        size = images.shape[-2:]
        if self.shorter_side is not None:
            factor = self.shorter_side / min(size)
            images = _resize(images, (round(size[0] * factor), round(size[1] * factor)))
        height, width = images.shape[-2:]
        total, count = torch.zeros(()), torch.zeros((height, width), device=images.device)
        for top in self._starts(height, 0):
            for left in self._starts(width, 1):
                place = slice(top, top + self.size[0]), slice(left, left + self.size[1])
                logits = predict(images[..., *place]).float()
                if not total.ndim:
                    total = logits.new_zeros((*logits.shape[:2], height, width))
                total[..., *place] += logits
                count[place] += 1
        return _resize(total / count, size)

    def _starts(self, length: int, axis: int) -> list[int]:
        last, step = max(0, length - self.size[axis]), self.stride[axis]
        return [*range(0, last, step), last]


@dataclass(frozen=True)
class MultiScale(Inferer):
    """Multi-scale test-time augmentation: mean probability over rescaled and mirrored copies of the image.

    Args:
        scales: Factors that the image is resized by.
        flip: Whether to add a horizontally mirrored copy of each.
        inference: Strategy for each copy; whole image by default.

    Raises:
        UserError: An argument is out of its range.

    Examples:
        >>> network = UNet(2, "test_resnet", weights=False).eval()
        >>> MultiScale(scales=(0.5, 1), flip=True)(network, torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    flip: bool = True
    inference: Inferer | None = None

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"MultiScale: scales must be factors above 0; got {list(self.scales)}.")

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """Return the logarithm of the mean probability (B, C, H, W)."""
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
    """Return the entropy of the class probabilities of each pixel, divided by its maximum log C: (B, H, W) in 0..1.

    Args:
        logits: (B, C, H, W).
    """
    logs = logits.float().log_softmax(1)
    return (logs.exp() * logs).sum(1).neg() / np.log(max(logits.shape[1], 2))


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly in float32, as augmentation resizes images."""
    if x.shape[-2:] == size:
        return x.float()
    return F.interpolate(x.float(), size, mode="bilinear", align_corners=False)
