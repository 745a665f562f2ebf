"""Which experiment is better, and is it certain? Runs are read, chosen, grouped and compared under one protocol."""

import json
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_seg.analysis.groups import TRUTH, Group, difference_of_protocols, group_runs, protocol
from lightning_seg.analysis.metrics import find_measure
from lightning_seg.analysis.section import Section, title_of
from lightning_seg.analysis.settings import MISSING, described, find_setting, matches
from lightning_seg.analysis.tables import Comparison
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG, SEARCHES, TEST_SETS, JsonObject
from lightning_seg.runs.records import Record, find, read


def compare(
    paths: Sequence[Path | str],
    group_by: str | Sequence[str] = (),
    baseline: str | None = None,
    across: Collection[str] = (),
    block: int | None = None,
    where: Sequence[str] = (),
    tags: Sequence[str] = (),
    metric: str | None = None,
    top: int | None = None,
    rename: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare runs: those of one protocol with each other.

    Args:
        paths: Run directories, or folders of them.
        group_by: Settings by which to group runs; unless given, runs that differ by the seed alone.
        baseline: Name of the group with which to compare the others, or an unmistakable part of it.
        across: Fields of the protocol that may differ.
        block: Neighboring test images that are left out together; chosen by the data set unless given.
        where: Settings that runs must have, such as ``lr=1e-3``.
        tags: Tags that runs must have.
        metric: The score; mIoU, PQ for runs that find segments, mask AP for those that detect objects, unless
            given.
        top: How many of the best groups to keep.
        rename: Names of groups, or parts of them, and what to call them instead.

    Raises:
        UserError: There is nothing to compare, the runs named were tested under different protocols, or no group
            has the name of the baseline.

    Examples:
        >>> comparison = compare(["runs/demo"])
        >>> "demo" in str(comparison)
        True
    """
    folders = [Path(path) for path in paths]
    records = _chosen([read(path) for path in find(folders)], where, tags)
    usable: list[tuple[JsonObject, Record]] = []
    remarks = []
    trials: Counter[str] = Counter()
    for record in records:
        try:
            if record.status == "not tested" and record.experiment.startswith(SEARCHES):
                trials[record.experiment] += 1
            elif record.problem or not record.test:
                remarks.append(
                    f"{record.path} is {record.status}" + f": {record.reason}" * bool(record.reason)
                )
            else:
                usable.append((protocol(record, across), record))
        except UserError as error:
            remarks.append(str(error))
    remarks += [f"{n} trial{'s' * (n > 1)} of {name} not tested, as is meant" for name, n in trials.items()]
    if not usable:
        raise UserError(
            "\n  ".join(["no tested run to compare: 'lightning-seg test RUN' tests one", *remarks])
        )
    protocols: list[tuple[JsonObject, list[Record]]] = []
    for fields, record in usable:
        same = next((runs for known, runs in protocols if known == fields), None)
        if same is None:
            protocols.append((fields, [record]))
        else:
            same.append(record)
    protocols.sort(key=lambda p: -len(p[1]))
    if len(protocols) > 1:
        differ = difference_of_protocols([fields for fields, _ in protocols])
        if all((path / CONFIG).is_file() for path in folders):
            raise UserError(
                f"these runs cannot be compared, because their protocols differ in {differ}. Test them alike, name"
                f" runs of one protocol, or give a folder to get a table for each{_limited(usable)}"
            )
        remarks.append(
            f"{len(protocols)} protocols are not comparable with each other: they differ in"
            f" {differ}{_limited(usable)}"
        )
    keys = [
        part for name in ([group_by] if isinstance(group_by, str) else group_by) for part in name.split(",")
    ]
    grouped = []
    for fields, runs in protocols:
        measure = find_measure(metric, runs)
        scored = [record for record in runs if np.isfinite(measure.value(record))]
        remarks += [f"{r.path} has no {measure.label}" for r in runs if r not in scored]
        if scored:
            groups, repeated = group_runs(scored, keys)
            grouped.append((fields, _renamed(groups, rename or {}), measure))
            remarks += repeated
    if not grouped:
        raise UserError("no run has a finite score of that name; compare by another --metric")
    if baseline is not None:
        baseline = _find_baseline(baseline, [group.name for _, groups, _ in grouped for group in groups])
    titles = [title_of(fields) for fields, _, _ in grouped]
    sections = [
        # Under one title the same files have other masks.
        Section(
            fields,
            groups,
            baseline,
            block,
            measure,
            top,
            suffix=f", {TRUTH} {fields[TRUTH]}" if titles.count(title) > 1 else "",
        )
        for title, (fields, groups, measure) in zip(titles, grouped, strict=True)
    ]
    remarks += [
        f"{len(section.shown)} of {len(section.groups)} groups are shown; verdicts are corrected for all of them"
        for section in sections
        if len(section.shown) < len(section.groups)
    ]
    return Comparison(sections, records, remarks)


def _limited(usable: Sequence[tuple[JsonObject, Record]]) -> str:
    """Name the runs of which `limit_test_batches` explains why they have scored fewer images than others."""
    most = max(fields.get("images", 0) for fields, _ in usable)
    limits = [(fields, r, (r.config.get("trainer") or {}).get("limit_test_batches")) for fields, r in usable]
    found = [
        record
        for fields, record, limit in limits
        if fields.get("images", 0) < most and limit is not None and (isinstance(limit, int) or limit < 1)
    ]
    if not found:
        return ""
    more = f" and {len(found) - 1} more" * (len(found) > 1)
    path, further = found[0].path, ""
    if path.parent.name == TEST_SETS:
        content = (found[0].config.get("test_sets") or {}).get(path.name)
        further = f" --test-sets-only --test_sets={shlex.quote(json.dumps({path.name: content}))}"
    run = path.parent.parent if further else path
    command = f"'lightning-seg test {run}{further}'"
    return f". trainer.limit_test_batches left images out of {path}{more}: {command} scores all"


def _chosen(records: Sequence[Record], where: Sequence[str], tags: Sequence[str]) -> list[Record]:
    """Keep the runs that have settings and tags."""
    runs = [described(record, everything=True) for record in records]
    for condition in where:
        name, sign, value = condition.partition("=")
        if not sign:
            raise UserError(f"--where {condition}: expected SETTING=VALUE, such as lr=1e-3")
        key = find_setting(name, runs, "--where")
        kept = [i for i, settings in enumerate(runs) if matches(key, settings, value)]
        if not kept:
            values = ", ".join(sorted({settings.get(key, MISSING) for settings in runs}))
            raise UserError(f"--where {condition}: no run has that; {name} is one of {values}")
        records, runs = [records[i] for i in kept], [runs[i] for i in kept]
    for tag in tags:
        kept_records = [record for record in records if tag in record.tags]
        if not kept_records:
            known = ", ".join(sorted({t for record in records for t in record.tags})) or "none"
            raise UserError(f"--tag {tag}: no run has that tag; there are {known}")
        records = kept_records
    return list(records)


def _renamed(groups: Sequence[Group], names: Mapping[str, str]) -> list[Group]:
    for old in names:
        if not any(old in group.name for group in groups):
            raise UserError(
                f"--rename {old}: no group is called that; there are {', '.join(g.name for g in groups)}"
            )
    found = []
    for group in groups:
        name = names.get(group.name, group.name)
        if name == group.name:
            for old, new in names.items():
                name = name.replace(old, new)
        found.append(replace(group, name=name.strip() or group.name))
    if len({group.name for group in found}) < len(found):
        raise UserError("--rename gives several groups one name; --group-by makes one group of them")
    return found


def _find_baseline(wanted: str, names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    plain = wanted.replace("=", " ")
    found = [name for name in names if name in (wanted, plain)] or [
        n for n in names if wanted in n or plain in n
    ]
    if len(found) != 1:
        which = "several are called that" if found else "nothing is called that"
        raise UserError(f"--baseline {wanted}: {which}; choose one of {', '.join(found or names)}")
    return found[0]
