"""A comparison as a table: for a terminal, as Markdown, LaTeX and CSV."""

import io
import re
from collections.abc import Sequence
from csv import DictWriter
from dataclasses import dataclass

import numpy as np

from lightning_seg.analysis.section import Section
from lightning_seg.analysis.settings import MISSING, described, short_names
from lightning_seg.errors import UserError
from lightning_seg.plotting.tables import text_table
from lightning_seg.runs.directory import JsonObject
from lightning_seg.runs.records import Record

EXPLANATION = (
    "Scores in %: one confusion matrix over all test images, then the mean over classes; mean over runs. A score's"
    " interval of 95 % covers other test images and, where any group has several runs, other seeds. Intervals of"
    " differences are wider: all of them together hold with 95 %, and groups share a rank unless one is distinguishably"
    " better by these same intervals. Where every group has one run there is no verdict: its intervals cover other test"
    " images, and another seed may change them. Test images count as independent of each other, unless the data set"
    " knows groups, as of a patient, or says that neighbors look alike, as frames of a video do, or --block N does."
    " Classes that differ with certainty are named, corrected for all classes and comparisons together."
    " Minutes are those of training alone."
)
_NUMBERS = re.compile(r"[-+<\d.,e–()% to]*")
_LEFT = ("experiment", "settings", "")


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; printed, it is the table of ``lightning-seg compare``.

    Attributes:
        sections: One for each protocol, that with most runs first.
        records: All runs, also those that are in no section.
        remarks: What was left out, and why.
    """

    sections: list[Section]
    records: list[Record]
    remarks: list[str]

    def __str__(self) -> str:
        """Lay it out for a terminal or a notebook."""
        return "\n".join([text(self), *shortened(self.remarks)]).rstrip()


def text(comparison: Comparison, sort: str | None = None) -> str:
    """Lay a comparison out for a terminal."""
    blocks = []
    for section in comparison.sections:
        rows = ordered(section, sort)
        lines = [section.title, _rich(_columns(section, rows, " to ")).rstrip()]
        if section.settings and len(rows) > 1:
            lines += ["", _rich(_settings(section, rows)).rstrip()]
        shown = [i for i in section.differences if i in section.shown]
        sentences = [
            "\n  ".join(filter(None, [section.sentence(i), section.class_sentence(i)])) for i in shown
        ]
        lines += ["", *filter(None, [section.summary]), *sentences[:10]]
        if len(sentences) > 10:
            lines.append(f"({len(sentences) - 10} more in the table)")
        blocks.append("\n".join([*lines, *filter(None, [section.remark])]).rstrip())
    return "\n\n".join(blocks) + "\n"


def markdown(comparison: Comparison, sort: str | None = None) -> str:
    """Write a comparison as Markdown."""
    blocks = []
    for section in comparison.sections:
        rows = ordered(section, sort)
        lines = [f"### {section.title}", "", *_markdown(_columns(section, rows, "–"))]
        if section.settings and len(rows) > 1:
            lines += ["", *_markdown(_settings(section, rows))]
        shown = [i for i in section.differences if i in section.shown]
        lines += ["", *filter(None, [section.summary]), ""]
        lines += [f"- {section.sentence(i)}. {section.class_sentence(i)}".rstrip() for i in shown]
        lines += ["", section.remark] if section.remark else []
        blocks.append("\n".join([*lines, *_classes(section, shown)]))
    return "\n\n".join([*blocks, EXPLANATION]) + "\n"


def latex(comparison: Comparison, sort: str | None = None) -> str:
    r"""Write a comparison as LaTeX floats with captions; they need ``\usepackage{booktabs}``."""
    blocks = []
    for k, section in enumerate(comparison.sections):
        rows = ordered(section, sort)
        ranked = section.ranks[0] is not None
        settings = section.settings if len(rows) > 1 else []
        columns = ["r"] * ranked + ["l"] + ["l"] * len(settings) + ["r", "c", "c", "r"]
        head = ["Rank"] * ranked + ["Experiment", *map(_latex, short_names(settings))]
        head += ["Seeds", _latex(section.measure.title), "Difference", "Minutes"]
        lines = [
            f"% {section.title}",
            r"\begin{table}",
            r"\centering",
            r"\caption{" + _latex(_caption(section)) + "}",
        ]
        lines += [
            rf"\label{{tab:comparison{k + 1}}}",
            r"\begin{tabular}{" + "".join(columns) + "}",
            r"\toprule",
        ]
        lines += [" & ".join(head) + r" \\", r"\midrule"]
        for row in rows:
            std = row["std"]
            score = f"${row['score']:.1f} \\pm {std:.1f}$" if np.isfinite(std) else f"${row['score']:.1f}$"
            difference = _difference(row).replace("–", "--")
            best = r"\textbf{%s}" if ranked and row["rank"] == 1 and section.contenders == [0] else "%s"
            cells = [str(row["rank"])] * ranked + [best % _latex(row["experiment"])]
            cells += [_latex(row["settings"][key]) for key in settings]
            cells += [
                str(row["seeds"]),
                score,
                difference or "--",
                _number(row["train_minutes"]).replace("–", "--"),
            ]
            lines.append(" & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        lines += [f"% {section.summary}"] * bool(section.summary)
        lines += [
            f"% {section.sentence(i)}. {section.class_sentence(i)}".rstrip() for i in section.differences
        ]
        blocks.append("\n".join([*lines, *filter(None, [section.remark and f"% {section.remark}"])]))
    return "\n\n".join([*blocks, f"% {EXPLANATION}"]) + "\n"


def csv(comparison: Comparison, sort: str | None = None) -> str:
    """Write a comparison as CSV: one row a group, then one a run, all sections in one table.

    Settings are columns such as ``setting/lr``, classes ``class/<class>``; ``level`` says what a row is.
    """
    rows = []
    for section in comparison.sections:
        names = dict(zip(section.settings, short_names(section.settings), strict=True))
        by_name = {group.name: group for group in section.groups}
        for row in ordered(section, sort):
            classes = {f"class/{name}": value for name, value in row.pop("classes").items()}
            classes |= {f"difference/{name}": value for name, value in row.pop("class_difference").items()}
            settings = {f"setting/{names[key]}": value for key, value in row.pop("settings").items()}
            common = {"protocol": section.title, "metric": section.measure.name, "level": "group"}
            also = {"also_differ_in": ", ".join(short_names(by_name[row["experiment"]].mixed))}
            rows.append(common | {"run": "", "seed": ""} | row | also | settings | classes)
            for record in by_name[row["experiment"]].records:
                one: JsonObject = common | {"level": "run", "run": str(record.path), "seed": record.seed}
                one |= {
                    "experiment": row["experiment"],
                    "score": section.measure.scale * section.measure.value(record),
                }
                one |= {"train_minutes": record.training[2] / 60, "train_steps": record.training[1]}
                own = described(record)
                settings = {f"setting/{name}": own.get(key, MISSING) for key, name in names.items()}
                rows.append(one | {"images_per_second": record.training_speed} | settings)
    rows.sort(key=lambda row: row["level"] == "run")
    columns = dict.fromkeys(key for row in rows for key in row)
    file = io.StringIO()
    writer = DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if v is None or v != v else v for k, v in row.items()} for row in rows
    )  # NaN is not equal to itself
    return file.getvalue()


def ordered(section: Section, sort: str | None) -> list[JsonObject]:
    """Return the rows that are shown, in the order of a column.

    Args:
        section: Whose rows.
        sort: A column or a setting by its short name, ``-`` before it for the reverse; the score, best first, unless
            given.

    Raises:
        UserError: There is no such column.
    """
    every = section.rows()
    rows = [every[i] for i in section.shown]
    if sort is None:
        return rows
    name, down = sort.removeprefix("-"), sort.startswith("-")
    settings = dict(zip(short_names(section.settings), section.settings, strict=True))
    columns = {
        "name": "experiment",
        section.measure.name: "score",
        "minutes": "train_minutes",
        "speed": "images_per_second",
    }
    name = columns.get(name, name)
    if name not in settings and (name not in rows[0] or isinstance(rows[0][name], dict)):
        known = [key for key, value in rows[0].items() if not isinstance(value, dict)]
        raise UserError(
            f"--sort {sort}: there is no such column; choose one of {', '.join([*settings, *known])}"
        )

    def key(row: JsonObject) -> tuple[bool, float, str]:
        value = row["settings"][settings[name]] if name in settings else row[name]
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False, 0.0, str(value)
        return (True, float("inf"), "") if number != number else (False, -number if down else number, "")

    return sorted(rows, key=key, reverse=down and isinstance(rows[0].get(name), str))


def shortened(remarks: Sequence[str], most: int = 8) -> list[str]:
    """Keep the first of many remarks."""
    return [*remarks[:most], *([f"and {len(remarks) - most} more remarks"] if len(remarks) > most else [])]


def _columns(section: Section, rows: Sequence[JsonObject], to: str) -> dict[str, list[str]]:
    """Lay out the scores by column; columns without content are left out."""
    covers = rows[0]["interval_covers"]
    columns = {
        "rank": ["" if row["rank"] is None else str(row["rank"]) for row in rows],
        "experiment": [row["experiment"] for row in rows],
        "seeds": [str(row["seeds"]) for row in rows],
        "runs": [str(row["runs"]) for row in rows],
        section.measure.title: [_number(row["score"]) for row in rows],
        f"95 % over {covers}": [_interval(row["low"], row["high"], to) for row in rows],
        "std": [_number(row["std"]) for row in rows],
        "difference": [_difference(row) for row in rows],
        "p": [_p(row["p"]) for row in rows],
        "": [row["verdict"] for row in rows],
        "min": [_number(row["train_minutes"]) for row in rows],
        "images/s": [_number(row["images_per_second"]) for row in rows],
    }
    if columns["runs"] == columns["seeds"]:
        del columns["runs"]
    return {name: cells for name, cells in columns.items() if any(c not in ("", "–") for c in cells)}


def _settings(section: Section, rows: Sequence[JsonObject]) -> dict[str, list[str]]:
    """Lay out the settings in which groups differ, the most important first."""
    columns = {"experiment": [row["experiment"] for row in rows]}
    for key, name in zip(section.settings, short_names(section.settings), strict=True):
        columns[name] = [row["settings"][key] for row in rows]
    return columns


def _rich(columns: dict[str, list[str]]) -> str:
    left = [i for i, cells in enumerate(columns.values()) if not all(_NUMBERS.fullmatch(c) for c in cells)]
    return text_table(list(columns), list(zip(*columns.values(), strict=True)), left)


def _markdown(columns: dict[str, list[str]]) -> list[str]:
    rule = [":--" if name in _LEFT else "--:" for name in columns]
    lines = [f"| {' | '.join(map(_escaped, columns))} |", f"|{'|'.join(rule)}|"]
    return lines + [f"| {' | '.join(map(_escaped, row))} |" for row in zip(*columns.values(), strict=True)]


def _classes(section: Section, others: Sequence[int]) -> list[str]:
    """Lay out how the score of each class differs from the reference, as Markdown; certain differences are bold."""
    if not others or section.sample.value.shape[1] < 2:
        return []
    names = [_escaped(section.groups[i].name) for i in (section.reference, *others)]
    lines = [
        "",
        f"{section.measure.title} of {names[0]} by class, and what the others differ by; bold is certain.",
        "",
    ]
    lines += [f"| class | {' | '.join(names)} |", "|:--|" + "--:|" * len(names)]
    found = [section.class_difference(i) for i in others]
    for c, name in enumerate(section.protocol.get("classes", ())):
        cells = [_number(100 * section.sample.value[section.reference, 1 + c])]
        for difference, _, certain in found:
            value = 100 * difference.value[c]
            text = "–" if np.isnan(value) else f"{value:+.1f}"
            cells.append(f"**{text}**" if certain[c] else text)
        lines.append(f"| {_escaped(name)} | {' | '.join(cells)} |")
    return lines


def _caption(section: Section) -> str:
    many = f", corrected for {section.comparisons} comparisons" * (section.comparisons > 1)
    reference = section.groups[section.reference].name
    mixed = [
        f"runs of {group.name} also differ in {', '.join(short_names(group.mixed))}"
        for group in section.groups
        if group.mixed
    ]
    runs = "runs" if mixed else "seeds"
    seeds = f"mean ± standard deviation over {runs}" if (section.sample.seeds > 1).any() else "one seed each"
    covers = section.rows()[0]["interval_covers"]
    interval = f"95 % interval over {covers}" + " alone" * (covers == "images")
    what = f"; differences from {reference} with {interval}{many}" * (len(section.groups) > 1)
    test = section.title.partition(", ")[0]
    return "; ".join([f"{section.measure.label} on {test}: {seeds}{what}", *mixed]) + "."


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _interval(low: float, high: float, to: str = "–") -> str:
    return "" if np.isnan(low) else f"{low:.1f}{to}{high:.1f}"


def _p(value: float) -> str:
    return "" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _difference(row: JsonObject) -> str:
    if np.isnan(row["difference"]):
        return ""
    ends = row["difference_low"], row["difference_high"]
    return f"{row['difference']:+.1f}" + ("" if np.isnan(ends[0]) else f" ({ends[0]:+.1f} to {ends[1]:+.1f})")


def _escaped(name: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", name)


def _latex(name: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in name)
