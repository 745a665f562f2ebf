"""Pictures of what the network sees in training."""

from pathlib import Path

import numpy as np

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.dataset import Split
from lightning_seg.data.loading import collate
from lightning_seg.data.pixels import RGB


def preview(data: SegmentationData, path: str | Path, count: int = 12, columns: int = 4) -> None:
    """Draw augmented training samples, as the network sees them, beside their masks or objects.

    Args:
        data: The data set.
        path: Picture file to write.
        count: Number of samples, evenly spread over the training split.
        columns: Number of samples side by side.
    """
    from PIL import Image

    from lightning_seg.metrics.instance import arrays, view_of_truth
    from lightning_seg.plotting.pictures import draw_objects, overlay, overlay_maps

    split = Split(data, data.train_split, train=True)
    cells = []
    for epoch, index in enumerate(np.linspace(0, len(split) - 1, count).astype(int).tolist()):
        batch = data.on_after_batch_transfer(collate([split[epoch, index]]), 0)
        values = batch["image"][0].permute(1, 2, 0).numpy()
        image = data.pixels.picture(values) if data.pixels != RGB else values.round().astype(np.uint8)
        if data.instances:
            objects = arrays(batch["targets"][0])
            shown = draw_objects(image, {**objects, "parts": view_of_truth(objects).parts}, data.class_names)
        elif data.overlapping:
            shown = overlay_maps(image, batch["mask"][0].numpy(), data.palette)
        else:
            shown = overlay(image, batch["mask"][0].numpy(), data.palette)
        pair = np.hstack([image, shown])
        cells.append(np.pad(pair, ((4, 4), (4, 4), (0, 0)), constant_values=255))
    cells += [np.full_like(cells[0], 255)] * (-count % columns)
    rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    Image.fromarray(np.vstack(rows)).save(path)
