"""Writes predicted masks and overlays to a folder."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import entropy
from lightning_seg.plotting.heat import heat
from lightning_seg.plotting.pictures import overlay, save_palette_png


class Predictions(L.Callback):
    """For ``folder/name.jpg`` write ``masks/name.png`` (labels, with the class colours as palette) and ``overlays/``.

    Args:
        output: Folder to write to; it is created.
        uncertainty: Also write ``uncertainty/name.png``: how unsure each pixel is, from 0, violet, one class
            alone, to 255, yellow, all classes alike (entropy; the colours are the file's palette).
    """

    def __init__(self, output: Path, uncertainty: bool = False) -> None:
        self.output = output
        self.folders = ["masks", "overlays"] + ["uncertainty"] * uncertainty
        self._written = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the folders.

        Raises:
            UserError: They cannot be created.
        """
        make_folders(self.output, self.folders)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Write the files of one batch."""
        palette = trainer.datamodule.palette  # type: ignore[attr-defined]
        for image, logits, path in zip(images_of(batch), outputs, batch["path"], strict=True):
            pixels = torch.from_numpy(image).permute(2, 0, 1)
            mask = pl_module.labels(logits[None], pixels[None])[0].byte().cpu().numpy()  # type: ignore[operator]
            name = f"{Path(path).stem}.png"
            save_palette_png(mask, palette, self.output / "masks" / name)
            Image.fromarray(overlay(image, mask, palette)).save(self.output / "overlays" / name)
            if "uncertainty" in self.folders:
                unsure = as_bytes(entropy(logits[None] / pl_module.temperature)[0])  # type: ignore[operator]
                save_palette_png(unsure, HEAT, self.output / "uncertainty" / name)
            self._written += 1

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the files are."""
        print(f"{self._written} images: {', '.join(self.folders)} in {self.output}/")


HEAT = [tuple(colour) for colour in heat(np.linspace(0, 1, 256)[None])[0].tolist()]
"""Colours of 0 to 255, from violet to yellow."""


def as_bytes(values: Tensor) -> np.ndarray:
    """Turn values (H, W) in 0..1 into 0..255."""
    return (255 * values).round().byte().cpu().numpy()


def make_folders(output: Path, names: list[str]) -> None:
    """Create folders to write to.

    Raises:
        UserError: They cannot be created.
    """
    try:
        for name in names:
            (output / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}; choose another --output") from error


def images_of(batch: dict[str, Any]) -> list[np.ndarray]:
    """Return the images of a batch as (H, W, 3) arrays without the padding."""
    images: Tensor = batch["image"]
    sizes = batch["size"].tolist() if "size" in batch else [images.shape[-2:]] * len(images)
    return [
        image[:, :height, :width].permute(1, 2, 0).cpu().numpy()
        for image, (height, width) in zip(images, sizes, strict=True)
    ]
