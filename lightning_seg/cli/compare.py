"""``lightning-seg compare``: rank runs, with intervals, and say which differences are real."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from lightning_seg.analysis import tables
from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.report.report import Heading, write_report
from lightning_seg.analysis.report.server import ReportServer
from lightning_seg.analysis.tables import Comparison
from lightning_seg.cli.arguments import Arguments, at_least, folder, output_file


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg compare",
        f"Rank runs, with intervals, and say which differences are real. {tables.EXPLANATION}",
        "lightning-seg compare runs --baseline deeplab_camvid --html compare.html",
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="*",
        type=folder,
        default=[Path("runs")],
        help="run directories or folders (default: runs)",
    )
    add(
        "--group-by",
        metavar="KEYS",
        action="append",
        default=[],
        help="group runs by settings, such as lr or network,finetune, instead of all but the seed",
    )
    add(
        "--where",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only runs with this setting: lr=1e-3",
    )
    add("--tag", metavar="TAG", action="append", default=[], help="only runs with this tag")
    add(
        "--metric",
        metavar="NAME",
        help="compare by dice, mask_ap, pq_things, images_per_second ... (default: miou; pq, mask_ap where those are)",
    )
    add("--sort", metavar="COLUMN", help="order rows by a column or setting, -COLUMN for the reverse")
    add("--top", metavar="N", type=at_least(1), help="show the best N groups; verdicts count all of them")
    add(
        "--rename",
        metavar="OLD=NEW",
        type=_pair,
        action="append",
        default=[],
        help="call a group, or this part of names, otherwise",
    )
    add("--baseline", metavar="NAME", help="compare all others with this one, not with the best")
    add(
        "--across", metavar="FIELD", action="append", default=[], help="let this field of the protocol differ"
    )
    add(
        "--block",
        metavar="N",
        type=at_least(1),
        help="leave out N neighboring test images together (default: by sequence where the data set has them)",
    )
    add("--html", metavar="FILE", type=output_file, help="write a report that opens in any browser")
    add(
        "--serve",
        metavar="PORT",
        type=int,
        nargs="?",
        const=0,
        help="serve the report to this machine, where any test image can be predicted; a free port unless given",
    )
    kinds = parser.add_mutually_exclusive_group()
    for layout in (tables.csv, tables.markdown, tables.latex):
        name = layout.__name__
        kinds.add_argument(
            f"--{name}", dest="layout", action="store_const", const=layout, help=f"print the table as {name}"
        )
    options = parser.parse_args(arguments)
    comparison = compare(
        options.runs,
        options.group_by,
        options.baseline,
        options.across,
        options.block,
        options.where,
        options.tag,
        options.metric,
        options.top,
        dict(options.rename),
    )
    print((options.layout or tables.text)(comparison, options.sort), end="")
    remarks = tables.shortened(comparison.remarks)
    if remarks:
        print("\n".join(["", *remarks]), file=sys.stderr if options.layout else sys.stdout)
    if options.html:
        write_report(comparison, options.html)
        print(f"report: {options.html}", file=sys.stderr)
    if options.serve is not None:
        _serve(comparison, options.serve)


def _serve(comparison: Comparison, port: int) -> None:
    """Serve the report until Ctrl-C."""
    from lightning_seg.experiment.image_predictor import (
        ImagePredictor,  # imports torch, which a table does without
    )

    with ReportServer(comparison, Heading(), ImagePredictor(), port) as server:
        print(f"report: {server.address} (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _pair(text: str) -> tuple[str, str]:
    old, sign, new = text.rpartition("=")
    if not sign or not old:
        raise argparse.ArgumentTypeError(f"expected OLD=NEW, got {text!r}")
    return old, new
