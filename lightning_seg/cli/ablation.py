"""``lightning-seg ablation``: make the missing runs of an ablation, then say which variant is better."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_seg.cli.arguments import Arguments, at_least
from lightning_seg.errors import ExitCode, UserError
from lightning_seg.plotting.tables import text_table
from lightning_seg.studies import launch
from lightning_seg.studies.ablation import answer
from lightning_seg.studies.plan import Ablation, Slot, State, as_long, load, slots

_MARKS: dict[State, str] = {
    "done": "done",
    "running": "running",
    "half done": "half done",
    "failed": "FAILED",
    "missing": "–",
}


def main(arguments: list[str]) -> int:
    """Run the command."""
    options, settings = _parser().parse_with_settings(arguments)
    ablation = _chosen(load(options.name), options)
    print(f"checking the settings of {len(ablation.variants)} variants ...", flush=True)
    planned = slots(ablation, options.runs, settings)
    if options.equal == "time":
        planned = slots(as_long(ablation, planned, settings), options.runs)
    states = {slot: slot.state() for slot in planned}
    wanted = ("missing", "half done", *(["failed"] if options.retry else []))
    left = [slot for slot, state in states.items() if state in wanted]
    print(_plan(ablation, states, left, options.jobs), flush=True)
    if options.plan:
        return ExitCode.DONE
    if left and options.launcher == "slurm":
        ids = launch.submit(left, options.jobs)
        print(
            f"submitted as SLURM jobs {ids[0]} to {ids[-1]}, {options.jobs} at a time. With --plan in place of"
            " --launcher the command shows how far they are; without either, when all are done, it gives the answer."
        )
        return ExitCode.DONE
    if left:
        launch.run_here(left, options.jobs, lambda line: print(line, flush=True))
    answer(ablation, planned, "answer-equal-time" if options.equal == "time" else "answer")
    return ExitCode.FINDINGS if any(slot.state() == "failed" for slot in planned) else ExitCode.DONE


def _parser() -> Arguments:
    parser = Arguments(
        "lightning-seg ablation",
        "Make the runs of experiments/ablations/NAME.yaml that are missing, then say which variant is better and"
        " whether that is certain. Stop and repeat it at will: what is done stays done.",
        "lightning-seg ablation freeze_camvid --plan",
        settings=True,
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="an ablation in experiments/ablations/, or the path of its YAML file")
    add("--plan", action="store_true", help="show the runs and how far they are, and no more")
    add("--jobs", metavar="N", type=at_least(1), default=1, help="runs at a time (default: 1)")
    add("--retry", action="store_true", help="try failed runs again")
    add("--variants", metavar="A,B", help="only these variants")
    add("--seeds", metavar="0,1", help="these seeds instead of those of the YAML")
    add("--launcher", choices=("here", "slurm"), default="here", help="where runs are made")
    add(
        "--runs", metavar="FOLDER", type=Path, default=Path("runs"), help="folder of all runs (default: runs)"
    )
    add(
        "--equal",
        choices=("steps", "time"),
        default="steps",
        help="time: when all runs are done, make runs in which each variant trains as long as the baseline, by"
        " changing its number of epochs or steps",
    )
    return parser


def _chosen(ablation: Ablation, options: argparse.Namespace) -> Ablation:
    """Keep the variants and seeds that were asked for."""
    variants, seeds = dict(ablation.variants), ablation.seeds
    if options.variants:
        names = options.variants.split(",")
        unknown = [name for name in names if name not in variants]
        if unknown:
            raise UserError(f"there is no variant {', '.join(unknown)}; there are {', '.join(variants)}")
        variants = {name: variants[name] for name in names}
    if options.seeds:
        texts = options.seeds.split(",")
        if not all(text.isdigit() for text in texts):
            raise UserError(f"--seeds expects numbers such as 0,1,2, got {options.seeds!r}")
        seeds = tuple(map(int, texts))
    return replace(ablation, variants=variants, seeds=seeds)


def _plan(ablation: Ablation, states: dict[Slot, State], left: Sequence[Slot], jobs: int) -> str:
    """Show how far each run is, what is to be done, and for how long."""
    grid = {(slot.variant, slot.seed): _MARKS[state] for slot, state in states.items()}
    header = ["variant", *(f"seed {seed}" for seed in ablation.seeds)]
    rows = [[name, *(grid[name, seed] for seed in ablation.seeds)] for name in ablation.variants]
    size = f"{len(ablation.variants)} variants x {len(ablation.seeds)} seed(s) = {len(states)} runs"
    lines = [f"{ablation.name}: {size} of {ablation.experiment}"]
    lines.append(text_table(header, rows, left=range(len(header))))
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
