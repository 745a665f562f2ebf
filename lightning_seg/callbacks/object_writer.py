"""Writes predicted objects to a folder."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from PIL import Image

from lightning_seg.callbacks.prediction_writer import Predictions, images_of
from lightning_seg.metrics.instance import annotations, view_of_found
from lightning_seg.plotting.pictures import draw_objects, object_colour, save_palette_png


class ObjectPredictions(Predictions):
    """For ``folder/name.jpg`` write the objects that were found, and what they are merged by class.

    ``objects/name.png`` has the number of an object at each pixel, from 1 on, in colours of their own;
    ``objects/name.json`` lists all that were found, also unsure ones, as COCO does: number, class, score, box and mask.
    ``masks/name.png`` holds labels with the class colours as palette, ``overlays/name.png`` shows all of it.

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
        colours = [(0, 0, 0), *map(object_colour, range(255))]
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
                save_palette_png(view.parts, colours, numbers)
            else:  # no palette has so many
                Image.fromarray(view.parts.astype(np.uint16)).save(numbers)
            save_palette_png(view.labels, data.palette, self.output / "masks" / f"{stem}.png")
            drawn = draw_objects(image, {**found, "parts": view.parts}, data.class_names)
            Image.fromarray(drawn).save(self.output / "overlays" / f"{stem}.png")
            self._written += 1
