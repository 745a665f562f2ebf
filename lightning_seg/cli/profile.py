"""The `profile` command: what networks cost and how far they see, for one experiment or in a table over many."""

import argparse
import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lightning_seg.bench.network_profile import Conditions, Description, field_side, measure
from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import TaskAndData
from lightning_seg.experiment.files import experiment_file, experiment_names
from lightning_seg.experiment.loading import load_run
from lightning_seg.plotting.charts import Point, Scatter, draw_scatter, svg
from lightning_seg.plotting.heat import heat
from lightning_seg.runs.directory import TEST_SCORES

COLUMNS = ("parameters", "multiply-adds", "stride", "memory an image", "field 50 %", "field 95 %", "images/s")


def main(args: list[str]) -> None:
    """Describe experiments, or runs with what they have learned."""
    options, overrides = _parser().parse_known_args(args)
    names = [*options.names, *(experiment_names() if options.all else [])]
    if not names:
        raise UserError(f"which experiment? There are: {', '.join(experiment_names())}; or type --all.")
    conditions = _conditions(options)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    described, left_out = [], []
    for name in names:
        task, data, title = _build(name, overrides)
        if task.instances:
            left_out.append(title)
            continue
        description = measure(title, task, conditions)
        described.append(description)
        picture = output / f"{title.replace('/', '_')}.png"
        draw_field(description.field, f"{title}: influence on the centre").save(picture)
        if len(names) == 1:
            print(text(description, data.batch_size, data.crop_size, conditions.size))
            print(f"picture        {picture}")
    if left_out:
        remark = (
            f"{', '.join(left_out)}: profile measures networks that label pixels, not those that find objects"
        )
        if not described:
            raise UserError(remark)
        print(remark)
    if len(names) > 1:
        print(table(described))
    print(f"measured at {conditions}")
    if any(d.disturbed for d in described):
        print("* other programs kept the processor busy: measure the speed again when it is idle")
    _write_charts(options, described, conditions)


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
    rows = [["", *parts, "all"]]
    for title, values, unit in (
        ("parameters", d.parameters, 1e6),
        ("of them train", d.trainable, 1e6),
        ("multiply-adds", d.multiply_adds, 1e9),
    ):
        numbers = [*(values[part] for part in parts), sum(values.values())]
        rows.append([title, *(f"{n / unit:.4g} {'M' if unit == 1e6 else 'G'}" for n in numbers)])
    lines = [f"{d.name}: {d.network}"]
    lines += [f"{row[0]:<15}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
    images = batch_size * crop[0] * crop[1] / (size[0] * size[1])
    lines += [
        f"output stride  {d.output_stride}",
        f"field          {sides(d.field)}",
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
    rows = [["", *COLUMNS], *([d.name, *cells(d)] for d in described)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        row[0].ljust(widths[0]) + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def sides(field: np.ndarray) -> str:
    """Say in words how far a network sees."""
    near, far, all_of_it = (_side(field, share) for share in (0.5, 0.95, 1))
    return f"50 % of the influence comes from {near}, 95 % from {far}, all of it from {all_of_it}"


def draw_field(field: np.ndarray, title: str) -> Image.Image:
    """Draw the influence (H, W) of the pixels on the centre over four decades, with the 50 and 95 % squares."""
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
    draw.text(
        (4, height + 28), f"squares: 50 % of the influence, {words[0]}; 95 %, {words[1]}", "black", font
    )
    scale = heat(np.linspace(0, 1, 160)[None].repeat(12, axis=0))
    canvas.paste(Image.fromarray(scale), (64, height + 54))
    draw.text((4, height + 51), "1/10000", "black", font)
    draw.text((230, height + 51), "1: the pixel with most influence", "black", font)
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
        f'<img alt="influence on the centre" src="data:image/png;base64,{_png(draw_field(d.field, d.name))}">'
        for d in described
    )
    return (
        "<!doctype html><meta charset='utf-8'><title>Networks</title><style>body{font-family:sans-serif}"
        "td,th{padding:.2em .8em;text-align:right}td:nth-child(-n+2){text-align:left}</style>"
        f"<h1>Networks</h1><p>Measured at {escape(str(conditions))}.</p><table>{head}{rows}</table>"
        f"{svg(draw_scatter(drawn)) if drawn else ''}<h2>Effective receptive fields</h2>{pictures}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-seg profile", description="What networks cost and how far they see.", allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="an experiment, or a run with its weights")
    parser.add_argument("--all", action="store_true", help="all experiments")
    parser.add_argument("--size", default="512x512", help="HEIGHTxWIDTH of the images, in pixels")
    parser.add_argument("--batch-size", type=int, default=1, help="images at a time, for the speed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="measure in bfloat16 instead of float32")
    parser.add_argument("--output", default="describe", help="folder for the pictures")
    parser.add_argument("--html", help="write a page with table, pictures and speed against accuracy")
    parser.add_argument("--png", help="write the chart of speed against accuracy")
    parser.add_argument("--runs", default="runs", help="folder of all runs, for their scores")
    return parser


def _conditions(options: argparse.Namespace) -> Conditions:
    try:
        height, width = (int(length) for length in options.size.split("x"))
    except ValueError:
        raise UserError(f"--size must be HEIGHTxWIDTH, such as 512x512; got {options.size!r}.") from None
    try:
        device = torch.empty(1, device=options.device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {options.device} is not to be had here: {reason}") from None
    return Conditions((height, width), options.batch_size, device, options.bf16)


def _build(name: str, overrides: list[str]) -> tuple[Any, SegmentationData, str]:
    """Build an experiment, or a run with the weights of its best checkpoint; return it and what to call it."""
    if Path(name).is_dir():
        run = load_run(name, overrides)
        return run.task, run.data, run.name
    file = experiment_file(name)
    built = TaskAndData(["-c", str(file), *overrides])
    return built.model, built.datamodule, file.stem


def _write_charts(
    options: argparse.Namespace, described: Sequence[Description], conditions: Conditions
) -> None:
    if not (options.html or options.png):
        return
    drawn = charts(described, conditions, Path(options.runs))
    if options.html:
        Path(options.html).write_text(page(described, conditions, drawn))
        print(f"page           {options.html}")
    if not drawn:
        print(f"no chart: none of these has been tested in {options.runs}/")
    elif options.png:
        draw_scatter(drawn).savefig(options.png)
        print(f"chart          {options.png}")


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
