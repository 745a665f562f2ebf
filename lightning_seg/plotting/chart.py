"""A scatter chart with a logarithmic axis, as SVG for pages and as PNG for everything else."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 40, 48
_INK, _GRID, _DOT = "#1e1e1e", "#dddddd", "#1f6fb4"


@dataclass(frozen=True)
class Point:
    """One dot of a chart.

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
class _Shape:
    """A line, circle or text; both renderers draw these three."""

    kind: str
    at: tuple[float, float]
    to: tuple[float, float] = (0, 0)  # a line's other end
    radius: float = 0
    text: str = ""
    anchor: str = "start"
    hint: str = ""


class Chart:
    """Dots with names; to the right is faster, up is better.

    Args:
        title: Written above.
        x_label: What the logarithmic axis shows.
        y_label: What the linear axis shows.
        points: The dots.
    """

    def __init__(self, title: str, x_label: str, y_label: str, points: Sequence[Point]) -> None:
        xs, ys = np.log10([p.x for p in points]), np.array([p.y for p in points])
        self._x = (xs.min() - 0.15, max(xs.max(), xs.min() + 0.3) + 0.35)  # room for names at the right
        span = max(np.ptp(ys), 0.02)
        self._y = (ys.min() - 0.15 * span, ys.max() + 0.15 * span)
        self.shapes: list[_Shape] = [
            _Shape("text", (_LEFT, 22), text=title),
            _Shape("text", (WIDTH / 2, HEIGHT - 10), text=x_label, anchor="middle"),
            _Shape("text", (6, _TOP - 4), text=y_label),
        ]
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for tick in log_ticks(*self._x):
            x = self._place(np.log10(tick), 0)[0]
            self.shapes.append(_Shape("line", (x, _TOP), (x, bottom)))
            self.shapes.append(_Shape("text", (x, bottom + 16), text=f"{tick:g}", anchor="middle"))
        for tick in ticks(*self._y):
            y = self._place(0, tick)[1]
            self.shapes.append(_Shape("line", (_LEFT, y), (right, y)))
            self.shapes.append(_Shape("text", (_LEFT - 6, y + 4), text=f"{tick:.4g}", anchor="end"))
        largest = max(p.area for p in points)
        for p in points:
            at, radius = self._place(np.log10(p.x), p.y), 4 + 10 * (p.area / largest) ** 0.5
            hint = f"{p.name}: {p.x:.3g}, {p.y:.4g}"
            self.shapes.append(_Shape("circle", at, radius=radius, hint=hint))
            self.shapes.append(_Shape("text", (at[0] + radius + 4, at[1] + 4), text=p.name))

    def svg(self) -> str:
        """Render as an SVG element; a dot shows its values when pointed at."""
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"']
        parts += [f' font-family="sans-serif" font-size="12" fill="{_INK}">']
        parts += [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
        for s in self.shapes:
            (x, y), (x2, y2) = s.at, s.to
            if s.kind == "line":
                parts += [f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"/>']
            elif s.kind == "circle":
                title = f"<title>{escape(s.hint)}</title>"
                circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s.radius:.1f}"'
                parts += [f'{circle} fill="{_DOT}" fill-opacity="0.7">{title}</circle>']
            else:
                text = f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{s.anchor}">'
                parts += [f"{text}{escape(s.text)}</text>"]
        return "".join([*parts, "</svg>"])

    def png(self) -> Image.Image:
        """Render as a picture of twice the size, for print."""
        picture = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), "white")
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(24)
        anchors = {"start": "ls", "middle": "ms", "end": "rs"}
        for s in self.shapes:
            x, y = 2 * s.at[0], 2 * s.at[1]
            if s.kind == "line":
                draw.line((x, y, 2 * s.to[0], 2 * s.to[1]), _GRID, 2)
            elif s.kind == "circle":
                draw.circle((x, y), 2 * s.radius, _DOT)
            else:
                draw.text((x, y), s.text, _INK, font, anchors[s.anchor])
        return picture

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Turn values, that of the logarithmic axis as its logarithm, into pixels."""
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        return _LEFT + across * (right - _LEFT), bottom - up * (bottom - _TOP)


def log_ticks(low: float, high: float) -> list[float]:
    """Choose 1, 2 and 5 times powers of ten between powers of ten."""
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    return [tick for tick in ticks if low <= np.log10(tick) <= high]


def ticks(low: float, high: float) -> list[float]:
    """Choose about five round numbers between two."""
    rough = (high - low) / 5
    power = 10 ** np.floor(np.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)
    return [float(i * step) for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]
