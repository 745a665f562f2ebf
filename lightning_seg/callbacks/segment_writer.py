"""Writer of segments, in the panoptic format of COCO."""

import json
from collections.abc import Iterable
from pathlib import Path

import lightning as L
import numpy as np
from PIL import Image
from scipy.ndimage import find_objects

from lightning_seg import IGNORE_INDEX
from lightning_seg.callbacks.prediction_writer import PredictionWriter, void_at
from lightning_seg.data.base import data_of
from lightning_seg.inference.segments import Segmented
from lightning_seg.inference.writing import Outputs
from lightning_seg.metrics.instance import View
from lightning_seg.metrics.panoptic import drawn_segments
from lightning_seg.plotting.pictures import draw_segments, object_color
from lightning_seg.tasks.mask_classification import MaskClassification


class SegmentWriter(PredictionWriter):
    """Write the segments that were found in each image as COCO has panoptic annotations, for panopticapi and others.

    ``segments/name.png`` holds the id of the segment at each pixel as red + 256 green + 256² blue, 0 for none, objects
    in colors of their own, stuff in that of its class. ``segments/name.json`` lists them: id, category, area, box and
    score. ``segments.json`` joins the lists of all images, with the categories; ids of images are the numbers that the
    files are called by, or their names. ``masks/name.png`` holds the class of each pixel's segment, 255 where there is
    none, ``overlays/name.png`` shows objects on top of stuff.

    Args:
        outputs: Where to write.
        run: The run that predicts.

    Examples:
        >>> from lightning_seg.inference.writing import Outputs
        >>> writer = SegmentWriter(Outputs(Path("out"), names={}), run=Path("runs/x"))
        >>> writer.kinds
        ('segments', 'masks', 'overlays')
    """

    kinds = ("segments", "masks", "overlays")

    def __init__(self, outputs: Outputs, run: Path) -> None:
        super().__init__(outputs, run)

    def write(
        self, trainer: L.Trainer, module: L.LightningModule, image: np.ndarray, output: object, path: str
    ) -> None:
        """Write the files of one image."""
        assert isinstance(module, MaskClassification) and isinstance(output, Segmented)
        data, (view, labels, scores) = data_of(trainer), output
        void = void_at(path, data.pixels)
        if void is not None:
            view = View(np.where(void, 0, view.parts), np.where(void, np.uint8(IGNORE_INDEX), view.labels))
        things = module.things
        colors = [
            object_color(n) if label in things else data.palette[label] for n, label in enumerate(labels)
        ]
        ids = np.array([0, *distinct_ids(colors)], np.int64)
        picture = ids[view.parts][..., None] >> np.array([0, 8, 16]) & 255
        file = self.outputs.file("segments", path, ".png")
        Image.fromarray(picture.astype(np.uint8)).save(file)
        listed = []
        places = find_objects(view.parts, max_label=len(labels))
        found = zip(places, labels.tolist(), scores.tolist(), strict=True)
        for number, (place, label, score) in enumerate(found, start=1):
            if place is None:  # all of it is where the image has no data
                continue
            rows, columns = place
            listed.append(
                {
                    "id": int(ids[number]),
                    "category_id": data.category_id(label),
                    "iscrowd": 0,
                    "area": int((view.parts[place] == number).sum()),
                    "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                    "score": round(score, 6),
                }
            )
        name = file.relative_to(self.outputs.folder / "segments")
        one = {"image_id": _image_id(name), "file_name": name.as_posix(), "segments_info": listed}
        self.outputs.file("segments", path, ".json").write_text(json.dumps(one) + "\n")
        self._write_files(path, {"masks": (view.labels, data.palette)})
        drawn = draw_segments(
            data.pixels.picture(image), drawn_segments(view, things), data.class_names, data.palette
        )
        Image.fromarray(drawn).save(self.outputs.file("overlays", path, ".png"))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join the lists of all images once all processes have written theirs, and print where the files are."""
        super().on_predict_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, MaskClassification)
        data, things = data_of(trainer), pl_module.things
        files = [self.outputs.file("segments", image, ".json") for image in self.outputs.names]
        found = [json.loads(file.read_text()) for file in files if file.is_file()]
        categories = [
            {
                "id": data.category_id(label),
                "name": name,
                "isthing": int(label in things),
                "color": list(color),
            }
            for label, (name, color) in enumerate(zip(data.class_names, data.palette, strict=True))
        ]
        images = [{"id": one["image_id"], "file_name": one["file_name"]} for one in found]
        content = {"images": images, "annotations": found, "categories": categories}
        (self.outputs.folder / "segments.json").write_text(json.dumps(content) + "\n")


def distinct_ids(colors: Iterable[tuple[int, int, int]]) -> list[int]:
    """Return the id of each color, or, where that is taken or 0, the next free one."""
    found: list[int] = []
    for red, green, blue in colors:
        number = red + 256 * green + 65536 * blue
        while number == 0 or number in found:
            number = (number + 1) % 256**3
        found.append(number)
    return found


def _image_id(name: Path) -> int | str:
    """Return the number that an image is called by, as COCO's are, or its name."""
    bare = name.with_suffix("").as_posix()
    return int(bare) if bare.isdigit() else bare
