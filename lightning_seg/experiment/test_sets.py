"""The further test sets of an experiment, from its settings."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.test_sets import Corrupted, FurtherTest, SameClasses, check_corruption
from lightning_seg.errors import UserError
from lightning_seg.experiment.parser import Parser
from lightning_seg.runs.directory import TEST_SETS
from lightning_seg.tasks.base import SegmentationTask

_SHARED = ("batch_size", "crop_size", "eval_batch_size", "num_workers")  # unless it says otherwise


def make_test_sets(wanted: Mapping[str, Any], data: SegmentationData) -> dict[str, FurtherTest]:
    """Build further test sets, and look whether their images are there.

    Args:
        wanted: For each its name, and ``{corruption: ..., severity: ...}`` or a data set by ``class_path``.
        data: The data set of the experiment.

    Raises:
        UserError: One of them is neither, or has no images.
    """
    check_test_sets(wanted)
    found: dict[str, FurtherTest] = {}
    for name, content in wanted.items():
        if "class_path" in content:
            other = _data_set(content, data)
            found[name] = SameClasses(other, data.class_names, data.palette)
            if data.segments and {*found[name].things} != {*data.things}:
                raise UserError(
                    f"test_sets: {name} must know single objects of the classes of which {type(data).__name__} does,"
                    f" {_names(data, data.things)}; it does of {_names(data, found[name].things)}"
                )
        else:
            found[name] = Corrupted(data, content["corruption"], content["severity"])
        if not data.download:
            samples = found[name].samples(found[name].test_split)  # raises if it is not there
            if isinstance(found[name], Corrupted) and len(samples):
                found[name].read(samples[0])  # raises if such images cannot be spoiled
    return found


def check_test_sets(wanted: Mapping[str, Any]) -> None:
    """Look at the settings of further test sets, without any data.

    Args:
        wanted: See `make_test_sets`.

    Raises:
        UserError: One of them is neither a corruption nor a data set.
    """
    for name, content in wanted.items():
        if (
            not isinstance(content, Mapping)
            or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        ):
            raise UserError(f"test_sets: {name} must be a plain name of a mapping, got {content!r}")
        if set(content) == {"corruption", "severity"}:
            check_corruption(content["corruption"], content["severity"])
        elif not ("class_path" in content and set(content) <= {"class_path", "init_args"}):
            raise UserError(
                f"test_sets: {name} must be {{corruption: noise, severity: 3}}, or a data set, {{class_path: ...,"
                f" init_args: ...}}; got {content!r}"
            )


def score_test_sets(
    sets: Mapping[str, FurtherTest],
    task: SegmentationTask,
    run: Path,
    checkpoint: str | None,
    trainer_of: Callable[[Path], Trainer],
) -> None:
    """Score a run on each further test set, in a folder of its own, which it replaces.

    Args:
        sets: See `make_test_sets`.
        task: The task, network included.
        run: The run directory.
        checkpoint: With which weights; those that the network has unless given.
        trainer_of: Makes the trainer that writes into a folder.
    """
    for name, data in sets.items():
        folder = run / TEST_SETS / name
        trainer = trainer_of(folder)
        if trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)  # perhaps of other images of that name
            folder.mkdir(parents=True)
            print(f"\ntest set {name}")
        trainer.test(task, data, ckpt_path=checkpoint, verbose=False, weights_only=True)


def _names(data: SegmentationData, labels: Iterable[int]) -> str:
    return ", ".join(data.class_names[label] for label in labels) or "none"


def _data_set(content: Mapping[str, Any], data: SegmentationData) -> SegmentationData:
    shared = {key: getattr(data, key) for key in _SHARED}
    shared["crop_size"] = list(shared["crop_size"])
    shared |= {key: True for key in ("instances", "segments", "overlapping") if getattr(data, key)}
    given = {**shared, **(content.get("init_args") or {})}
    parser = Parser()
    parser.add_subclass_arguments(SegmentationData, "data")
    config = parser.parse_object({"data": {"class_path": content["class_path"], "init_args": given}})
    made: SegmentationData = parser.instantiate_classes(Namespace(data=config.data)).data
    return made
