"""``lightning-seg runs``: list, show, tag and delete runs, and keep the disk from filling up."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import BEST_CHECKPOINT, CONFIG, METRICS, existing_run
from lightning_seg.runs.records import RUN_ID, TAGS, Record, find, read

_BUSY = 600  # seconds since its last line for which an untested run may still be running


def main(arguments: list[str]) -> None:
    """Run the command ``runs``."""
    parser = Arguments(prog="lightning-seg runs", description="Look after run directories.")
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, function, text: str, folders: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        if folders:
            added.add_argument("folders", nargs="*", type=Path, default=[Path("runs")], metavar="FOLDER")
        return added

    listing = command("list", _list, "list runs: status, score, size, tags", folders=True)
    listing.add_argument("--tag", help="only runs with this tag")
    showing = command("show", _show, "show what a run is and scored")
    showing.add_argument("run", type=Path)
    tagging = command("tag", _tag, "add tags to a run, or take them away")
    tagging.add_argument("run", type=Path)
    tagging.add_argument("tags", nargs="*", help="tags to add")
    tagging.add_argument("--remove", nargs="+", default=[], metavar="TAG", help="tags to take away")
    deleting = command("delete", _delete, "delete runs for good, after asking")
    deleting.add_argument("runs", nargs="+", type=Path)
    command("disk", _disk, "show what takes how much disk space", folders=True)
    pruning = command(
        "prune", _prune, "delete all but the best checkpoint of tested runs, after asking", folders=True
    )
    pruning.add_argument("--days", type=float, default=7, help="keep what is younger than this (default: 7)")
    for asking in (deleting, pruning):
        asking.add_argument("--yes", action="store_true", help="do not ask")
    chosen = parser.parse_args(arguments or ["list"])
    chosen.function(chosen)


def _list(chosen: argparse.Namespace) -> None:
    rows = [("run", "status", "mIoU %", "seed", "started", "size", "tags")]
    for path in find(chosen.folders):
        record = read(path)
        if chosen.tag is None or chosen.tag in record.tags:
            score = f"{100 * record.score('miou'):.1f}" if record.test else ""
            seed = "" if record.seed is None else str(record.seed)
            status = "running?" if _busy(record) else record.status
            size = _readable(_size(path))
            rows.append((str(path), status, score, seed, record.time, size, " ".join(record.tags)))
    _print(rows, right=(2, 3, 5))


def _show(chosen: argparse.Namespace) -> None:
    record = read(existing_run(chosen.run))
    environment = record.environment
    status = "running?" if _busy(record) else record.status
    print(f"run         {record.path}")
    print(f"status      {status}" + f" ({record.problem})" * bool(record.problem))
    print(f"started     {record.time or 'unknown'}, seed {record.seed}")
    print(f"command     lightning-seg {' '.join(map(str, environment.get('command') or []))}")
    dirty = " with uncommitted changes" * bool(environment.get("uncommitted_changes"))
    print(f"commit      {str(environment.get('commit'))[:12]}{dirty}")
    print(f"device      {', '.join(environment.get('devices') or ['unknown'])}")
    print(f"tags        {' '.join(record.tags) or 'none'}")
    checkpoints = _readable(_size(record.path / "checkpoints"))
    print(f"size        {_readable(_size(record.path))}, {checkpoints} in checkpoints")
    for name, points in record.curves().items():
        if name in ("train/loss", "val/loss", "val/miou", "val/mask_ap"):
            print(f"{name:<11} {points[-1, 2]:.4f} at step {points[-1, 0]:.0f}")
    if record.test:
        fields = record.test["protocol"]
        print(f"tested      {fields.get('data')} {fields.get('split')}, {fields.get('images')} images")
        means = {n: v for n, v in record.test["scores"].items() if isinstance(v, float)}
        print("\n".join(f"  {name:<18} {value:.4f}" for name, value in means.items()))


def _tag(chosen: argparse.Namespace) -> None:
    record = _run(chosen.run)
    tags = [tag for tag in dict.fromkeys([*record.tags, *chosen.tags]) if tag not in chosen.remove]
    unknown = [tag for tag in chosen.remove if tag not in record.tags]
    if unknown:
        raise UserError(
            f"{record.path} has no tag {', '.join(unknown)}; it has {' '.join(record.tags) or 'none'}"
        )
    (record.path / TAGS).write_text(json.dumps(tags) + "\n")
    print(f"{record.path}: {' '.join(tags) or 'no tags'}")


def _delete(chosen: argparse.Namespace) -> None:
    runs = [_run(path) for path in chosen.runs]
    rows = [(str(r.path), "running?" if _busy(r) else r.status, _readable(_size(r.path))) for r in runs]
    _print(rows, right=(2,))
    _confirm(f"delete {_count(len(runs), 'run')} for good?", chosen.yes)
    for record in runs:
        shutil.rmtree(record.path)
        if not any(record.path.parent.iterdir()):
            record.path.parent.rmdir()
    print(f"deleted {_count(len(runs), 'run')}")


def _disk(chosen: argparse.Namespace) -> None:
    parts = ("checkpoints", "pictures", "wandb")
    by_experiment: dict[str, list[int]] = {}
    for path in find(chosen.folders):
        sizes = [_size(path / part) for part in parts]
        total = _size(path)
        sums = by_experiment.setdefault(str(path.parent), [0] * (len(parts) + 3))
        for i, value in enumerate((1, *sizes, total - sum(sizes), total)):
            sums[i] += value
    ordered = sorted(by_experiment.items(), key=lambda item: -item[1][-1])
    everything = [sum(column) for column in zip(*(sums for _, sums in ordered), strict=True)]
    rows: list[Sequence[str]] = [("experiment", "runs", *parts, "other", "all")]
    rows += [(name, str(n), *map(_readable, sizes)) for name, (n, *sizes) in [*ordered, ("all", everything)]]
    _print(rows, right=range(1, 7))


def _prune(chosen: argparse.Namespace) -> None:
    old: list[Path] = []
    for path in find(chosen.folders):
        record = read(path)
        # Without the best one the others are all there is; without a test the run may still go on.
        best = path / BEST_CHECKPOINT
        if record.status == "tested" and best.is_file():
            others = (f for f in best.parent.iterdir() if f.is_file() and f != best)
            old += [f for f in others if time.time() - f.stat().st_mtime > chosen.days * 86400]
    if not old:
        print(f"no checkpoint but the best ones is older than {chosen.days:g} days")
        return
    _print([(str(file), _readable(file.stat().st_size)) for file in old], right=(1,))
    print("Runs that lose their last checkpoint can be tested and used, but not trained on.")
    total = _readable(sum(file.stat().st_size for file in old))
    _confirm(f"delete {_count(len(old), 'checkpoint')}, {total}?", chosen.yes)
    for file in old:
        file.unlink()
    print(f"deleted {_count(len(old), 'checkpoint')}, {total}")


def _run(path: Path) -> Record:
    """Read exactly this run directory: no command here guesses which run was meant."""
    if path.is_symlink() or not path.is_dir():
        raise UserError(
            f"no run directory {path}: expected runs/<experiment>/<id>; 'lightning-seg runs' lists them"
        )
    if not ((path / CONFIG).is_file() or RUN_ID.fullmatch(path.absolute().name)):
        raise UserError(f"{path} is no run directory: it has no {CONFIG}; 'lightning-seg runs' lists them")
    return read(path)


def _busy(record: Record) -> bool:
    try:
        return not record.test and time.time() - (record.path / METRICS).stat().st_mtime < _BUSY
    except OSError:
        return False


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is there to ask; --yes does it without asking")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was deleted")


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def _print(rows: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
