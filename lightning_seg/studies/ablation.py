"""``lightning-seg ablation``: which choice made the difference, and is the difference real?"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_seg.analysis import tables
from lightning_seg.analysis.compare import Comparison, compare
from lightning_seg.analysis.groups import varied
from lightning_seg.analysis.report.report import Heading, write_report
from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.studies import launch
from lightning_seg.studies.plan import Ablation, Slot, State, as_long, load, slots

_MARKS: dict[State, str] = {
    "done": "done",
    "running": "running",
    "half done": "half done",
    "failed": "FAILED",
    "missing": "–",
}


def main(arguments: list[str]) -> None:
    """Run the command ``ablation``."""
    parser = Arguments(
        prog="lightning-seg ablation",
        usage="lightning-seg ablation NAME [options] [--key=value ...]",
        description="Make the runs of experiments/ablations/NAME.yaml that are missing, then say which variant is"
        " better and whether that is certain. Stop and repeat it at will: what is done stays done.",
        allow_abbrev=False,
    )
    parser.add_argument("name", help="name of an ablation, or path of its YAML file")
    parser.add_argument("--plan", action="store_true", help="show the runs and how far they are, and no more")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--retry", action="store_true", help="try failed runs again")
    parser.add_argument("--variants", metavar="A,B", help="only these variants")
    parser.add_argument("--seeds", metavar="0,1", help="these seeds instead of those of the YAML")
    parser.add_argument("--launcher", choices=("here", "slurm"), default="here", help="where runs are made")
    parser.add_argument(
        "--runs", metavar="FOLDER", type=Path, default=Path("runs"), help="folder of all runs"
    )
    parser.add_argument(
        "--equal",
        choices=("steps", "time"),
        default="steps",
        help="time: when all runs are done, make runs in which each variant trains as long as the baseline, by"
        " changing its number of epochs or steps",
    )
    chosen, settings = parser.parse_known_args(arguments)
    for setting in settings:
        if not (setting.startswith("--") and "=" in setting):
            raise UserError(
                f"{setting!r} is no option of ablation, and no setting, which looks like --key=value"
            )
    if chosen.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {chosen.jobs}")
    ablation = _chosen(load(chosen.name), chosen)
    print(f"checking the settings of {len(ablation.variants)} variants ...", flush=True)
    planned = slots(ablation, chosen.runs, settings)
    if chosen.equal == "time":
        planned = slots(as_long(ablation, planned, settings), chosen.runs)
    states = {slot: slot.state() for slot in planned}
    wanted = ("missing", "half done", *(["failed"] if chosen.retry else []))
    left = [slot for slot, state in states.items() if state in wanted]
    print(_plan(ablation, states, left, chosen.jobs), flush=True)
    if chosen.plan:
        return
    if left and chosen.launcher == "slurm":
        ids = launch.submit(left, chosen.jobs)
        print(
            f"submitted as SLURM jobs {ids[0]} to {ids[-1]}, {chosen.jobs} at a time. With --plan in place of"
            " --launcher the command shows how far they are; without either, when all are done, it gives the answer."
        )
        return
    if left:
        launch.run_here(left, chosen.jobs, lambda line: print(line, flush=True))
    answer(ablation, planned, "answer-equal-time" if chosen.equal == "time" else "answer")


def answer(ablation: Ablation, planned: Sequence[Slot], name: str = "answer") -> None:
    """Compare the runs that are done, print what was found and write it into the ablation's folder.

    Args:
        ablation: The ablation.
        planned: All its runs.
        name: Of the files, without ending.

    Raises:
        UserError: There is nothing to compare, or the protocols of tests differ.
    """
    done = [slot for slot in planned if slot.state() == "done"]
    if not done:
        raise UserError("no run is done, so there is nothing to compare")
    baseline = ablation.baseline if any(slot.variant == ablation.baseline for slot in done) else None
    runs = [(slot.variant, run) for slot in done if (run := slot.run())]
    comparison = compare([run.path for _, run in runs], "experiment", baseline, block=ablation.block)
    for variant in ablation.variants:
        differing = varied([run for name, run in runs if name == variant])
        if differing:  # such as the data or the number of devices, and so the size of a batch
            comparison.remarks.append(f"the runs of {variant} differ in {', '.join(differing)}")
    if missing := len(planned) - len(done):
        comparison.remarks.append(f"{missing} of {len(planned)} runs are not done: this is not the last word")
    print(f"\n{tables.text(comparison)}")
    for remark in tables.shortened(comparison.remarks):
        print(remark)
    base = write(comparison, planned[0].folder / name, heading(ablation))
    print(f"written to {base}.md, .csv, .tex and .html")


def heading(ablation: Ablation) -> Heading:
    """Say what an ablation asks, and what each variant changes that not all of them do."""
    shared = set.intersection(*map(set, ablation.variants.values()))
    own = {
        name: [setting.removeprefix("--") for setting in settings if setting not in shared]
        for name, settings in ablation.variants.items()
    }
    return Heading(ablation.question, own)


def write(comparison: Comparison, base: Path, heading: Heading) -> Path:
    """Write a comparison as Markdown, CSV, LaTeX and HTML, and return the path.

    Args:
        comparison: What was found.
        base: Path of the files without ending.
        heading: What the HTML page and the Markdown begin with.
    """
    for ending, layout in ((".md", tables.markdown), (".csv", tables.csv), (".tex", tables.latex)):
        question = f"{heading.question}\n\n" if ending == ".md" and heading.question else ""
        base.with_suffix(ending).write_text(question + layout(comparison), encoding="utf-8")
    write_report(comparison, base.with_suffix(".html"), heading)
    return base


def _chosen(ablation: Ablation, chosen: argparse.Namespace) -> Ablation:
    """Keep the variants and seeds that were asked for."""
    variants, seeds = dict(ablation.variants), ablation.seeds
    if chosen.variants:
        names = chosen.variants.split(",")
        unknown = [name for name in names if name not in variants]
        if unknown:
            raise UserError(f"there is no variant {', '.join(unknown)}; there are {', '.join(variants)}")
        variants = {name: variants[name] for name in names}
    if chosen.seeds:
        texts = chosen.seeds.split(",")
        if not all(text.isdigit() for text in texts):
            raise UserError(f"--seeds expects numbers such as 0,1,2, got {chosen.seeds!r}")
        seeds = tuple(map(int, texts))
    return replace(ablation, variants=variants, seeds=seeds)


def _plan(ablation: Ablation, states: dict[Slot, State], left: Sequence[Slot], jobs: int) -> str:
    """Show how far each run is, what is to be done, and for how long."""
    grid = {(slot.variant, slot.seed): _MARKS[state] for slot, state in states.items()}
    table = [["variant", *(f"seed {seed}" for seed in ablation.seeds)]]
    table += [[name, *(grid[name, seed] for seed in ablation.seeds)] for name in ablation.variants]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    size = f"{len(ablation.variants)} variants x {len(ablation.seeds)} seed(s) = {len(states)} runs"
    lines = [f"{ablation.name}: {size} of {ablation.experiment}"]
    lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
    for slot, state in states.items():
        if state == "failed":
            again = "" if slot in left else "; --retry tries again"
            lines.append(f"{slot.name} failed: {slot.failure} ({slot.log}{again})")
    for slot in states:
        if (made := slot.records()) and slot.run() is None:
            differing = slot.differences(made[-1])
            names = ", ".join(differing[:3]) + f" and {len(differing) - 3} more" * (len(differing) > 3)
            lines.append(f"{slot.name}: {made[-1].path} does not count here, it differs in {names}")
    if not left:
        return "\n".join([*lines, "nothing to run"])
    seconds = launch.time_left(list(states), left, jobs)
    how_long = "how long is known after the first" if seconds is None else f"about {launch.duration(seconds)}"
    return "\n".join([*lines, f"{len(left)} to run, {jobs} at a time: {how_long}"])
