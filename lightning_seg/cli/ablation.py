"""``lightning-seg ablation``: make the missing runs of an ablation, then say which variant is better."""

import argparse
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_seg.cli.arguments import Arguments, at_least, folder
from lightning_seg.errors import ExitCode, UserError
from lightning_seg.plotting.tables import text_table
from lightning_seg.studies import launch, slurm_jobs
from lightning_seg.studies.ablation import answer
from lightning_seg.studies.axes import cells, write_together
from lightning_seg.studies.plan import Ablation, as_long, load
from lightning_seg.studies.slots import Slot, State
from lightning_seg.studies.study import Study
from lightning_seg.studies.tuning_report import tuning_blocks

_MARKS: dict[State, str] = {
    "done": "done",
    "running": "running",
    "half done": "half done",
    "failed": "FAILED",
    "missing": "–",
    "given up": "given up",
}
_WAIT = 2.0  # seconds between two looks at runs that another runner makes


def main(arguments: list[str]) -> int:
    """Run the command."""
    options, settings = _parser().parse_with_settings(arguments)
    ablation = _chosen(load(options.name), options)
    studies = [Study(cell, options.runs, settings) for cell in _checked(ablation)]
    again: set[Path] = set()  # logs of failed runs that were tried again
    left = _left(studies, options.retry, again)
    print(_plans(studies, left, options.jobs), flush=True)
    if options.plan:
        return ExitCode.DONE
    for slot in (slot for study in studies for slot in study.tuning_slots()):
        if reason := slot.unusable():
            raise UserError(reason)
    waiting = any(study.waiting() for study in studies)
    if options.launcher == "slurm" and (left or waiting):
        return _submit(studies, left, options.jobs, arguments)
    while left or waiting:
        if left:
            launch.run_here(left, options.jobs, lambda line: print(line, flush=True))
            again |= {slot.log for slot in left if slot.state() == "failed"}
        else:  # another runner makes those that the choice waits for
            time.sleep(_WAIT)
        if left := _left(studies, options.retry, again):
            print(_plans(studies, left, options.jobs), flush=True)
        waiting = any(study.waiting() for study in studies)
    name, planned = "answer", {study: study.slots() for study in studies}
    if options.equal == "time":
        longer = [
            Study(as_long(study.as_chosen(), slots, settings), options.runs)
            for study, slots in planned.items()
        ]
        left = _left(longer, options.retry, again)
        if left and options.launcher == "slurm":
            return _submit(longer, left, options.jobs, arguments, "squeue")
        if left:
            launch.run_here(left, options.jobs, lambda line: print(line, flush=True))
        name = "answer-equal-time"
        planned = {study: one.slots() for study, one in zip(studies, longer, strict=True)}
    found, unanswered = [], []
    for study, slots in planned.items():
        try:
            found.append((study.ablation, answer(study.ablation, slots, name, tuning_blocks(study, slots))))
        except UserError as error:
            reasons = "\n".join([str(error), *study.untunable().values()])
            unanswered.append(f"{study.ablation.name}: {reasons}" if len(planned) > 1 else reasons)
    if not found:
        raise UserError("\n".join(unanswered))
    print("".join(f"no answer for {text}\n" for text in unanswered), end="")
    if len(found) > 1:
        base = options.runs / ablation.name / name
        print("".join(block.text() for block in write_together(found, base, ablation.question)))
        print(f"written to {base}.md")
    every = [slot for study, slots in planned.items() for slot in [*study.tuning_slots(), *slots]]
    failed = any(slot.state() == "failed" for slot in every) or any(study.untunable() for study in studies)
    return ExitCode.FINDINGS if failed else ExitCode.DONE


def _checked(ablation: Ablation) -> list[Ablation]:
    found = cells(ablation)
    many = f" in {len(found)} cells" if len(found) > 1 else ""
    print(f"checking the settings of {_variants(ablation)}{many} ...", flush=True)
    return found


def _variants(ablation: Ablation) -> str:
    return f"{len(ablation.variants)} variant{'s' * (len(ablation.variants) != 1)}"


def _left(studies: Sequence[Study], retry: bool, again: Collection[Path]) -> list[Slot]:
    """List the runs that can be made now: those that choose settings, else those that are reported."""
    wanted: tuple[State, ...] = ("missing", "half done", *(("failed",) if retry else ()))
    for phase in (Study.tuning_slots, Study.slots):
        slots: list[Slot] = [slot for study in studies for slot in phase(study)]
        if left := [slot for slot in slots if slot.state() in wanted and slot.log not in again]:
            return left
    return []


