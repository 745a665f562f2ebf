"""The answer of an ablation: which choice made the difference, and is the difference real?"""

from collections.abc import Sequence
from pathlib import Path

from lightning_seg.analysis import tables
from lightning_seg.analysis.blocks import Block
from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.report.report import Heading, write_report
from lightning_seg.analysis.tables import Comparison
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import TEST_SCORES, TEST_SETS
from lightning_seg.runs.records import Record
from lightning_seg.studies.plan import Ablation
from lightning_seg.studies.slots import Slot


def answer(
    ablation: Ablation, planned: Sequence[Slot], name: str = "answer", blocks: Sequence[Block] = ()
) -> Comparison:
    """Compare the runs that are done, print what was found and write it into the ablation's folder.

    Args:
        ablation: The ablation.
        planned: All its runs.
        name: Of the files, without ending.
        blocks: What else there is to say, such as how settings were chosen.

    Returns:
        What was found.

    Raises:
        UserError: There is nothing to compare, or the protocols of tests differ.
    """
    done = {slot: run for slot in planned if (run := slot.run()) and run.test}
    if not done:
        raise UserError("no run is done, so there is nothing to compare")
    baseline = ablation.baseline if any(slot.variant == ablation.baseline for slot in done) else None
    runs = [*done.values()]
    comparison = compare([run.path for run in runs], "experiment", baseline, block=ablation.block)
    if missing := len(planned) - len(done):
        comparison.remarks.append(f"{missing} of {len(planned)} runs are not done: the result is preliminary")
    if ablation.grids:
        comparison.remarks.append(
            f"the points of a grid ({', '.join(ablation.grids)}) are ranked on the test images, and the best of many is"
            " flattered by that: 'tune' chooses among settings by validation scores"
        )
    unscored = [(name, run) for slot, run in done.items() for name in slot.unscored(run)]
    for test_set in sorted({name for name, _ in unscored}):
        lacking = [str(run.path) for name, run in unscored if name == test_set]
        comparison.remarks.append(
            f"no answer for test set {test_set}: {len(lacking)} of {len(runs)} runs were not scored on it, which the"
            f" same command does: {', '.join(lacking)}"
        )
    print(f"\n{tables.text(comparison)}", end="" if blocks else "\n")
    for block in blocks:
        print(block.text(), end="")
    remarks = tables.shortened(comparison.remarks)
    print("".join(f"{remark}\n" for remark in remarks), end="")
    noted = (
        [Block("Remarks", [f"{remark[:1].upper()}{remark[1:]}." for remark in remarks])] if remarks else []
    )
    base = write(comparison, planned[0].folder / name, heading(ablation, [*blocks, *noted]))
    print(f"written to {base}.md, .csv, .tex and .html")
    for test_set in sorted(set.intersection(*map(_test_sets, runs)) - {name for name, _ in unscored}):
        further = compare(
            [run.path / TEST_SETS / test_set for run in runs], "experiment", baseline, block=ablation.block
        )
        print(f"\ntest set {test_set}\n{tables.text(further)}")
        base = write(further, planned[0].folder / f"{name}-{test_set}", heading(ablation))
        print(f"written to {base}.md, .csv, .tex and .html")
    return comparison


def _test_sets(run: Record) -> set[str]:
    """Name the further test sets that a run was scored on."""
    return {file.parent.name for file in run.path.glob(f"{TEST_SETS}/*/{TEST_SCORES}")}


def heading(ablation: Ablation, blocks: Sequence[Block] = ()) -> Heading:
    """Say what an ablation asks, and what each variant changes that not all of them do."""
    shared = set.intersection(*map(set, ablation.variants.values()))
    own = {
        name: [setting.removeprefix("--") for setting in settings if setting not in shared]
        for name, settings in ablation.variants.items()
    }
    return Heading(ablation.question, own, blocks)


def write(comparison: Comparison, base: Path, heading: Heading) -> Path:
    """Write a comparison as Markdown, CSV, LaTeX and HTML, and return the path.

    Args:
        comparison: What was found.
        base: Path of the files without ending.
        heading: What the HTML page and the Markdown begin with.
    """
    for ending, layout in ((".md", tables.markdown), (".csv", tables.csv), (".tex", tables.latex)):
        text = layout(comparison)
        if ending == ".md":
            further = [block.markdown(base) for block in heading.blocks]
            text = "\n".join([*[f"{heading.question}\n"] * bool(heading.question), text, *further])
        base.with_suffix(ending).write_text(text, encoding="utf-8")
    write_report(comparison, base.with_suffix(".html"), heading)
    return base
