"""Writers of predictions: masks, overlays and objects as files."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image

from lightning_seg.inference.inferers import entropy
from lightning_seg.inference.writing import as_bytes, make_folders
from lightning_seg.metrics.instance import annotations, view_of_found
from lightning_seg.plotting.heat import HEAT
from lightning_seg.plotting.pictures import draw_objects, object_colour, overlay, save_palette_png


class PredictionWriter(L.Callback):
    """Write ``masks/name.png`` (labels, with the class colors as palette) and ``overlays/name.png`` for each image.

    Args:
        output: Folder to write to; it is created.
        uncertainty: Also write ``uncertainty/name.png``: the normalised entropy of each pixel, from 0 (one class
            certain, violet) to 255 (all classes equally probable, yellow); the colors are the file's palette.
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
        """Print where the files are."""
        print(f"{self._written} images: {', '.join(self.folders)} in {self.output}/")


class ObjectWriter(PredictionWriter):
    """Write the objects that were found in each image, and the semantic mask that they are merged to.

    ``objects/name.png`` holds the number of the object at each pixel, from 1 on, with a palette of distinct colors.
    ``objects/name.json`` lists all objects, those below the score threshold too, in COCO's format: number, class,
    score, box and mask. ``masks/name.png`` holds labels with the class colors as palette, ``overlays/name.png``
    shows all of it.

    Args:
        output: Folder to write to; it is created.
    """

    def __init__(self, output: Path) -> None:
        super().__init__(output)
        self.folders = ["objects", "masks", "overlays"]

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Write the files of one batch."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        task: Any = pl_module
        colors = [(0, 0, 0), *map(object_colour, range(255))]
        for image, found, path in zip(images_of(batch), outputs, batch["path"], strict=True):
            view = view_of_found(found, task.score_threshold)
            listed = []
            for number, one in enumerate(annotations(found), start=1):
                runs = {**one["segmentation"], "counts": one["segmentation"]["counts"].decode()}
                name = data.class_names[one["category_id"]]
                listed.append({"number": number, "class": name, **one, "segmentation": runs})
            stem = Path(path).stem
            (self.output / "objects" / f"{stem}.json").write_text(json.dumps(listed) + "\n")
            numbers = self.output / "objects" / f"{stem}.png"
            if view.parts.max() < 256:
                save_palette_png(view.parts, colors, numbers)
            else:  # no palette has so many
                Image.fromarray(view.parts.astype(np.uint16)).save(numbers)
            save_palette_png(view.labels, data.palette, self.output / "masks" / f"{stem}.png")
            drawn = draw_objects(image, {**found, "parts": view.parts}, data.class_names)
            Image.fromarray(drawn).save(self.output / "overlays" / f"{stem}.png")
            self._written += 1


def images_of(batch: dict[str, Any]) -> list[np.ndarray]:
    """Return the images of a batch as (H, W, 3) arrays without the padding."""
    images: torch.Tensor = batch["image"]
    sizes = batch["size"].tolist() if "size" in batch else [images.shape[-2:]] * len(images)
    return [
        image[:, :height, :width].permute(1, 2, 0).cpu().numpy()
        for image, (height, width) in zip(images, sizes, strict=True)
    ]
