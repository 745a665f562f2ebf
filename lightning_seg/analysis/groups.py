"""Which runs belong together, what a group is called, and which may be compared at all."""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_seg.analysis.settings import (
    MISSING,
    described,
    find_setting,
    label,
    provenance,
    short_names,
    value_text,
    varied_settings,
)
from lightning_seg.runs.directory import JsonObject
from lightning_seg.runs.records import Record

# What test.json records beside the protocol proper. The data's fingerprint covers the training files too, which
# may differ between experiments; that the test images are the same is seen from their names and true pixels.
_NOT_PROTOCOL = ("loss", "checkpoint", "fingerprint", "temperature", "sequence", "metrics")
# A digest of the names of the test images and the number of pixels of each class in each.
TRUTH = "true pixels"


@dataclass(frozen=True)
class Group:
    """Runs that differ by nothing that matters, so that their scores show how much the seed does.

    Attributes:
        name: What sets the group apart from the others, or the experiment.
        records: Its runs, oldest first.
        settings: Those of its runs, as text; of a setting in which they differ all values.
        mixed: Settings in which its runs differ after all: only where they were grouped by others.
        by: Settings by which runs were grouped, if not by all but the seed.
    """

    name: str
    records: tuple[Record, ...]
    settings: Mapping[str, str]
    mixed: tuple[str, ...] = ()
    by: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        """Number of different seeds; a run without a seed counts as one."""
        known = {record.seed for record in self.records if record.seed is not None}
        return len(known) + sum(record.seed is None for record in self.records)

    @property
    def remark(self) -> str:
        """In what its runs differ that should not."""
        also = f"the runs of {self.name} also differ in {', '.join(short_names(self.mixed))}"
        made = provenance(self.records)
        return "; ".join(
            [also] * bool(self.mixed) + [f"the runs of {self.name} differ in {made}"] * bool(made)
        )


def protocol(record: Record, across: Collection[str] = ()) -> JsonObject:
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


def difference_of_protocols(protocols: Sequence[JsonObject]) -> str:
    """Name the fields in which protocols differ, with their values: ``split (test / val), images (200 / 101)``."""
    shown = [{field: value_text(value) for field, value in p.items()} for p in protocols]
    if len({tuple(p[f] for f in p if f != TRUTH) for p in shown}) == len(shown):
        for p in shown:  # other images have another truth: that goes without saying
            p.pop(TRUTH, None)
    found = []
    for field in dict.fromkeys(field for p in shown for field in p):
        values = list(dict.fromkeys(p.get(field, MISSING) for p in shown))
        sizes = {len(p[field]) for p in protocols if isinstance(p.get(field), list)}
        if len(sizes) == len(values):  # five classes or six: no need to list them
            values = [str(size) for size in sorted(sizes)]
        if len(values) > 1:
            found.append(f"{field} ({' / '.join(values)})")
    return ", ".join(found)


def group_runs(records: Sequence[Record], by: Sequence[str] = ()) -> tuple[list[Group], list[str]]:
    """Group runs; of runs with the same settings and seed the newest counts.

    Args:
        records: Tested runs.
        by: Settings, such as ``lr`` or ``finetune``, or ``experiment``, by whose values to group. Unless given, runs of
            one experiment belong together that differ by the seed alone.

    Returns:
        The groups, and remarks on what was left out.

    Raises:
        UserError: No run has the setting, or several settings have that name.
    """
    latest: dict[tuple[object, ...], Record] = {}
    remarks = []
    for record in sorted(records, key=lambda r: (r.id, str(r.path))):
        key = (*_identity(record), record.seed)
        if record.seed is not None and key in latest:
            remarks.append(f"{latest[key].path} is left out: {record.path} repeats its settings and seed")
        latest[key if record.seed is not None else (record.path,)] = record
    runs = list(latest.values())
    found: dict[object, list[Record]] = {}
    keys, kinds = _values(runs, by) if by else ((), map(_identity, runs))
    for record, kind in zip(runs, kinds, strict=True):
        found.setdefault(kind, []).append(record)
    names = [str(kind) for kind in found] if by else _names([group[0] for group in found.values()])
    return [_group(name, group, keys) for name, group in zip(names, found.values(), strict=True)], remarks


