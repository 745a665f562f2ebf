"""Prediction of single test images of finished runs, for a report that is served."""

from pathlib import Path

import torch

from lightning_seg.analysis.report.server import Prediction
from lightning_seg.data.dataset import read_pair
from lightning_seg.errors import UserError
from lightning_seg.experiment.loading import LoadedRun, load_run
from lightning_seg.runs.records import read

_RUNS = 4  # whose networks are kept in memory


class ImagePredictor:
    """Predicts test images as the test did, post-processing included."""

    def __init__(self) -> None:
        self._loaded: dict[Path, LoadedRun] = {}

    def __call__(self, run: Path, index: int) -> Prediction:
        """Predict a test image.

        Args:
            run: The run directory.
            index: Position in the test split.

        Raises:
            UserError: The run cannot be loaded, finds objects, or its data has changed since the test.
        """
        loaded = self._load(run)
        task, data = loaded.semantic_task(), loaded.data
        samples = data.samples(data.test_split)
        expected = read(run).image_names
        if len(samples) != len(expected) or data.name_of(samples[index]) != expected[index]:
            raise UserError(
                f"{run} was tested on {len(expected)} images, with {expected[index]!r} at position {index}, but"
                f" {data.root} has other ones now; 'lightning-seg test {run}' tests it again."
            )
        image, mask = read_pair(data, samples[index])
        device = next(task.parameters()).device
        with torch.inference_mode():
            images = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
            labels = task.labels(task(images).float(), images)[0].byte().cpu().numpy()
        return Prediction(image, mask, labels)

    def _load(self, run: Path) -> LoadedRun:
        if run not in self._loaded:
            if len(self._loaded) == _RUNS:
                del self._loaded[next(iter(self._loaded))]
            loaded = load_run(run, ["--seed_everything=false", "--model.compile=false"])
            loaded.task.to("cuda" if torch.cuda.is_available() else "cpu").eval()
            self._loaded[run] = loaded
        return self._loaded[run]
