"""``lightning-seg dashboard``: a W&B workspace and report made for the runs at hand."""

from dataclasses import replace
from pathlib import Path

from lightning_seg.cli.arguments import Arguments, folder, output_file
from lightning_seg.errors import UserError
from lightning_seg.runs.records import find, read
from lightning_seg.tracking.dashboard import describe, load, report, save, workspace
from lightning_seg.tracking.sync import account


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg dashboard",
        "Make a W&B workspace and a report for runs: curves with bands over seeds, bars per class, speed against"
        " accuracy, parallel coordinates of what varies, run comparer, pictures. Without an account the"
        " specification is written to a file, from which they can be made elsewhere.",
        "lightning-seg dashboard runs/freeze_camvid --title 'Frozen or not'",
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="*",
        type=folder,
        default=[Path("runs")],
        help="run directories, folders (default: runs), or a specification",
    )
    add(
        "--group-by",
        metavar="KEY",
        help="setting whose runs make one curve, such as lr (default: all settings; a band is over seeds)",
    )
    add("--title", help="name of workspace and report")
    add(
        "--output",
        metavar="FILE",
        type=output_file,
        default="dashboard.yaml",
        help="where the specification goes without an account (default: dashboard.yaml)",
    )
    options = parser.parse_args(arguments)
    first = options.runs[0]
    dashboard = load(first) if first.is_file() else describe([read(path) for path in find(options.runs)])
    given = {"group_by": options.group_by, "title": options.title}
    dashboard = replace(dashboard, **{name: value for name, value in given.items() if value})
    try:
        api = account()
    except UserError as error:
        save(dashboard, options.output)
        print(f"specification: {options.output}\nnot published: {error}")
        print(f"To publish it, here or elsewhere: lightning-seg dashboard {options.output}")
        return
    dashboard = replace(dashboard, entity=dashboard.entity or api.default_entity)
    print(f"workspace: {workspace(dashboard).save().url}")
    print(f"report: {report(dashboard).save().url}")
