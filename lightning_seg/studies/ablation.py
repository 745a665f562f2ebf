"""The answer of an ablation: which choice made the difference, and is the difference real?"""

from collections.abc import Sequence
from pathlib import Path

from lightning_seg.analysis import tables
from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.report.report import Heading, write_report
from lightning_seg.analysis.tables import Comparison
from lightning_seg.errors import UserError
from lightning_seg.studies.plan import Ablation, Slot


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
    runs = [run for slot in done if (run := slot.run())]
    comparison = compare([run.path for run in runs], "experiment", baseline, block=ablation.block)
    if missing := len(planned) - len(done):
        comparison.remarks.append(f"{missing} of {len(planned)} runs are not done: the result is preliminary")
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
