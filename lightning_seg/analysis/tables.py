"""A comparison as a table: for a terminal, as Markdown, LaTeX and CSV."""

import io
import re
from collections.abc import Sequence
from csv import DictWriter
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_seg.plotting.tables import text_table

if TYPE_CHECKING:
    from lightning_seg.analysis.compare import Comparison, Section

EXPLANATION = (
    "mIoU in %: one confusion matrix over all test images, then the mean over classes; mean over runs. Intervals of"
    " 95 % cover other test images and, where there are several runs, other seeds. Experiments share a rank unless"
    " one is distinguishably better (Holm's correction over all pairs). Test images count as independent of each"
    " other unless they are resampled in blocks of neighbours (--block N), as frames of a video should be. Classes that"
    " differ with certainty are named, corrected for all classes and comparisons together. Minutes are those of"
    " training alone."
)


def text(comparison: "Comparison") -> str:
    """Lay a comparison out for a terminal."""
    blocks = []
    for section in comparison.sections:
        header = ["rank", "experiment", "runs", "mIoU %", "95 % interval", "std", "difference", "", "min"]
        header.append("images/s")
        rows = [
            [
                str(row["rank"]),
                row["experiment"],
                str(row["runs"]),
                _percent(row["miou"]),
                _interval(row["low"], row["high"], " to "),
                _percent(row["std"]),
                _plus_minus(row),
                row["verdict"],
                _percent(row["train_minutes"]),
                _percent(row["images_per_second"]),
            ]
            for row in section.rows()
        ]
        lines = [section.title, text_table(header, rows, left=(1, 7))]
        sentences = [f"{section.sentence(i)}\n  {section.class_sentence(i)}" for i in section.differences]
        lines += ["", *sentences[:10]] if sentences else []
        if len(sentences) > 10:
            lines.append(f"({len(sentences) - 10} more in the table)")
        blocks.append("\n".join([*lines, *filter(None, [section.remark])]))
    return "\n\n".join(blocks) + "\n"


def markdown(comparison: "Comparison") -> str:
    """Write a comparison as Markdown."""
    blocks = []
    for section in comparison.sections:
        lines = [
            f"### {section.title}",
            "",
            "| rank | experiment | runs | mIoU % | 95 % interval | std | difference | | minutes | images/s |",
            "|--:|:--|--:|--:|:-:|--:|:-:|:--|--:|--:|",
        ]
        for row in section.rows():
            name = _escaped(row["experiment"])
            cells = (
                str(row["rank"]),
                name,
                str(row["runs"]),
                _percent(row["miou"]),
                _interval(row["low"], row["high"]),
                _percent(row["std"]),
                _plus_minus(row),
                row["verdict"],
                _percent(row["train_minutes"]),
                _percent(row["images_per_second"]),
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {section.sentence(i)}. {section.class_sentence(i)}" for i in section.differences)]
        lines += ["", section.remark] if section.remark else []
        blocks.append("\n".join([*lines, *_classes(section)]))
    return "\n\n".join([*blocks, EXPLANATION]) + "\n"


def _classes(section: "Section") -> list[str]:
    """Lay out how the IoU of each class differs from the reference, as Markdown; certain differences are bold."""
    others = list(section.differences)
    if not others:
        return []
    names = [_escaped(section.groups[i].name) for i in (section.reference, *others)]
    lines = ["", f"IoU % of {names[0]} and what the others differ by; bold is certain.", ""]
    lines += [f"| class | {' | '.join(names)} |", "|:--|" + "--:|" * len(names)]
    for c, name in enumerate(section.protocol.get("classes", ())):
        cells = [_percent(100 * section.sample.value[section.reference, 1 + c])]
        for i in others:
            value = 100 * section.differences[i][0].value[1 + c]
            text = "–" if np.isnan(value) else f"{value:+.1f}"
            cells.append(f"**{text}**" if section.class_differences[i][c] < 0.05 else text)
        lines.append(f"| {_escaped(name)} | {' | '.join(cells)} |")
    return lines


def latex(comparison: "Comparison") -> str:
    """Write a comparison as LaTeX tables (package booktabs), the rest as comments."""
    blocks = []
    for section in comparison.sections:
        lines = [
            f"% {section.title}",
            r"\begin{tabular}{rlrrrr}",
            r"\toprule",
            r"Rank & Experiment & Runs & mIoU (\%) & Difference & Minutes \\",
            r"\midrule",
        ]
        for row in section.rows():
            half = (row["high"] - row["low"]) / 2
            score = f"${row['miou']:.1f} \\pm {half:.1f}$" if np.isfinite(half) else f"${row['miou']:.1f}$"
            difference = _plus_minus(row).replace(" ± ", r" \pm ")
            best = r"\textbf{%s}" if row["rank"] == 1 < section.ranks[-1] else "%s"
            cells = (
                str(row["rank"]),
                best % _latex(row["experiment"]),
                str(row["runs"]),
                score,
                f"${difference}$" if difference else "--",
                _percent(row["train_minutes"]).replace("–", "--"),
            )
            lines.append(" & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [f"% {section.sentence(i)}. {section.class_sentence(i)}" for i in section.differences]
        blocks.append("\n".join([*lines, *filter(None, [section.remark and f"% {section.remark}"])]))
    return "\n\n".join([*blocks, f"% {EXPLANATION}"]) + "\n"


def csv(comparison: "Comparison") -> str:
    """Write a comparison as CSV, all sections in one table; scores in percent, classes as ``iou/<class>``."""
    rows = []
    for section in comparison.sections:
        for row in section.rows():
            classes = {f"iou/{name}": value for name, value in row.pop("iou").items()}
            classes |= {f"difference/{name}": value for name, value in row.pop("iou_difference").items()}
            rows.append({"protocol": section.title, **row, **classes})
    columns = dict.fromkeys(key for row in rows for key in row)
    file = io.StringIO()
    writer = DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if v != v else v for k, v in row.items()} for row in rows
    )  # NaN is not equal to itself
    return file.getvalue()


def shortened(remarks: Sequence[str], most: int = 8) -> list[str]:
    """Keep the first of many remarks."""
    return [*remarks[:most], *([f"and {len(remarks) - most} more remarks"] if len(remarks) > most else [])]


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _interval(low: float, high: float, to: str = "–") -> str:
    return "" if np.isnan(low) else f"{low:.1f}{to}{high:.1f}"


def _plus_minus(row: dict[str, Any]) -> str:
    half = (row["difference_high"] - row["difference_low"]) / 2
    if np.isnan(row["difference"]):
        return ""
    return f"{row['difference']:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")


def _escaped(name: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", name)


def _latex(name: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in name)
