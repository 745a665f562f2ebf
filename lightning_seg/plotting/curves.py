"""Line charts as pictures, panels side by side."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_seg.plotting.chart import log_ticks, ticks

WIDTH, HEIGHT = 900, 560  # of a panel in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 100, 30, 100, 80
_INK, _GRID = "#1e1e1e", "#dddddd"
COLORS = ("#1f6fb4", "#d9480f", "#2b8a3e", "#7048a8")


@dataclass
class Panel:
    """One diagram.

    Args:
        title: Written above.
        x_label: What the horizontal axis shows.
        lines: Points (x, y) of each line by its name; places without a value are left out.
        log_x: Whether the horizontal axis is logarithmic.
        mark: A place on the horizontal axis to mark by a vertical line.
    """

    title: str
    x_label: str
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    log_x: bool = False
    mark: float | None = None


def draw(panels: list[Panel]) -> Image.Image:
    """Draw diagrams side by side."""
    names = dict.fromkeys(name for panel in panels for name in panel.lines)
    colors = dict(zip(names, itertools.cycle(COLORS), strict=False))  # a name has one colour in all of them
    picture = Image.new("RGB", (WIDTH * len(panels), HEIGHT), "white")
    for i, panel in enumerate(panels):
        picture.paste(_draw(panel, colors), (WIDTH * i, 0))
    return picture


def _draw(panel: Panel, colors: dict[str, str]) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(22)
    lines = {name: _finite(*points, panel.log_x) for name, points in panel.lines.items()}
    pen.text((_LEFT, 16), panel.title, _INK, font)
    xs, ys = (np.concatenate([points[axis] for points in lines.values()] or [np.zeros(0)]) for axis in (0, 1))
    if not len(xs):
        return picture
    low, high = _span(xs)
    bottom, top = _span(ys)
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def place(x: Any, y: Any) -> list[tuple[float, float]]:
        """Turn values, those of a logarithmic axis as their logarithms, into pixels."""
        x, y = np.atleast_1d(x), np.atleast_1d(y)
        across = _LEFT + (x - low) / (high - low) * (right - _LEFT)
        up = floor - (y - bottom) / (top - bottom) * (floor - _TOP)
        return list(zip(across.tolist(), up.tolist(), strict=True))

    for value in _places(low, high) if panel.log_x else ticks(low, high):
        at = np.log10(value) if panel.log_x else value
        ((across, _),) = place(at, bottom)
        pen.line((across, _TOP, across, floor), _GRID, 2)
        pen.text((across, floor + 10), f"{value:g}", _INK, font, "mt")
    for value in ticks(bottom, top):
        ((_, up),) = place(low, value)
        pen.line((_LEFT, up, right, up), _GRID, 2)
        pen.text((_LEFT - 8, up), f"{value:.4g}", _INK, font, "rm")
    pen.text(((_LEFT + right) / 2, HEIGHT - 28), panel.x_label, _INK, font, "mm")
    if panel.mark is not None:
        ((across, _),) = place(np.log10(panel.mark) if panel.log_x else panel.mark, bottom)
        pen.line((across, _TOP, across, floor), _INK, 3)
    left = _LEFT
    for name, (x, y) in lines.items():
        points = place(x, y)
        pen.line(points, colors[name], 4, "curve")
        for point in points if len(points) < 60 else []:
            pen.circle(point, 5, colors[name])
        pen.text((left, 58), name, colors[name], font)
        left += int(pen.textlength(name, font)) + 30
    return picture


def _places(low: float, high: float) -> list[float]:
    """Choose places to mark on a logarithmic axis: only powers of ten if there are several."""
    powers = 10.0 ** np.arange(np.ceil(low), np.floor(high) + 1)
    return powers.tolist() if len(powers) > 3 else log_ticks(low, high)


def _finite(x: np.ndarray, y: np.ndarray, log_x: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    kept = np.isfinite(x) & np.isfinite(y)
    return np.log10(x[kept]) if log_x else x[kept], y[kept]


def _span(values: np.ndarray) -> tuple[float, float]:
    """Leave a little room around the values, and some where they are all the same."""
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
