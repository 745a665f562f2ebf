"""The class of an experiment's task, known before its other settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_seg.errors import UserError
from lightning_seg.experiment.class_paths import resolve_class
from lightning_seg.runs.directory import JsonObject
from lightning_seg.tasks.base import SegmentationTask
from lightning_seg.tasks.semantic import SemanticSegmentation


def task_class(files: Mapping[Path, JsonObject], options: Sequence[str]) -> type[SegmentationTask]:
    """Find the class of the task first: it decides what the rest of the settings may be.

    Args:
        files: What the experiment files hold.
        options: The arguments of the command line.

    Raises:
        UserError: The name leads to no task.
    """
    given = dict(zip(options, options[1:], strict=False)).get("--task")
    given = next((option[7:] for option in options if option.startswith("--task=")), given)
    name = given or next((s["task"] for s in reversed(list(files.values())) if s.get("task")), None)
    if name is None:
        return SemanticSegmentation
    task = resolve_class(name, "task")
    if not (isinstance(task, type) and issubclass(task, SegmentationTask)):
        raise UserError(
            f"task: expected a subclass of lightning_seg.tasks.base.SegmentationTask, got {name!r}."
        )
    return task
