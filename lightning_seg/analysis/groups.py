"""Which runs belong together, and which may be compared at all."""

import difflib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_seg.errors import UserError
from lightning_seg.runs.records import Record

# What test.json records beside the protocol proper. The data's fingerprint covers the training files too, which
# may differ between experiments; that the test images are the same is seen from their names and true pixels.
_NOT_PROTOCOL = ("loss", "checkpoint", "fingerprint", "temperature")
# A digest of the names of the test images and the number of pixels of each class in each.
TRUTH = "true pixels"
_MISSING = "–"


@dataclass(frozen=True)
class Group:
    """Runs that differ by nothing that matters, so that their scores show how much the seed does.

    Attributes:
        name: Experiment, and the settings that set the group apart from others of that experiment.
        records: Its runs, oldest first.
    """

    name: str
    records: tuple[Record, ...]


def protocol(record: Record, across: Collection[str] = ()) -> dict[str, Any]:
    """Return all that must be equal for the scores of two runs to be comparable.

    Args:
        record: A tested run.
        across: Fields not to look at.

    Raises:
        UserError: The run has no readable counts of its test images.
    """
    fields = {k: v for k, v in record.test["protocol"].items() if k not in _NOT_PROTOCOL}
    digest = hashlib.sha256("\0".join(record.image_names).encode())
    digest.update(record.counts[..., 2].astype("<i8").tobytes())
    return {k: v for k, v in (fields | {TRUTH: digest.hexdigest()[:16]}).items() if k not in across}


def difference_of_protocols(protocols: Sequence[Mapping[str, Any]]) -> str:
    """Name the fields in which protocols differ, with their values: ``split (test / val), images (200 / 101)``."""
    shown = [{field: _show(value) for field, value in p.items()} for p in protocols]
    if len({tuple(p[f] for f in p if f != TRUTH) for p in shown}) == len(shown):
        for p in shown:  # other images have another truth: that goes without saying
            p.pop(TRUTH, None)
    found = []
    for field in dict.fromkeys(field for p in shown for field in p):
        values = list(dict.fromkeys(p.get(field, _MISSING) for p in shown))
        sizes = {len(p[field]) for p in protocols if isinstance(p.get(field), list)}
        if len(sizes) == len(values):  # five classes or six: no need to list them
            values = [str(size) for size in sorted(sizes)]
        if len(values) > 1:
            found.append(f"{field} ({' / '.join(values)})")
    return ", ".join(found)


def group_runs(records: Sequence[Record], by: str | None = None) -> tuple[list[Group], list[str]]:
    """Group runs; of runs with the same settings and seed the newest counts.

    Args:
        records: Tested runs.
        by: A setting, such as ``model.optimizer.init_args.lr`` or just ``lr``, or ``experiment``, by whose value
            to group. Unless given, runs of one experiment belong together that differ by the seed alone.

    Returns:
        The groups, and remarks on what was left out.

    Raises:
        UserError: No run has the setting, or several settings have that name.
    """
    latest: dict[tuple[object, ...], Record] = {}
    remarks = []
    for record in sorted(records, key=lambda r: (r.id, str(r.path))):
        key = (record.experiment, json.dumps(record.settings, sort_keys=True, default=str), record.seed)
        if record.seed is not None and key in latest:
            remarks.append(f"{latest[key].path} is left out: {record.path} repeats its settings and seed")
        latest[key if record.seed is not None else (record.path,)] = record
    found: dict[str, list[Record]] = {}
    names = _names(list(latest.values())) if by is None else _values(list(latest.values()), by)
    for record, name in zip(latest.values(), names, strict=True):
        found.setdefault(name, []).append(record)
    return [Group(name, tuple(runs)) for name, runs in found.items()], remarks


def varied(records: Sequence[Record]) -> list[str]:
    """List the settings in which some runs differ."""
    keys = dict.fromkeys(key for record in records for key in record.settings)
    return [key for key in keys if len({show_setting(record, key) for record in records}) > 1]


def short(keys: Sequence[str]) -> list[str]:
    """Shorten settings to their last name, or as much of their end as tells them apart."""
    parts = [[p for p in key.split(".") if p not in ("init_args", "class_path")] or [key] for key in keys]
    last = [p[-1] for p in parts]
    return [p[-1] if last.count(p[-1]) == 1 else ".".join(p[-2:]) for p in parts]


def show_setting(record: Record, key: str) -> str:
    """Return the value of a setting as text, a class by its name alone."""
    text = _show(record.everything.get(key, _MISSING))
    return text.rsplit(".", 1)[-1] if key.endswith("class_path") else text


def _names(records: list[Record]) -> list[str]:
    """Name each run after its experiment and the settings that vary within the experiment."""
    labels: dict[str, list[str]] = {}
    shown = _experiments(records)
    for experiment in {record.experiment for record in records}:
        siblings = [record for record in records if record.experiment == experiment]
        keys = varied(siblings)
        # Settings that only some have came with another class, as momentum with SGD, whose name says enough.
        common = [key for key in keys if all(key in record.settings for record in siblings)]
        full, brief = _labels(siblings, keys), _labels(siblings, common)
        labels[experiment] = brief if len(set(brief)) == len(set(full)) else full
    return [name + labels[record.experiment].pop(0) for name, record in zip(shown, records, strict=True)]


def _experiments(records: Sequence[Record]) -> list[str]:
    """Name the experiment of each run; the variants of one ablation go without its name."""
    ablations = {record.experiment.rpartition("/")[0] for record in records}
    whole = len(ablations) > 1
    return [record.experiment if whole else record.experiment.rpartition("/")[2] for record in records]


def _labels(records: list[Record], keys: list[str]) -> list[str]:
    names = short(keys)
    return [
        "".join(f" {name}={show_setting(record, key)}" for name, key in zip(names, keys, strict=True))
        for record in records
    ]


def _values(records: list[Record], by: str) -> list[str]:
    if by == "experiment":
        return _experiments(records)
    known = dict.fromkeys(key for record in records for key in record.everything)
    keys = [k for k in known if k in (by, f"{by}.class_path")]
    keys = keys or [k for k in known if k.endswith((f".{by}", f".{by}.class_path"))]
    if not keys:
        close = difflib.get_close_matches(by, [k.split(".")[-1] for k in known] + list(known), n=3)
        hint = f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""
        raise UserError(f"--group-by {by}: no run has that setting{hint} ('experiment' groups by experiment)")
    if len(keys) > 1:
        raise UserError(f"--group-by {by} may mean {', '.join(keys)}; give one of them in full")
    name, key = short(keys)[0], keys[0]
    return [f"{name}={show_setting(record, key)}" for record in records]


def _show(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        if value and all(isinstance(v, dict) and "class_path" in v for v in value):
            return "+".join(v["class_path"].rsplit(".", 1)[-1] for v in value)
        text = ", ".join(map(_show, value))
        return f"[{text}]" if len(value) < 5 else f"{len(value)}: {text}"
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict) else str(value)
