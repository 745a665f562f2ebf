"""``lightning-seg profile``: what networks cost and how far they see, for one or in a table over many."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_seg.cli.arguments import Arguments, at_least, folder, output_file, picture_file, size
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file, experiment_names, known_experiments

if TYPE_CHECKING:
    from lightning_seg.bench.network_profile import Conditions, Description
    from lightning_seg.data.base import SegmentationData
    from lightning_seg.tasks.base import SegmentationTask


def main(arguments: list[str]) -> None:
    """Run the command."""
    options, settings = _parser().parse_with_settings(arguments)
    names = [*options.names, *(experiment_names() if options.all else [])]
    if not names:
        raise UserError(
            f"which experiment? {known_experiments()}" + " Or type --all." * bool(experiment_names())
        )
    for name in names:
        if not Path(name).is_dir():
            experiment_file(name)  # raises before anything is measured
    options.output.mkdir(parents=True, exist_ok=True)

    from lightning_seg.bench import network_profile, network_report
    from lightning_seg.tasks.semantic import SemanticSegmentation

    conditions = _conditions(options)
    described, left_out = [], []
    for name in names:
        task, data, title = _build(name, settings)
        if not isinstance(task, SemanticSegmentation) or task.segments:
            left_out.append(title)
            continue
        description = network_profile.measure(title, task, conditions)
        described.append(description)
        picture = options.output / f"{title.replace('/', '_')}.png"
        network_report.draw_field(description.field, f"{title}: effective receptive field").save(picture)
        if len(names) == 1:
            print(network_report.text(description, data.batch_size, data.crop_size, conditions.size))
            print(f"picture        {picture}")
    if left_out:
        remark = (
            f"{', '.join(left_out)}: profile measures networks that give each pixel a class, not those that find"
            " objects, segments or classes that overlap"
        )
        if not described:
            raise UserError(remark)
        print(remark)
    if len(names) > 1:
        print(network_report.table(described))
    print(f"measured at {conditions}")
    if any(d.disturbed for d in described):
        print("* other programs kept the processor busy: measure the speed again when it is idle")
    _write_charts(options, described, conditions)


def _parser() -> Arguments:
    parser = Arguments(
        "lightning-seg profile",
        "Measure what networks cost and how far they see: parameters, multiply-adds, memory in training, speed, and"
        " the effective receptive field, of which a picture is drawn.",
        "lightning-seg profile unet_camvid deeplab_camvid --size 360x480 --html networks.html",
        settings=True,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME|RUN", help="an experiment, or a run with its weights")
    add("--all", action="store_true", help="all experiments")
    add("--size", type=size, default=(512, 512), help="HEIGHTxWIDTH of the images, in pixels (512x512)")
    add("--batch-size", metavar="N", type=at_least(1), default=1, help="images at a time, for the speed (1)")
    add("--device", help="such as cpu or cuda:1; a GPU if there is one unless given")
    add("--bf16", action="store_true", help="measure in bfloat16 instead of float32")
    add("--output", metavar="FOLDER", type=folder, default=Path("profile"), help="for the pictures (profile)")
    add("--html", metavar="FILE", type=output_file, help="write table, pictures and speed against accuracy")
    add("--png", metavar="FILE", type=picture_file, help="write the chart of speed against accuracy")
    add(
        "--runs",
        metavar="FOLDER",
        type=folder,
        default=Path("runs"),
        help="all runs, for their scores (runs)",
    )
    return parser


def _conditions(options: argparse.Namespace) -> "Conditions":
    import torch

    from lightning_seg.bench.network_profile import Conditions

    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not available: {str(error).splitlines()[0]}") from None
    return Conditions(options.size, options.batch_size, device, options.bf16)


def _build(name: str, settings: list[str]) -> tuple["SegmentationTask", "SegmentationData", str]:
    """Build an experiment, or a run with the weights of its best checkpoint; return it and what to call it."""
    if Path(name).is_dir():
        from lightning_seg.experiment.loading import load_run

        run = load_run(name, settings)
        return run.task, run.data, run.name
    from lightning_seg.experiment.experiment import TaskAndData

    file = experiment_file(name)
    built = TaskAndData(["-c", str(file), *settings])
    return built.model, built.datamodule, file.stem


def _write_charts(
    options: argparse.Namespace, described: list["Description"], conditions: "Conditions"
) -> None:
    if not (options.html or options.png):
        return
    from lightning_seg.bench.network_report import charts, page
    from lightning_seg.plotting.charts import draw_scatter

    drawn = charts(described, conditions, options.runs)
    if options.html:
        options.html.write_text(page(described, conditions, drawn))
        print(f"page           {options.html}")
    if not drawn:
        print(f"no chart: none of these has been tested in {options.runs}/")
    elif options.png:
        draw_scatter(drawn).savefig(options.png)
        print(f"chart          {options.png}")
