"""The answer of an ablation: which choice made the difference, and is the difference real?"""

from collections.abc import Sequence
from pathlib import Path

from lightning_seg.analysis import tables
from lightning_seg.analysis.blocks import Block
from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.report.report import Heading, write_report
from lightning_seg.analysis.tables import Comparison
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import TEST_SETS
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
    unscored = [(name, slot) for slot, run in done.items() for name in slot.unscored(run)]
    for test_set in sorted({name for name, _ in unscored}):
        lacking = [slot for name, slot in unscored if name == test_set]
        failed = [slot for slot in lacking if slot.failure]
        why = (
            f"--retry tries again; {failed[0].log} says why not" if failed else "which the same command does"
        )
        comparison.remarks.append(
            f"no answer for test set {test_set}: {len(lacking)} of {len(runs)} runs were not scored on it, {why}:"
            f" {', '.join(str(done[slot].path) for slot in lacking)}"
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
    wanted = {name for slot in done for name in slot.config.get("test_sets") or {}}
    for test_set in sorted(wanted - {name for name, _ in unscored}):
        tested = [run.path / TEST_SETS / test_set for run in runs]
        try:
            further = compare(tested, "experiment", baseline, block=ablation.block)
        except UserError as error:
            print(f"\nno answer for test set {test_set}: {error}")
            continue
        print(f"\ntest set {test_set}\n{tables.text(further)}")
        base = write(further, planned[0].folder / f"{name}-{test_set}", heading(ablation))
        print(f"written to {base}.md, .csv, .tex and .html")
    return comparison


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
        base.with_name(base.name + ending).write_text(text, encoding="utf-8")
    write_report(comparison, base.with_name(f"{base.name}.html"), heading)
    return base
