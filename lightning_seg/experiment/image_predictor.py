"""Prediction of single test images of finished runs, for a report that is served."""

from pathlib import Path

import numpy as np
import torch

from lightning_seg.analysis.report.server import Prediction
from lightning_seg.data.dataset import read_pair
from lightning_seg.data.overlapping import flat
from lightning_seg.errors import UserError
from lightning_seg.experiment.loading import LoadedRun, load_run
from lightning_seg.metrics.instance import arrays, view_of_found, view_of_truth
from lightning_seg.runs.records import read
from lightning_seg.tasks.instance import InstanceSegmentation
from lightning_seg.tasks.multi_label import MultiLabelSegmentation

_RUNS = 4  # whose networks are kept in memory


class ImagePredictor:
    """Predicts test images as the test did, post-processing included; objects are merged by class."""

    def __init__(self) -> None:
        self._loaded: dict[Path, LoadedRun] = {}

    def __call__(self, run: Path, index: int) -> Prediction:
        """Predict a test image.

        Args:
            run: The run directory.
            index: Position in the test split.

        Raises:
            UserError: The run cannot be loaded, or its data has changed since the test.
        """
        loaded = self._load(run)
        task, data = loaded.task, loaded.data
        samples = data.samples(data.test_split)
        expected = read(run).image_names
        if len(samples) != len(expected) or data.name_of(samples[index]) != expected[index]:
            raise UserError(
                f"{run} was tested on {len(expected)} images, with {expected[index]!r} at position {index}, but"
                f" {data.root} has other ones now; 'lightning-seg test {run}' tests it again."
            )
        if isinstance(task, InstanceSegmentation):
            objects = arrays(data.read_instances(samples[index]))
            image = np.ascontiguousarray(objects["image"].transpose(1, 2, 0))
            mask = view_of_truth(objects).labels
        else:
            image, mask = read_pair(data, samples[index])
            mask = flat(mask) if mask.ndim == 3 else mask
        with torch.inference_mode():
            images = torch.from_numpy(image).permute(2, 0, 1)[None].to(next(task.parameters()).device)
            if isinstance(task, InstanceSegmentation):
                labels = view_of_found(arrays(task(images)[0]), task.score_threshold).labels
            elif isinstance(task, MultiLabelSegmentation):
                labels = flat(task.decide(task(images))[0].byte().permute(1, 2, 0).cpu().numpy())
            else:
                semantic = loaded.semantic_task()
                labels = semantic.labels(semantic(images).float(), images)[0].cpu().numpy()
        return Prediction(data.pixels.picture(image), mask.astype(np.uint8), labels.astype(np.uint8))

    def _load(self, run: Path) -> LoadedRun:
        if run not in self._loaded:
            if len(self._loaded) == _RUNS:
                del self._loaded[next(iter(self._loaded))]
            loaded = load_run(run, ["--seed_everything=false", "--model.compile=false"])
            loaded.task.to("cuda" if torch.cuda.is_available() else "cpu").eval()
            self._loaded[run] = loaded
        return self._loaded[run]
