"""Random brightness, contrast, saturation and hue as one affine matrix per image, applied on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random

import cv2
import numpy as np
import torch

from lightning_seg.errors import UserError


@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, folded into one affine color matrix per sample.

    Factors are drawn as torchvision's `ColorJitter` draws them. Applying one matrix on the device costs a
    hundredth of four passes over the image. Brightness, contrast and saturation are torchvision's own
    formulas, to 0.02 levels of 255. Hue turns the colors about the gray axis: the hue is torchvision's to 0.007
    turns, but the mean of red, green and blue is kept where HSV keeps their maximum. Values are clamped once, at the
    end, not after each step. Images of CamVid, all four at once with factors of 0.4 and a hue of 0.1, differ from
    torchvision's by 1 to 2 levels in the mean, and by up to 55 in strong colors and where it clamps in between.

    Images of other bands than red, green and blue have brightness and contrast only; see `draw_bands`.

    Args:
        brightness: Factor drawn from 1 ± this.
        contrast: Factor drawn from 1 ± this.
        saturation: Factor drawn from 1 ± this.
        hue: Shift drawn from ± this, in turns of the color circle, at most 0.5.

    Examples:
        >>> Shapes(batch_size=4, crop_size=(96, 96), color=ColorJitter(brightness=0.4, contrast=0.4)).color.contrast
        0.4
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

    def draw(self, mean: Sequence[float], random: Random, black: float = 0.0) -> torch.Tensor:
        """Draw one color matrix.

        Args:
            mean: Mean red, green and blue of the image: contrast turns about the mean gray.
            random: Source of random numbers.
            black: The value that is black.

        Returns:
            Matrix (3, 4): new = matrix[:, :3] @ old + matrix[:, 3].
        """
        brightness, contrast, saturation, hue = self._draw(random)
        if not black:
            return color_matrix(mean, brightness, contrast, saturation, hue)
        matrix = color_matrix([value - black for value in mean], brightness, contrast, saturation, hue)
        matrix[:, 3] += black - black * matrix[:, :3].sum(1)
        return matrix

    def draw_bands(self, mean: Sequence[float], random: Random, black: float = 0.0) -> torch.Tensor:
        """Draw brightness and contrast for an image of any bands: the same for all, about the mean of each.

        Args:
            mean: Mean of each band of the image (C,).
            random: Source of random numbers.
            black: The value that is black.

        Returns:
            Factor and offset of each band (C, 2): new = factor * old + offset.
        """
        brightness, contrast, _, _ = self._draw(random)
        factor = brightness * contrast
        offsets = [(1 - contrast) * brightness * (m - black) + black * (1 - factor) for m in mean]
        return torch.tensor([[factor, offset] for offset in offsets])

    def _draw(self, random: Random) -> tuple[float, float, float, float]:
        limits = self.brightness, self.contrast, self.saturation, self.hue
        drawn = [limit * random.uniform(-1, 1) for limit in limits]
        return 1 + drawn[0], 1 + drawn[1], 1 + drawn[2], drawn[3]


GREY = (0.2989, 0.587, 0.114)  # ITU-R 601, to the digits torchvision uses


def color_matrix(
    mean: Sequence[float], brightness: float = 1, contrast: float = 1, saturation: float = 1, hue: float = 0
) -> torch.Tensor:
    """Fold brightness, contrast, saturation and hue (in this order) into one matrix.

    Args:
        mean: Mean red, green and blue of the image, in 0..255.
        brightness: Factor.
        contrast: Factor.
        saturation: Factor.
        hue: Shift in turns of the color circle.

    Returns:
        Matrix (3, 4), ``float32``.
    """
    cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue) / math.sqrt(3)
    same, one, two = (1 + 2 * cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    rotate = (same, one, two), (two, same, one), (one, two, same)
    factor, rest = (
        brightness * contrast,
        1 - saturation,
    )  # a rotation leaves gray alone: R (s I + (1 - s) 1 g')
    offset = (1 - contrast) * brightness * sum(g * m for g, m in zip(GREY, mean, strict=True))
    offset *= saturation + rest * sum(GREY)
    matrix = [
        [*(factor * (saturation * r + rest * g) for r, g in zip(row, GREY, strict=True)), offset]
        for row in rotate
    ]
    return torch.from_numpy(np.array(matrix, np.float32))  # torch.tensor takes five times as long


def apply_color(
    images: torch.Tensor, drawn: torch.Tensor, limits: tuple[float, float] | None = (0.0, 255.0)
) -> torch.Tensor:
    """Apply what was drawn for each image, on whatever device they are.

    Args:
        images: Images (B, C, H, W), any dtype.
        drawn: Color matrices (B, 3, 4), or factors and offsets of bands (B, C, 2).
        limits: What values are clamped to, if anything.

    Returns:
        Images (B, C, H, W), ``float32``, in channels_last memory.
    """
    batch, channels, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1)
    low, high = limits or (-math.inf, math.inf)
    if drawn.shape[2] == 2:
        out = pixels.float() * drawn[:, None, None, :, 0] + drawn[:, None, None, :, 1]
        out = out.clamp_(low, high)
    elif images.device.type == "cpu":  # ten times faster there than a batched product of 3x3 matrices
        out = torch.empty(pixels.shape)
        for image, matrix, target in zip(pixels, drawn, out, strict=True):  # each fits into the cache
            cv2.transform(image.float().contiguous().numpy(), matrix.numpy(), dst=target.numpy())
            target.clamp_(low, high)
    else:
        flat = pixels.reshape(batch, height * width, channels).float()
        out = torch.baddbmm(drawn[:, None, :, 3], flat, drawn[:, :, :3].mT).clamp_(low, high)
        out = out.view(batch, height, width, channels)
    return out.permute(0, 3, 1, 2)
