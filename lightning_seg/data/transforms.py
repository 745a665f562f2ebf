"""Augmentation: geometry on the CPU as torchvision v2 transforms, colour as one matrix for the device.

Images stay ``uint8`` with the memory layout (H, W, 3) from the decoder to the batch: nothing is transposed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_seg.errors import UserError
from lightning_seg.labels import IGNORE_INDEX

FILL = (124, 116, 104)  # the mean colour of ImageNet: after normalisation, padding is close to zero


class RandomScaleCrop(v2.Transform):
    """Cut a window of random size and position and resize it to `size`.

    The same as resizing the image by a random scale and cropping it, but only the pixels that are kept are
    resized. Where the window reaches over the image, the image is filled with a constant and the mask with
    `IGNORE_INDEX`.

    Args:
        size: Height and width of the result, in pixels.
        scale: Smallest and largest magnification; drawn uniformly. (1, 1) only crops.
        fill: Colour of padding, RGB in 0..255.
        class_crops: Probability that the window is placed around a pixel of a class drawn evenly from those in
            the mask.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        fill: tuple[int, int, int] = FILL,
        class_crops: float = 0.0,
    ) -> None:
        super().__init__()
        self.class_crops = class_crops
        self.size = size
        self.scale = scale
        self.fill = fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window (in pixels of the input) and say where in the result its part of the image goes."""
        low, high = self.scale
        along, *starts = torch.rand(3).tolist()
        scale = low + along * (high - low)
        around = self._pixel_of_a_class(flat_inputs)
        spans = [
            _span(total, size, scale, start, pixel)
            for total, size, start, pixel in zip(
                v2.query_size(flat_inputs), self.size, starts, around, strict=True
            )
        ]
        (top, bottom, y0, y1), (left, right, x0, x1) = spans
        return {
            "window": (slice(top, bottom), slice(left, right)),
            "target": (slice(y0, y1), slice(x0, x1)),
        }

    def _pixel_of_a_class(self, flat_inputs: list[Any]) -> tuple[int, int] | tuple[None, None]:
        """Row and column that the window must hold, if any."""
        mask = next((part.numpy() for part in flat_inputs if isinstance(part, tv_tensors.Mask)), None)
        if mask is None or not self.class_crops or torch.rand(()).item() >= self.class_crops:
            return None, None
        classes = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:IGNORE_INDEX])
        if not classes.size:
            return None, None
        which, where = torch.rand(2).tolist()
        pixels = np.flatnonzero(mask == classes[int(which * classes.size)])
        row, column = divmod(int(pixels[int(where * pixels.size)]), mask.shape[1])
        return row, column

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the drawn window to an image (3, H, W) or a mask (H, W)."""
        is_mask = isinstance(inpt, tv_tensors.Mask)
        kept = _to_numpy(inpt)[params["window"]]
        rows, columns = params["target"]
        kept = cv2.resize(
            kept,
            (columns.stop - columns.start, rows.stop - rows.start),
            # "exact" takes the pixel whose centre is nearest, so that the mask stays aligned with the image
            interpolation=cv2.INTER_NEAREST_EXACT if is_mask else cv2.INTER_LINEAR,
        )
        if kept.shape[:2] != tuple(self.size):
            height, width = self.size
            room = (rows.start, height - rows.stop, columns.start, width - columns.stop)
            value = (IGNORE_INDEX,) if is_mask else self.fill
            kept = cv2.copyMakeBorder(kept, *room, cv2.BORDER_CONSTANT, value=value)
        return _from_numpy(kept, inpt)


def _span(total: int, size: int, scale: float, start: float, pixel: int | None) -> tuple[int, int, int, int]:
    """Place a window along one axis.

    Args:
        total: Length of the image, in pixels.
        size: Length of the result, in pixels.
        scale: Magnification.
        start: Where the window begins, as a fraction of the places it may begin.
        pixel: A pixel that must be in the window, if any; `start` is then its place in the window.

    Returns:
        First and last+1 pixel of the image inside the window, and where they land in the result.
    """
    window = max(1, round(size / scale))
    room = total - window  # negative: the window is longer than the image, which then lies anywhere in it
    begin = math.floor(start * (abs(room) + 1)) * (1 if room >= 0 else -1)
    if pixel is not None and room > 0:
        begin = min(max(pixel - math.floor(start * window), 0), room)
    first, last = max(begin, 0), min(begin + window, total)
    end = max(1, round((last - begin) * size / window))
    return first, last, min(end - 1, round((first - begin) * size / window)), end


