"""Tables as text: the same on a terminal and in a file."""

import io
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Lay out a table whose columns are as wide as their content, without codes for a terminal.

    Args:
        header: Titles of the columns.
        rows: Their cells.
        left: The columns that are aligned to the left; numbers are aligned to the right.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="", show_header=any(header))
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=100_000, color_system=None, markup=False, emoji=False, highlight=False).print(
        table
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
