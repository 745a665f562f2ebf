"""What TensorBoard and MLflow know of a run, read by their own readers."""

import csv
import math
from collections import Counter
from pathlib import Path

Points = Counter[tuple[str, int, float]]


def logged(run: Path) -> Points:
    """Every value in metrics.csv: name, step, value as float32."""
    with (run / "metrics.csv").open(newline="") as file:
        return Counter(
            (name, int(row["step"]), single(float(value)))
            for row in csv.DictReader(file)
            for name, value in row.items()
            if name != "step" and value
        )


def in_tensorboard(run: Path) -> tuple[Points, dict[str, list[tuple[int, bytes]]], set[str]]:
    """Scalars, pictures and other tags."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = found.Tags()
    points = Counter((t, e.step, single(e.value)) for t in tags["scalars"] for e in found.Scalars(t))
    pictures = {t: [(e.step, e.encoded_image_string) for e in found.Images(t)] for t in tags["images"]}
    return points, pictures, {*tags["tensors"], *found.summary_metadata}


def in_mlflow(uri: str) -> dict[str, tuple[Points, dict[str, set[int]], object]]:
    """Metrics, steps of pictures, and the MLflow run itself, of each run by the tag that names ours."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = {}
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        points: Points = Counter()
        for name in run.data.metrics:
            points.update(
                (name, m.step, single(m.value)) for m in client.get_metric_history(run.info.run_id, name)
            )
        pictures: dict[str, set[int]] = {}
        for file in client.list_artifacts(run.info.run_id, "images"):
            key, _, step, *_ = Path(file.path).name.split("+")
            pictures.setdefault(key.replace("~", "/"), set()).add(int(step))
        tag = run.data.tags["lightning_seg.run"]
        assert tag not in found, "one run is there twice"
        found[tag] = points, pictures, run
    return found


def single(value: float) -> float:
    """Round to the seven digits that TensorBoard keeps."""
    return float(f"{value:.6g}") if math.isfinite(value) else math.inf
