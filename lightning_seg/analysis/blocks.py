"""What a page and a Markdown file say beside the comparison proper: a title, sentences, a table, a chart."""

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_seg.plotting.charts import svg
from lightning_seg.plotting.tables import text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Block:
    """A part of an answer.

    Attributes:
        title: Above it.
        sentences: Below the table.
        header: Titles of the table's columns.
        rows: The table's cells.
        left: The columns that are aligned to the left.
        figure: A chart.
        name: Of the chart's file, after that of the answer.
        folded: Whether the terminal does without it, because it is long.
    """

    title: str
    sentences: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    left: Collection[int] = (0,)
    figure: "Figure | None" = None
    name: str = "chart"
    folded: bool = False

    def text(self) -> str:
        """Lay it out for a terminal, without the chart."""
        table = [text_table(self.header, self.rows, self.left)] if self.rows else []
        return "" if self.folded else "\n".join(["", self.title, *table, *self.sentences, ""])

    def markdown(self, base: Path) -> str:
        """Write it as Markdown; the chart goes into a file.

        Args:
            base: Path of the answer without its ending.
        """
        lines = [f"### {self.title}", ""]
        if self.rows:
            rule = [":--" if i in self.left else "--:" for i in range(len(self.header))]
            lines += [f"| {' | '.join(map(_escaped, self.header))} |", f"|{'|'.join(rule)}|"]
            lines += [f"| {' | '.join(map(_escaped, row))} |" for row in self.rows] + [""]
        lines += [f"- {sentence}" for sentence in self.sentences]
        if self.figure is not None:
            file = base.with_name(f"{base.name}-{self.name}.svg")
            file.write_text(svg(self.figure), encoding="utf-8")
            lines += ["", f"![{self.title}]({file.name})"]
        return "\n".join(lines).rstrip() + "\n"

    def html(self) -> str:
        """Write it as a section of a page."""
        parts = [f"<h2>{_safe(self.title)}</h2>"]
        if self.rows:
            head = "".join(f"<th>{_safe(title)}</th>" for title in self.header)
            body = "".join(
                f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>" for row in self.rows
            )
            parts.append(
                f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            )
        parts += [f"<p>{_safe(sentence)}</p>" for sentence in self.sentences]
        if self.figure is not None:
            parts.append(f'<div class="scroll">{svg(self.figure)}</div>')
        return f"<section>{''.join(parts)}</section>"


def _safe(text: str) -> str:
    return html.escape(text).replace("{", "&#123;")  # no placeholder of the page


def _escaped(text: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", text)
