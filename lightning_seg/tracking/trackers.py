"""The trackers beside W&B, by the names that ``tracking`` and ``lightning-seg sync --to`` take."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_only

from lightning_seg.errors import UserError
from lightning_seg.tracking.mlflow import MLflow, MLflowSettings
from lightning_seg.tracking.tensorboard import TensorBoard
from lightning_seg.tracking.tracker_sync import Tracker, TrackerSync, export_command

Name = Literal["wandb", "tensorboard", "mlflow"]


def make_tracker(name: Name, run: Path, mlflow: MLflowSettings | None = None) -> Tracker:
    """Make a tracker of a run.

    Args:
        name: Of the tracker, not W&B.
        run: The run directory.
        mlflow: Where MLflow is.

    Raises:
        UserError: Its package is not installed.
    """
    return TensorBoard(run) if name == "tensorboard" else MLflow(run, mlflow)


def open_trackers(run: Path, names: Iterable[Name], mlflow: MLflowSettings) -> list[TrackerSync]:
    """Begin to keep the trackers of a run equal to it, in its first process; a package that is missing costs a line.

    Args:
        run: The run directory.
        names: The trackers wanted.
        mlflow: Where MLflow is.
    """
    opened: list[TrackerSync] = []
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return opened
    for name in dict.fromkeys(names):
        if name == "wandb":
            continue
        try:
            opened.append(TrackerSync(make_tracker(name, run, mlflow), run))
        except UserError as error:
            later = f"then '{export_command(name, run)}' sends it"
            print(f"{name}: off ({error}); all is in {run}, {later}", flush=True)
    return opened
