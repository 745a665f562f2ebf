"""Static charts by matplotlib, which is imported when the first one is drawn: that takes most of a second."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One diagram of lines.

    Args:
        title: Written above.
        x_label: What the horizontal axis shows.
        lines: Points (x, y) of each line by its name; places without a value are left out.
        log_x: Whether the horizontal axis is logarithmic.
        mark: A place on the horizontal axis to mark by a vertical line.
        bands: For some lines lower and upper ends around each of their points.
        points: A point (x, y) of some lines that is made larger.
    """

    title: str
    x_label: str
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    log_x: bool = False
    mark: float | None = None
    bands: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    points: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One dot of a scatter chart.

    Args:
        name: Written beside it.
        x: Its place on the logarithmic axis; above 0.
        y: Its place on the linear axis.
        area: Its size, relative to the others.
    """

    name: str
    x: float
    y: float
    area: float = 1.0


@dataclass(frozen=True)
class Scatter:
    """Dots with names over a logarithmic axis.

    Args:
        title: Written above.
        x_label: What the logarithmic axis shows.
        y_label: What the linear axis shows.
        points: The dots.
    """

    title: str
    x_label: str
    y_label: str
    points: Sequence[Point]


def draw_lines(panels: Sequence[Panel]) -> "Figure":
    """Draw panels side by side; a line's name has one color in all of them."""
    figure = _figure(9 * len(panels), 5.6)
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, (x, y) in panel.lines.items():
            known = np.isfinite(x) & np.isfinite(y)
            color = f"C{names.index(name)}"
            marker = "." if known.sum() < 60 else None
            axes.plot(np.asarray(x)[known], np.asarray(y)[known], label=name, color=color, marker=marker)
            if name in panel.bands:
                axes.fill_between(np.asarray(x), *panel.bands[name], color=color, alpha=0.2, linewidth=0)
            if name in panel.points:
                axes.plot(*panel.points[name], "o", color=color, markersize=10)
        if panel.mark is not None:
            axes.axvline(panel.mark, color="black")
        axes.set(title=panel.title, xlabel=panel.x_label, xscale="log" if panel.log_x else "linear")
        axes.grid(alpha=0.4)
        axes.legend()
    return figure


def draw_scatter(charts: Sequence[Scatter]) -> "Figure":
    """Draw charts one below the other."""
    figure = _figure(9, 5.4 * len(charts))
    for axes, chart in zip(figure.subplots(len(charts), 1, squeeze=False)[:, 0], charts, strict=True):
        x, y = [p.x for p in chart.points], [p.y for p in chart.points]
        area = np.array([p.area for p in chart.points])
        axes.scatter(x, y, 40 + 400 * area / area.max(), alpha=0.7)
        for p in chart.points:
            axes.annotate(_literal(p.name), (p.x, p.y), (12, -3), textcoords="offset points")
        axes.set(title=_literal(chart.title), xlabel=chart.x_label, ylabel=chart.y_label, xscale="log")
        axes.margins(0.2, 0.15)
        axes.grid(alpha=0.4, which="both")
    return figure


def svg(figure: "Figure") -> str:
    """Render a figure as an SVG element with text that can be searched and selected."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    return text[text.index("<svg") :]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=100, layout="constrained")


def _literal(text: str) -> str:
    """Keep dollar signs from beginning a formula."""
    return text.replace("$", r"\$")
