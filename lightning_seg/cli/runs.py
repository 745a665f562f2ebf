"""``lightning-seg runs``: list, show, tag and delete runs, and keep the disk from filling up."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from lightning_seg.cli.arguments import Arguments, folder
from lightning_seg.errors import UserError
from lightning_seg.plotting.tables import text_table
from lightning_seg.runs.directory import existing_run
from lightning_seg.runs.manage import (
    PARTS,
    delete,
    disk_usage,
    exact_or_latest_run,
    exact_run,
    is_busy,
    size_of,
    superseded_checkpoints,
)
from lightning_seg.runs.records import TAGS, Record, find, read


def main(arguments: list[str]) -> None:
    """Run the command; without any arguments it lists runs."""
    parser = Arguments(
        "lightning-seg runs", "Look after run directories.", "lightning-seg runs list --tag good"
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="commands (without one: list)")

    def command(
        name: str,
        function: Callable[[argparse.Namespace], None],
        text: str,
        example: str,
        folders: bool = False,
    ) -> Arguments:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            example=f"lightning-seg runs {name} {example}",
        )
        added.set_defaults(function=function)
        if folders:
            added.add_argument("folders", nargs="*", type=folder, default=[Path("runs")], metavar="FOLDER")
        return added

    listing = command("list", _list, "list runs: status, score, size, tags", "--tag good", folders=True)
    listing.add_argument("--tag", help="only runs with this tag")
    showing = command("show", _show, "show what a run is and scored", "runs/unet_camvid")
    tagging = command(
        "tag", _tag, "add tags to a run, or remove them", "runs/unet_camvid good --remove first"
    )
    for one in (showing, tagging):
        one.add_argument("run", type=folder, help="a run directory, or an experiment's for its latest run")
    tagging.add_argument("tags", nargs="*", help="tags to add")
    tagging.add_argument("--remove", nargs="+", default=[], metavar="TAG", help="tags to remove")
    deleting = command(
        "delete", _delete, "delete runs for good, after asking", "runs/demo/20261121-075311-3f2a"
    )
    deleting.add_argument(
        "runs",
        nargs="+",
        type=folder,
        help="run directories themselves; an experiment's is refused, as its latest run would be a guess",
    )
    command("disk", _disk, "show what takes how much disk space", "runs", folders=True)
    pruning = command(
        "prune",
        _prune,
        "delete all but the best checkpoint of tested runs, after asking",
        "runs --days 30",
        folders=True,
    )
    pruning.add_argument("--days", type=float, default=7, help="keep what is younger than this (default: 7)")
    for asking in (deleting, pruning):
        asking.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(arguments or ["list"])
    options.function(options)


def _list(options: argparse.Namespace) -> None:
    rows = []
    for path in find(options.folders):
        record = read(path)
        if options.tag is None or options.tag in record.tags:
            score = f"{100 * record.score('miou'):.1f}" if record.test else ""
            seed = "" if record.seed is None else str(record.seed)
            size = _readable(size_of(path))
            rows.append([str(path), _status(record), score, seed, record.time, size, " ".join(record.tags)])
    header = ["run", "status", "mIoU %", "seed", "started", "size", "tags"]
    print(text_table(header, rows, left=(0, 1, 4, 6)))


def _show(options: argparse.Namespace) -> None:
    record = read(existing_run(options.run))
    environment = record.environment
    commit = str(environment.get("commit"))[:12]
    dirty = environment.get("dirty", environment.get("uncommitted_changes", False))  # its name before 0.2
    changes = " with unknown changes" if dirty is None else " with uncommitted changes" * bool(dirty)
    checkpoints = _readable(size_of(record.path / "checkpoints"))
    rows = [
        ["run", str(record.path)],
        ["status", _status(record) + f" ({record.reason})" * bool(record.reason)],
        ["started", f"{record.time or 'unknown'}, seed {record.seed}"],
        ["command", f"lightning-seg {' '.join(map(str, environment.get('command') or []))}"],
        ["commit", commit + changes],
        ["device", ", ".join(environment.get("devices") or ["unknown"])],
        ["tags", " ".join(record.tags) or "none"],
        ["size", f"{_readable(size_of(record.path))}, {checkpoints} in checkpoints"],
    ]
    for name, points in record.curves().items():
        if name in ("train/loss", "val/loss", "val/miou", "val/mask_ap", "val/pq"):
            rows.append([name, f"{points[-1, 2]:.4f} at step {points[-1, 0]:.0f}"])
    if record.test:
        fields, scores = record.test["protocol"], record.test["scores"]
        rows.append(["tested", f"{fields.get('data')} {fields.get('split')}, {fields.get('images')} images"])
        rows += [[f"  {name}", f"{value:.4f}"] for name, value in scores.items() if isinstance(value, float)]
    print(text_table(["", ""], rows, left=(0, 1)))


def _tag(options: argparse.Namespace) -> None:
    record = exact_or_latest_run(options.run)
    tags = [tag for tag in dict.fromkeys([*record.tags, *options.tags]) if tag not in options.remove]
    unknown = [tag for tag in options.remove if tag not in record.tags]
    if unknown:
        raise UserError(
            f"{record.path} has no tag {', '.join(unknown)}; it has {' '.join(record.tags) or 'none'}"
        )
    (record.path / TAGS).write_text(json.dumps(tags) + "\n")
    print(f"{record.path}: {' '.join(tags) or 'no tags'}")


def _delete(options: argparse.Namespace) -> None:
    runs = [exact_run(path) for path in options.runs]
    rows = [[str(run.path), _status(run), _readable(size_of(run.path))] for run in runs]
    print(text_table(["run", "status", "size"], rows, left=(0, 1)))
    _confirm(f"delete {_count(len(runs), 'run')} for good?", options.yes)
    for record in runs:
        delete(record)
    print(f"deleted {_count(len(runs), 'run')}")


def _disk(options: argparse.Namespace) -> None:
    usage = disk_usage(options.folders)
    usage["all"] = [sum(column) for column in zip(*usage.values(), strict=True)]
    rows = [[name, str(runs), *map(_readable, sizes)] for name, (runs, *sizes) in usage.items()]
    print(text_table(["experiment", "runs", *PARTS, "other", "all"], rows))


def _prune(options: argparse.Namespace) -> None:
    old = superseded_checkpoints(options.folders, options.days)
    if not old:
        print(f"no checkpoint but the best ones is older than {options.days:g} days")
        return
    print(text_table(["checkpoint", "size"], [[str(file), _readable(file.stat().st_size)] for file in old]))
    print("Runs that lose their last checkpoint can be tested and used, but not trained further.")
    total = _readable(sum(file.stat().st_size for file in old))
    _confirm(f"delete {_count(len(old), 'checkpoint')}, {total}?", options.yes)
    for file in old:
        file.unlink()
    print(f"deleted {_count(len(old), 'checkpoint')}, {total}")


def _status(record: Record) -> str:
    return "running?" if is_busy(record) else record.status


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is there to ask; --yes does it without asking")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was deleted")


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"
