"""The further test sets of an experiment, from its settings."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.test_sets import Corrupted, FurtherTest, SameClasses
from lightning_seg.errors import UserError
from lightning_seg.experiment.parser import Parser

_SHARED = ("batch_size", "crop_size", "eval_batch_size", "num_workers")  # unless it says otherwise


def make_test_sets(wanted: Mapping[str, Any], data: SegmentationData) -> dict[str, FurtherTest]:
    """Build further test sets, and look whether their images are there.

    Args:
        wanted: For each its name, and ``{corruption: ..., severity: ...}`` or a data set by ``class_path``.
        data: The data set of the experiment.

    Raises:
        UserError: One of them is neither, or has no images.
    """
    found: dict[str, FurtherTest] = {}
    for name, content in wanted.items():
        if (
            not isinstance(content, Mapping)
            or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        ):
            raise UserError(f"test_sets: {name} must be a plain name of a mapping, got {content!r}")
        if set(content) == {"corruption", "severity"}:
            found[name] = Corrupted(data, content["corruption"], content["severity"])
        elif "class_path" in content and set(content) <= {"class_path", "init_args"}:
            found[name] = SameClasses(_data_set(content, data), data.class_names, data.palette)
        else:
            raise UserError(
                f"test_sets: {name} must be {{corruption: noise, severity: 3}}, or a data set, {{class_path: ...,"
                f" init_args: ...}}; got {content!r}"
            )
        if not data.download:
            found[name].samples(found[name].test_split)  # raises if it is not there
    return found


def _data_set(content: Mapping[str, Any], data: SegmentationData) -> SegmentationData:
    shared = {key: getattr(data, key) for key in _SHARED}
    shared["crop_size"] = list(shared["crop_size"])
    given = {**shared, **(content.get("init_args") or {})}
    parser = Parser()
    parser.add_subclass_arguments(SegmentationData, "data")
    config = parser.parse_object({"data": {"class_path": content["class_path"], "init_args": given}})
    made: SegmentationData = parser.instantiate_classes(Namespace(data=config.data)).data
    return made