def other_differences(groups: Sequence[Group]) -> str:
    """Say in what runs differ beside the settings they were grouped by; empty if in nothing."""
    by = groups[0].by
    records = [record for group in groups for record in group.records]
    runs = [described(record) for record in records]
    others = [key for key in varied_settings(runs) if key not in by]
    if not by or not others:
        return ""
    variants = by == ("experiment",) and all("/" in record.experiment for record in records)
    if variants and not any(group.mixed for group in groups):
        return ""  # a variant of an ablation is all the settings that it changes
    each = [tuple(run.get(key, MISSING) for key in others) for run in runs]
    of_group = dict(zip(map(id, records), each, strict=True))
    mixes = [{of_group[id(record)] for record in group.records} for group in groups]
    names = short_names(others)
    if all(mix == mixes[0] for mix in mixes):
        return f"Runs differ in {', '.join(names)}, too, in every group alike."
    text = f"Not {', '.join(short_names(by))} alone: the runs compared also differ in {', '.join(names)}"
    values, count = Counter(value for mix in mixes for value in mix).most_common(1)[0]
    if count < 2:
        return f"{text}; no two groups agree in them."
    where = [f"{name}={value}" for name, value in zip(names, values, strict=True) if value != MISSING]
    return f"{text}. Those that agree: {' '.join(f'--where {shlex.quote(one)}' for one in where)}."


def _group(name: str, records: Sequence[Record], by: tuple[str, ...]) -> Group:
    runs = [described(record) for record in records]
    mixed = tuple(varied_settings(runs))
    settings = dict(runs[0])
    for key in mixed:
        values = list(dict.fromkeys(run.get(key, MISSING) for run in runs))
        settings[key] = " / ".join(values) if len(values) < 4 else f"{len(values)} values"
    return Group(name, tuple(records), settings, mixed, by)


def varied(records: Sequence[Record]) -> list[str]:
    """List the settings in which some runs differ."""
    keys = dict.fromkeys(key for record in records for key in record.settings)
    return [
        key
        for key in keys
        if len({value_text(record.everything.get(key, MISSING)) for record in records}) > 1
    ]


def show_setting(record: Record, key: str) -> str:
    """Return the value of a setting as text, a class by its name alone."""
    text = value_text(record.everything.get(key, MISSING))
    return text.rsplit(".", 1)[-1] if key.endswith("class_path") else text


def short(keys: Sequence[str]) -> list[str]:
    """Shorten settings to their last name, or as much of their end as tells them apart."""
    parts = [[p for p in key.split(".") if p not in ("init_args", "class_path")] or [key] for key in keys]
    last = [p[-1] for p in parts]
    return [p[-1] if last.count(p[-1]) == 1 else ".".join(p[-2:]) for p in parts]


def names_of_runs(records: Sequence[Record]) -> dict[Path, str]:
    """Name each run by its experiment and what differs from its experiment's most common settings."""
    names = {record.path: record.experiment for record in records}
    for experiment in set(names.values()):
        own = [record for record in records if record.experiment == experiment and not record.problem]
        for record, differing in zip(own, _labels(own), strict=True):
            names[record.path] = f"{experiment} {differing}".rstrip()
    return names


def _identity(record: Record) -> tuple[object, ...]:
    return record.experiment, json.dumps(record.settings, sort_keys=True, default=str)


def _names(records: Sequence[Record]) -> list[str]:
    """Name each group by what differs from the most common settings of its experiment."""
    experiments = _experiments(records)
    several = len(set(experiments)) > 1
    names = []
    labels = {
        name: _labels([r for r, e in zip(records, experiments, strict=True) if e == name])
        for name in set(experiments)
    }
    for experiment in experiments:
        own = labels[experiment].pop(0)
        names.append(" ".join(filter(None, [experiment, own])) if several or not own else own)
    counts = Counter(names)
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        if counts[name] > 1:  # they differ by a setting that only one of them has
            seen[name] += 1
            names[i] = f"{name} ({seen[name]})"
    return names


def _labels(records: Sequence[Record]) -> list[str]:
    """Describe groups of one experiment by what sets them apart; the most common one by nothing."""
    runs = [described(record) for record in records]
    keys = varied_settings(runs)
    if len(keys) == 1:
        return [label(keys, settings) for settings in runs]
    common = {
        key: Counter(settings.get(key, MISSING) for settings in runs).most_common(1)[0][0] for key in keys
    }
    apart = [[key for key in keys if settings.get(key, MISSING) != common[key]] for settings in runs]
    return [label(differing, settings) for differing, settings in zip(apart, runs, strict=True)]


def _experiments(records: Sequence[Record]) -> list[str]:
    """Name the experiment of each run; the variants of one ablation go without its name."""
    ablations = {record.experiment.rpartition("/")[0] for record in records}
    whole = len(ablations) > 1
    return [record.experiment if whole else record.experiment.rpartition("/")[2] for record in records]


def _values(records: Sequence[Record], by: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Find the settings to group by, and name the value of each run."""
    runs = [described(record, everything=True) for record in records]
    keys = [find_setting(name, runs, "--group-by") for name in by if name != "experiment"]
    experiments = _experiments(records) if "experiment" in by else [""] * len(records)
    labels = [label(keys, settings, most=len(keys)) for settings in runs]
    grouped = (*keys, *["experiment"] * ("experiment" in by))
    return grouped, [" ".join(filter(None, pair)) for pair in zip(experiments, labels, strict=True)]
