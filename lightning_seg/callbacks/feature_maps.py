"""Pictures of the feature maps of backbone and decoder for one image."""

from collections.abc import Mapping
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from lightning_seg.data.base import data_of
from lightning_seg.data.dataset import Split
from lightning_seg.data.io import read_image
from lightning_seg.data.pixels import RGB, Pixels
from lightning_seg.inference.precision import full_precision
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.plotting.heat import heat
from lightning_seg.runs.csv_logger import RunLogger, loggers_of
from lightning_seg.runs.directory import PICTURES
from lightning_seg.tasks.base import task_of

CELL = 160  # width of each picture in pixels
_GAP, _CAPTION = 6, 16


class FeatureMaps(L.Callback):
    """Draw the feature maps of one image, always the same, after validation.

    Args:
        image: An image file; the first image of the validation split by default.
        channels: Number of single channels drawn for each map: those of the largest variance over the image.
        every_n_validations: Draw after every n-th validation.

    Examples:
        >>> FeatureMaps(image="street.jpg", channels=8, every_n_validations=5).channels
        8
    """

    def __init__(self, image: str | None = None, channels: int = 4, every_n_validations: int = 1) -> None:
        self.image = image
        self.channels = channels
        self.every_n_validations = every_n_validations
        self._validations = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the image can be read before training starts."""
        self._read(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw ``pictures/feature_maps.png``, except during the sanity check."""
        run = next((logger.run for logger in loggers_of(trainer, RunLogger)), None)
        if trainer.sanity_checking or run is None or not trainer.is_global_zero:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations:
            return
        module = task_of(pl_module)
        image = self._read(trainer)
        with full_precision(module.device):
            maps = feature_maps(module.network, image.to(module.device))
        shown = data_of(trainer).pixels.picture(image.permute(1, 2, 0).numpy())
        picture = draw(shown, maps, module.network.stride, self.channels)
        folder = Path(run) / PICTURES
        folder.mkdir(exist_ok=True)
        picture.save(folder / "feature_maps.png")
        for logger in loggers_of(trainer, WandbLogger):
            step = max(0, trainer.global_step - 1)  # the step of this validation's scores
            logger.log_image("val/feature_maps", [picture], step=step)

    def _read(self, trainer: L.Trainer) -> Tensor:
        data = data_of(trainer)
        if self.image is not None:
            return torch.from_numpy(read_image(self.image, data.pixels)).permute(2, 0, 1)
        return Split(data, data.val_split)[0]["image"]


def draw_file(network: BackboneNetwork, image: Path, output: Path, pixels: Pixels = RGB) -> None:
    """Draw the feature maps of an image file, read as `pixels` say, into a picture file."""
    values = read_image(image, pixels)
    maps = feature_maps(network.eval(), torch.from_numpy(values).permute(2, 0, 1))
    draw(pixels.picture(values), maps, network.stride).save(output)


def feature_maps(network: BackboneNetwork, image: Tensor) -> dict[str, np.ndarray]:
    """Run a network on an image and return the outputs of backbone and decoder.

    Args:
        network: The network, in evaluation mode.
        image: (C, H, W), on the network's device.

    Returns:
        Feature maps (C, h, w) by name: the backbone's, finest first, then the decoder's. They cover the image padded
        to a multiple of `network.stride`.
    """
    with torch.inference_mode():
        maps = network.feature_maps(image[None])
    return {name: values[0].float().cpu().numpy() for name, values in maps.items()}


def draw(image: np.ndarray, maps: Mapping[str, np.ndarray], stride: int, channels: int = 4) -> Image.Image:
    """Draw one row for each map: channel mean, sum-pooled activation, and the channels of the largest variance.

    The sum-pooled activation is the sum of absolute values over all channels, averaged in each cell of the coarsest
    map: where a map is active, at the same resolution for all maps. Every picture has its own color scale.

    Args:
        image: (H, W, 3) uint8.
        maps: Maps (C, h, w) by name, of the image padded right and below.
        stride: Height and width were padded to multiples of this.
        channels: Number of single channels.
    """
    size = (image.shape[0], image.shape[1])
    cell = (max(1, round(size[0] * CELL / size[1])), CELL)
    grid = min((values.shape[1:] for values in maps.values()), key=lambda size: size[0] * size[1])
    rows, captions = [], []
    for name, values in maps.items():
        count, height, width = values.shape
        pooled = F.adaptive_avg_pool2d(torch.from_numpy(np.abs(values).sum(0))[None], grid)[0].numpy()
        varied = np.argsort(-_visible(values, size, stride).std((1, 2)), kind="stable")[:channels]
        shown = [values.mean(0), pooled, *values[varied]]
        rows.append([_picture(one, size, stride, cell) for one in shown])
        titles = ["mean", f"sum-pooled to {grid[0]}x{grid[1]}", *(f"channel {i}" for i in varied)]
        captions.append((f"{name}: {count} channels of {height}x{width}", titles))
    row_height = cell[0] + 2 * _CAPTION + _GAP
    columns = 2 + channels
    canvas = Image.new("RGB", ((columns + 1) * (CELL + _GAP) + _GAP, len(rows) * row_height + _GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    photo = Image.fromarray(image).resize((cell[1], cell[0]), Image.Resampling.BOX)
    canvas.paste(photo, (_GAP, _GAP + 2 * _CAPTION))
    for i, (row, (title, titles)) in enumerate(zip(rows, captions, strict=True)):
        top = _GAP + i * row_height
        pen.text((2 * _GAP + CELL, top), title, "black", font)
        for j, (picture, name) in enumerate(zip(row, titles, strict=True), start=1):
            left = _GAP + j * (CELL + _GAP)
            pen.text((left, top + _CAPTION), name, "dimgray", font)
            canvas.paste(picture, (left, top + 2 * _CAPTION))
    return canvas


def _visible(values: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    """Crop the cells of maps (..., h, w) that lie in the padding."""
    height, width = (
        -(-count * length // _padded(length, stride))
        for count, length in zip(values.shape[-2:], size, strict=True)
    )
    return values[..., :height, :width]


def _padded(length: int, stride: int) -> int:
    return -(-length // stride) * stride


def _picture(values: np.ndarray, size: tuple[int, int], stride: int, cell: tuple[int, int]) -> Image.Image:
    """Color a map (h, w) of the padded image and crop the padding."""
    # Single extreme values, often at the border, would hide the rest.
    low, high = np.percentile(_visible(values, size, stride), (1, 99))
    painted = Image.fromarray(heat((values - low) / max(high - low, 1e-12)))
    height, width = (round(_padded(length, stride) * cell[1] / size[1]) for length in size)
    return painted.resize((width, height), Image.Resampling.NEAREST).crop((0, 0, cell[1], cell[0]))
