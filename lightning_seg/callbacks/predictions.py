"""Writes predicted masks and overlays to a folder."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from PIL import Image
from torch import Tensor

from lightning_seg.errors import UserError
from lightning_seg.pictures import overlay, save_palette_png


class Predictions(L.Callback):
    """For ``folder/name.jpg`` write ``masks/name.png`` (labels, with the class colours as palette) and ``overlays/``.

    Args:
        output: Folder to write to; it is created.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._written = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the folders.

        Raises:
            UserError: They cannot be created.
        """
        try:
            for name in ("masks", "overlays"):
                (self.output / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.output}: {error.strerror}; choose another --output"
            ) from error

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Write the files of one batch."""
        palette = trainer.datamodule.palette  # type: ignore[attr-defined]
        for image, labels, path in zip(_images(batch), outputs, batch["path"], strict=True):
            mask = labels.cpu().numpy()
            save_palette_png(mask, palette, self.output / "masks" / f"{Path(path).stem}.png")
            shown = overlay(image, mask, palette)
            Image.fromarray(shown).save(self.output / "overlays" / f"{Path(path).stem}.png")
            self._written += 1

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the files are."""
        print(f"{self._written} masks and overlays in {self.output}/masks and {self.output}/overlays")


def _images(batch: dict[str, Any]) -> list[np.ndarray]:
    """Return the images of a batch as (H, W, 3) arrays without the padding."""
    images: Tensor = batch["image"]
    sizes = batch["size"].tolist() if "size" in batch else [images.shape[-2:]] * len(images)
    return [
        image[:, :height, :width].permute(1, 2, 0).cpu().numpy()
        for image, (height, width) in zip(images, sizes, strict=True)
    ]