def _submit(
    studies: Sequence[Study],
    left: Sequence[Slot],
    jobs: int,
    arguments: Sequence[str],
    shows: str = "with --plan in place of --launcher the command",
) -> ExitCode:
    """Submit the runs that can be made now, and, if others wait for them, a job that submits those."""
    ids = slurm_jobs.submit(left, jobs, lambda line: print(line, flush=True)) if left else []
    reported = [slot for study in studies for slot in [*study.waiting(), *study.slots()]]
    waiting = [slot for slot in reported if slot not in left and slot.state() in ("missing", "half done")]
    if ids and waiting:
        further = ["ablation", *(argument for argument in arguments if argument != "--retry")]
        after = slurm_jobs.submit_after(waiting[0].config, left[0].folder, ids, further)
        print(f"SLURM job {after} looks at them when they are done, and submits the runs that wait for them.")
    print(f"{shows} shows how far they are; without either, when all are done, the command gives the answer.")
    return ExitCode.DONE


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
        "--runs",
        metavar="FOLDER",
        type=folder,
        default=Path("runs"),
        help="folder of all runs (default: runs)",
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
    tune = {name: tuning for name, tuning in ablation.tune.items() if name in variants}
    grids = tuple(name for name in ablation.grids if name in variants)
    if options.seeds:
        texts = options.seeds.split(",")
        if not all(text.isdigit() for text in texts):
            raise UserError(f"--seeds expects numbers such as 0,1,2, got {options.seeds!r}")
        seeds = tuple(map(int, texts))
        if shared := sorted({*seeds} & {seed for tuning in tune.values() for seed in tuning.seeds}):
            raise UserError(
                f"--seeds: {shared[0]} chooses settings, so it cannot be reported; take other seeds"
            )
    return replace(ablation, variants=variants, seeds=seeds, tune=tune, grids=grids)


def _plans(studies: Sequence[Study], left: Sequence[Slot], jobs: int) -> str:
    """Show how far each run is, what is to be done, and for how long."""
    waiting = [slot for study in studies for slot in study.waiting()]
    lines = [_plan(study, left) for study in studies]
    if not left and not waiting:
        return "\n".join([*lines, "nothing to run"])
    every = [slot for study in studies for slot in [*study.tuning_slots(), *study.slots()]]
    seconds = launch.time_left([*every, *waiting], [*left, *waiting], jobs)
    how_long = "how long is known after the first" if seconds is None else f"about {launch.duration(seconds)}"
    later = f", {len(waiting)} when their settings are chosen" if waiting else ""
    return "\n".join([*lines, f"{len(left)} to run{later}, {jobs} at a time: {how_long}"])


def _plan(study: Study, left: Sequence[Slot]) -> str:
    """Show how far each run is."""
    ablation, chosen = study.ablation, study.chosen()
    tuning, waiting = study.tuning_slots(), study.waiting()
    states = {slot: slot.state() for slot in [*tuning, *study.slots()]}
    grid = {(slot.variant, slot.seed): _MARKS[state] for slot, state in states.items()}
    grid |= {(slot.variant, slot.seed): "waits" for slot in waiting}
    header = ["variant", *(["tuning", "chosen"] if tuning else []), *(f"seed {n}" for n in ablation.seeds)]
    rows = []
    for name in ablation.variants:
        own = [states[slot] for slot in tuning if slot.variant == name]
        done = sum(state not in ("missing", "half done", "running") for state in own)
        found = chosen[name].best.label.replace("-", " ") if name in chosen else ""
        cells = [f"{done} of {len(own)}" if own else "not tuned", found] if tuning else []
        rows.append([name, *cells, *(grid.get((name, seed), "–") for seed in ablation.seeds)])
    number = len(ablation.variants) * len(ablation.seeds)
    size = f"{_variants(ablation)} x {len(ablation.seeds)} seed(s) = {number} runs"
    first = f"{len(tuning)} runs choose settings, then " if tuning else ""
    lines = [f"{ablation.name}: {first}{size} of {ablation.experiment}"]
    lines.append(text_table(header, rows, left=range(len(header))))
    lines += study.untunable().values()
    for slot, state in states.items():
        if state == "failed":
            again = "" if slot in left else "; --retry tries again"
            lines.append(f"{slot.name} failed: {slot.failure} ({slot.log}{again})")
    for slot in states:
        if (made := slot.records()) and slot.run() is None:
            differing = slot.differences(made[-1])
            names = ", ".join(differing[:3]) + f" and {len(differing) - 3} more" * (len(differing) > 3)
            lines.append(f"{slot.name}: {made[-1].path} does not count here, it differs in {names}")
    return "\n".join(lines)
