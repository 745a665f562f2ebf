"""What was measured of networks, as text, pictures, charts and a page."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_seg.bench.network_profile import Conditions, Description, field_side
from lightning_seg.plotting.charts import Point, Scatter, draw_scatter, svg
from lightning_seg.plotting.heat import heat
from lightning_seg.plotting.tables import text_table
from lightning_seg.runs.directory import TEST_SCORES

COLUMNS = ("parameters", "multiply-adds", "stride", "memory an image", "field 50 %", "field 95 %", "images/s")


def text(description: Description, batch_size: int, crop: tuple[int, int], size: tuple[int, int]) -> str:
    """Render the figures of one network.

    Args:
        description: The figures.
        batch_size: Images in a training step of the experiment.
        crop: Height and width of its training images.
        size: Height and width of the images that were measured.
    """
    d = description
    parts = list(d.parameters)
    rows = []
    for title, values, unit in (
        ("parameters", d.parameters, 1e6),
        ("of them train", d.trainable, 1e6),
        ("multiply-adds", d.multiply_adds, 1e9),
    ):
        numbers = [*(values[part] for part in parts), sum(values.values())]
        rows.append([title, *(f"{n / unit:.4g} {'M' if unit == 1e6 else 'G'}" for n in numbers)])
    lines = [f"{d.name}: {d.network}"]
    lines.append(text_table(["", *parts, "all"], rows))
    images = batch_size * crop[0] * crop[1] / (size[0] * size[1])
    lines += [
        f"output stride  {d.output_stride}",
        f"field          {sides(d.field)} (effective receptive field)",
        f"memory         {_gigabytes(d.fixed_memory)} for weights, gradients and optimizer, "
        f"{_gigabytes(d.image_memory)} an image in training",
        f"               about {_gigabytes(d.memory(images))} for {batch_size} crops of {crop[0]}x{crop[1]}",
        f"speed          {_speed(d)} images/s",
    ]
    return "\n".join(lines)


def cells(d: Description) -> list[str]:
    """Return the row of a network in the table, in the order of `COLUMNS`."""
    return [
        f"{sum(d.parameters.values()) / 1e6:.4g} M",
        f"{sum(d.multiply_adds.values()) / 1e9:.4g} G",
        str(d.output_stride),
        _gigabytes(d.image_memory),
        *(_side(d.field, share) for share in (0.5, 0.95)),
        _speed(d),
    ]


def table(described: Sequence[Description]) -> str:
    """Render many networks as a table, one line each."""
    return text_table(["", *COLUMNS], [[d.name, *cells(d)] for d in described])


def sides(field: np.ndarray) -> str:
    """Describe the effective receptive field: the squares that hold parts of the gradient of the center's logit."""
    near, far, all_of_it = (_side(field, share) for share in (0.5, 0.95, 1))
    return f"50 % of the gradient in {near}, 95 % in {far}, all of it in {all_of_it}"


def draw_field(field: np.ndarray, title: str) -> Image.Image:
    """Draw an effective receptive field (H, W) over four decades, with the squares of 50 and 95 %."""
    strength = np.log10(np.maximum(field / max(field.max(), 1e-30), 1e-30)) / 4 + 1
    zoom = max(1, round(512 / max(field.shape)))
    height, width = (zoom * length for length in field.shape)
    canvas = Image.new("RGB", (max(width, 480), height + 76), "white")
    canvas.paste(Image.fromarray(heat(strength)).resize((width, height), Image.Resampling.NEAREST), (0, 24))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    draw.text((4, 4), title, "black", font)
    for share in (0.5, 0.95):
        if side := field_side(field, share):
            x, y = (zoom * (length // 2 - side // 2) for length in field.shape[::-1])
            draw.rectangle((x, 24 + y, x + zoom * side, 24 + y + zoom * side), outline="white")
    words = [_side(field, share) for share in (0.5, 0.95)]
    draw.text((4, height + 28), f"squares: 50 % of the gradient, {words[0]}; 95 %, {words[1]}", "black", font)
    scale = heat(np.linspace(0, 1, 160)[None].repeat(12, axis=0))
    canvas.paste(Image.fromarray(scale), (64, height + 54))
    draw.text((4, height + 51), "1/10000", "black", font)
    draw.text((230, height + 51), "1: the largest gradient", "black", font)
    return canvas


def charts(described: Sequence[Description], conditions: Conditions, runs: Path) -> list[Scatter]:
    """Draw speed against accuracy where there are test scores, one chart for each data set that was tested on.

    Args:
        described: The networks.
        conditions: Under which their speed was measured.
        runs: Folder of all runs. The score of an experiment is the mean over its runs.
    """
    points: dict[str, list[Point]] = {}
    for d in described:
        folder = runs / d.name
        files = [folder / TEST_SCORES] if "/" in d.name else sorted(folder.glob(f"*/{TEST_SCORES}"))
        scores: dict[str, list[float]] = {}
        for file in files:
            if file.is_file() and (result := json.loads(file.read_text()))["scores"]["miou"] is not None:
                tested = f"{result['protocol']['data']}, {result['protocol']['split']} split"
                scores.setdefault(tested, []).append(result["scores"]["miou"])
        area = sum(d.parameters.values())
        for tested, values in scores.items():
            point = Point(d.name, d.images_per_second, float(np.mean(values)), area)
            points.setdefault(tested, []).append(point)
    x_label = f"images/s at {conditions}; area: parameters"
    return [Scatter(f"Speed against accuracy: {name}", x_label, "mIoU", points[name]) for name in points]


def page(described: Sequence[Description], conditions: Conditions, drawn: Sequence[Scatter]) -> str:
    """Render everything as one HTML page that needs nothing else."""
    head = "".join(f"<th>{escape(c)}</th>" for c in ("", "network", *COLUMNS))
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in (d.name, d.network, *cells(d))) + "</tr>"
        for d in described
    )
    pictures = "".join(
        f'<img alt="effective receptive field" src="data:image/png;base64,{_png(draw_field(d.field, d.name))}">'
        for d in described
    )
    return (
        "<!doctype html><meta charset='utf-8'><title>Networks</title><style>body{font-family:sans-serif}"
        "td,th{padding:.2em .8em;text-align:right}td:nth-child(-n+2){text-align:left}</style>"
        f"<h1>Networks</h1><p>Measured at {escape(str(conditions))}.</p><table>{head}{rows}</table>"
        f"{svg(draw_scatter(drawn)) if drawn else ''}<h2>Effective receptive fields</h2>{pictures}"
    )


def _speed(d: Description) -> str:
    return f"{d.images_per_second:.4g}{' *' if d.disturbed else ''}"


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _side(field: np.ndarray, share: float) -> str:
    side = field_side(field, share)
    return f"{side}x{side}" if side else f"over {min(field.shape)}x{min(field.shape)}"


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