class RandomHorizontalFlip(v2.Transform):
    """Mirror left and right.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether to flip."""
        return {"flip": torch.rand(()).item() < self.p}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Flip an image (3, H, W) or a mask (H, W) if so drawn."""
        return _from_numpy(cv2.flip(_to_numpy(inpt), 1), inpt) if params["flip"] else inpt


@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, folded into one affine colour matrix per sample.

    Factors are drawn as torchvision's `ColorJitter` draws them. Applying one matrix on the device costs a
    hundredth of four passes over the image. Brightness, contrast and saturation are torchvision's own
    formulas. Hue turns the colours about the grey axis: the hue is torchvision's to 0.007 turns, but the mean
    of red, green and blue is kept where HSV keeps their maximum. Values are clamped once, at the end.

    Args:
        brightness: Factor drawn from 1 ± this.
        contrast: Factor drawn from 1 ± this.
        saturation: Factor drawn from 1 ± this.
        hue: Shift drawn from ± this, in turns of the colour circle, at most 0.5.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, most = getattr(self, field.name), 0.5 if field.name == "hue" else 1.0
            if not 0 <= value <= most:
                raise UserError(f"color.{field.name} must be between 0 and {most:g}, got {value}.")

    def draw(self, mean: Sequence[float]) -> torch.Tensor:
        """Draw one colour matrix.

        Args:
            mean: Mean red, green and blue of the image, in 0..255: contrast turns about the mean grey.

        Returns:
            Matrix (3, 4): new = matrix[:, :3] @ old + matrix[:, 3].
        """
        limits = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        drawn = limits * (2 * torch.rand(4).numpy() - 1)
        return color_matrix(mean, 1 + drawn[0], 1 + drawn[1], 1 + drawn[2], drawn[3])


GREY = np.array([0.2989, 0.587, 0.114])  # ITU-R 601, to the digits torchvision uses


def color_matrix(
    mean: Sequence[float], brightness: float = 1, contrast: float = 1, saturation: float = 1, hue: float = 0
) -> torch.Tensor:
    """Fold brightness, contrast, saturation and hue (in this order) into one matrix.

    Args:
        mean: Mean red, green and blue of the image, in 0..255.
        brightness: Factor.
        contrast: Factor.
        saturation: Factor.
        hue: Shift in turns of the colour circle.

    Returns:
        Matrix (3, 4), ``float32``.
    """
    angle = 2 * math.pi * hue
    same = (1 + 2 * math.cos(angle)) / 3
    one = (1 - math.cos(angle)) / 3 - math.sin(angle) / math.sqrt(3)
    two = (1 - math.cos(angle)) / 3 + math.sin(angle) / math.sqrt(3)
    rotate = np.array([[same, one, two], [two, same, one], [one, two, same]])
    saturate = saturation * np.eye(3) + (1 - saturation) * GREY
    turn = rotate @ saturate
    grey = (1 - contrast) * brightness * float(GREY @ np.asarray(mean))
    matrix = np.column_stack([brightness * contrast * turn, turn @ np.full(3, grey)])
    return torch.from_numpy(matrix.astype(np.float32))


def apply_color(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Apply one colour matrix per image, on whatever device they are.

    Args:
        images: Images (B, 3, H, W) in 0..255, any dtype.
        matrices: Matrices (B, 3, 4).

    Returns:
        Images (B, 3, H, W), ``float32``, clamped to 0..255, in channels_last memory.
    """
    batch, _, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1)
    if images.device.type == "cpu":  # ten times faster there than a batched product of 3x3 matrices
        out = torch.empty(pixels.shape)
        for source, matrix, target in zip(
            pixels, matrices, out, strict=True
        ):  # one at a time stays in the cache
            cv2.transform(source.float().contiguous().numpy(), matrix.numpy(), dst=target.numpy())
            target.clamp_(0, 255)
    else:
        flat = pixels.reshape(batch, height * width, 3).float()
        out = torch.baddbmm(matrices[:, None, :, 3], flat, matrices[:, :, :3].mT).clamp_(0, 255)
        out = out.view(batch, height, width, 3)
    return out.permute(0, 3, 1, 2)


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """See an image (3, H, W) as (H, W, 3), a mask (H, W) as it is, without a copy."""
    array = tensor.numpy()
    return array if array.ndim == 2 else array.transpose(1, 2, 0)


def _from_numpy(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tv_tensors.wrap(tensor if tensor.ndim == 2 else tensor.permute(2, 0, 1), like=like)
