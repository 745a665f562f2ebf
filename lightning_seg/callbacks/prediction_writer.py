"""Writers of predictions: masks, overlays and objects as files."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from PIL import Image

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import data_of
from lightning_seg.data.pixels import Pixels
from lightning_seg.data.rasters import is_place_known, opened, void_of, write_like
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.inference.inferers import entropy
from lightning_seg.inference.writing import Outputs, as_bytes
from lightning_seg.metrics.instance import annotations, view_of_found
from lightning_seg.plotting.heat import HEAT
from lightning_seg.plotting.pictures import (
    Palette,
    draw_objects,
    object_color,
    overlay,
    overlay_maps,
    save_palette_png,
)
from lightning_seg.tasks.instance import InstanceSegmentation
from lightning_seg.tasks.mask_classification import MaskClassification
from lightning_seg.tasks.multi_label import MultiLabelSegmentation
from lightning_seg.tasks.semantic import SemanticSegmentation


class PredictionWriter(L.Callback):
    """Write ``masks/name.png`` (labels, with the class colors as palette) and ``overlays/name.png`` for each image.

    Of a GeoTIFF masks, uncertainty and probabilities are GeoTIFFs of the same place, 255 where the image has no data.
    An image that cannot be read is reported and left out.

    Args:
        outputs: Where to write.
        run: The run that predicts.
        uncertainty: Also write ``uncertainty/name.png``: the normalized entropy of each pixel, from 0 (one class
            certain, violet) to 255 (all classes equally probable, yellow); the colors are the file's palette.
        probabilities: Also write ``probabilities/name.npy``: (C, H, W) float32.

    Attributes:
        written: Number of images that were predicted, by all processes once they have finished.
        unreadable: Number of images that could not be read, likewise.

    Examples:
        >>> from lightning_seg.inference.writing import Outputs
        >>> writer = PredictionWriter(Outputs(Path("out"), names={}), run=Path("runs/x"))
        >>> writer.kinds
        ('masks', 'overlays')
    """

    kinds: tuple[str, ...] = ("masks", "overlays")

    def __init__(
        self, outputs: Outputs, run: Path, uncertainty: bool = False, probabilities: bool = False
    ) -> None:
        self.outputs = outputs
        self.run = run
        self.kinds += ("uncertainty",) * uncertainty + ("probabilities",) * probabilities
        self.written = self.unreadable = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the folders.

        Raises:
            UserError: They cannot be created.
        """
        if trainer.is_global_zero:
            self.outputs.create(self.kinds, self.run)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Sequence[object],
        batch: Batch,
        *args: object,
    ) -> None:
        """Write the files of one batch."""
        for image, output, path, error in zip(
            images_of(batch), outputs, batch["path"], batch["error"], strict=True
        ):
            if error:
                print(f"skipped: {error}", file=sys.stderr, flush=True)
                self.unreadable += 1
                continue
            self.write(trainer, pl_module, image, output, path)
            self.written += 1

    def write(
        self, trainer: L.Trainer, module: L.LightningModule, image: np.ndarray, output: object, path: str
    ) -> None:
        """Write the files of one image.

        Args:
            trainer: The trainer.
            module: The task.
            image: (H, W, C), as it was read.
            output: What the task predicts for the image.
            path: File of the image.
        """
        assert isinstance(module, SemanticSegmentation) and isinstance(output, torch.Tensor)
        palette, known = data_of(trainer).palette, data_of(trainer).pixels
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        mask = module.labels(output[None], pixels[None])[0].byte().cpu().numpy()
        void = void_at(path, known)
        mask = mask if void is None else np.where(void, np.uint8(IGNORE_INDEX), mask)
        picture = known.picture(image)
        Image.fromarray(overlay(picture, mask, palette)).save(self.outputs.file("overlays", path, ".png"))
        written: dict[str, tuple[np.ndarray, Palette]] = {"masks": (mask, palette)}
        if "uncertainty" in self.kinds:
            written["uncertainty"] = as_bytes(entropy(output[None] / module.temperature)[0]), HEAT
        if "probabilities" in self.kinds:
            written["probabilities"] = (output / module.temperature).softmax(0).cpu().numpy(), ()
        self._write_files(path, written)

    def _write_files(self, path: str, written: dict[str, tuple[np.ndarray, Palette]]) -> None:
        """Write arrays with their palettes, by the folder that each belongs in; GeoTIFFs where the image is one."""
        georeferenced = is_place_known(path)
        for kind, (values, colors) in written.items():
            if georeferenced:
                write_like(path, self.outputs.file(kind, path, ".tif"), values, colors)
            elif colors:
                save_palette_png(values, colors, self.outputs.file(kind, path, ".png"))
            else:
                np.save(self.outputs.file(kind, path, ".npy"), values)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count over all processes, and print where the files are."""
        counts = torch.tensor([self.written, self.unreadable], device=pl_module.device, dtype=torch.float64)
        self.written, self.unreadable = trainer.strategy.reduce(counts, reduce_op="sum").int().tolist()
        if trainer.is_global_zero:
            print(f"{self.written} images: {', '.join(self.kinds)} in {self.outputs.folder}/")


def void_at(path: str, pixels: Pixels) -> np.ndarray | None:
    """Return where an image that knows its place has no data (H, W)."""
    if not is_place_known(path):
        return None
    with opened(path) as source:
        return void_of(source, pixels.bands)


class MultiLabelWriter(PredictionWriter):
    """Write ``masks/<class>/name.png`` for each class that has a logit: 1 where it is, shown in its color, else 0.

    ``overlays/name.png`` shows all classes, those that overlap in their mean color; ``probabilities/name.npy`` holds
    (K, H, W) float32, and ``uncertainty/name.png`` the mean over the classes of the entropy of being there or not.

    Args:
        outputs: Where to write.
        run: The run that predicts.
        uncertainty: Also write the uncertainty.
        probabilities: Also write the probabilities.

    Examples:
        >>> from lightning_seg.inference.writing import Outputs
        >>> writer = MultiLabelWriter(Outputs(Path("out"), names={}), run=Path("runs/x"))
        >>> writer.kinds
        ('masks', 'overlays')
    """

    def write(
        self, trainer: L.Trainer, module: L.LightningModule, image: np.ndarray, output: object, path: str
    ) -> None:
        """Write the files of one image."""
        assert isinstance(module, MultiLabelSegmentation) and isinstance(output, torch.Tensor)
        data = data_of(trainer)
        found = module.decide(output[None])[0].byte().cpu().numpy()
        if (void := void_at(path, data.pixels)) is not None:
            found = np.where(void, np.uint8(IGNORE_INDEX), found)
        drawn = overlay_maps(data.pixels.picture(image), found, data.palette)
        Image.fromarray(drawn).save(self.outputs.file("overlays", path, ".png"))
        written: dict[str, tuple[np.ndarray, Palette]] = {}
        for name, mask, color in zip(module.scored_classes, found, data.palette[1:], strict=True):
            written[f"masks/{name.replace('/', '_')}"] = mask, [(0, 0, 0), color]
        if "uncertainty" in self.kinds:
            both = torch.stack([output, torch.zeros_like(output)], dim=1)  # (K, 2, H, W): there, or not
            written["uncertainty"] = as_bytes(entropy(both).mean(0)), HEAT
        if "probabilities" in self.kinds:
            written["probabilities"] = output.sigmoid().cpu().numpy(), ()
        self._write_files(path, written)


class ObjectWriter(PredictionWriter):
    """Write the objects that were found in each image, and the semantic mask that they are merged to.

    ``objects/name.png`` holds the number of the object at each pixel, from 1 on, with a palette of distinct colors.
    ``objects/name.json`` lists all objects, those below the score threshold too, in COCO's format: number, class,
    score, box and mask. ``masks/name.png`` holds labels with the class colors as palette, ``overlays/name.png``
    shows all of it.

    Args:
        outputs: Where to write.
        run: The run that predicts.

    Examples:
        >>> from lightning_seg.inference.writing import Outputs
        >>> writer = ObjectWriter(Outputs(Path("out"), names={}), run=Path("runs/x"))
        >>> writer.kinds
        ('objects', 'masks', 'overlays')
    """

    kinds = ("objects", "masks", "overlays")

    def __init__(self, outputs: Outputs, run: Path) -> None:
        super().__init__(outputs, run)

    def write(
        self, trainer: L.Trainer, module: L.LightningModule, image: np.ndarray, output: object, path: str
    ) -> None:
        """Write the files of one image."""
        assert isinstance(module, InstanceSegmentation | MaskClassification) and isinstance(output, dict)
        data = data_of(trainer)
        if isinstance(module, InstanceSegmentation):
            view = view_of_found(output, module.score_threshold)
            labels = view.labels
        else:  # queries know no background: where there is no object is no class either
            view = view_of_found(output, module.rules.score_threshold)
            labels = np.where(view.parts == 0, np.uint8(IGNORE_INDEX), view.labels)
        listed = []
        for number, one in enumerate(annotations(output), start=1):
            runs = {**one["segmentation"], "counts": one["segmentation"]["counts"].decode()}
            name = data.class_names[one["category_id"]]
            listed.append({"number": number, "class": name, **one, "segmentation": runs})
        self.outputs.file("objects", path, ".json").write_text(json.dumps(listed) + "\n")
        numbers = self.outputs.file("objects", path, ".png")
        if view.parts.max() < 256:
            save_palette_png(view.parts, [(0, 0, 0), *map(object_color, range(255))], numbers)
        else:  # no palette has so many
            Image.fromarray(view.parts.astype(np.uint16)).save(numbers)
        save_palette_png(labels, data.palette, self.outputs.file("masks", path, ".png"))
        drawn = draw_objects(data.pixels.picture(image), {**output, "parts": view.parts}, data.class_names)
        Image.fromarray(drawn).save(self.outputs.file("overlays", path, ".png"))


def images_of(batch: Batch) -> list[np.ndarray]:
    """Return the images of a batch as (H, W, C) arrays without the padding."""
    images: torch.Tensor = batch["image"]
    sizes = batch["size"].tolist() if "size" in batch else [images.shape[-2:]] * len(images)
    return [
        image[:, :height, :width].permute(1, 2, 0).cpu().numpy()
        for image, (height, width) in zip(images, sizes, strict=True)
    ]
