"""``lightning-seg compare``: rank runs, with intervals, and say which differences are real."""

import sys
from contextlib import suppress
from pathlib import Path

from lightning_seg.analysis import tables
from lightning_seg.analysis.compare import Comparison, compare
from lightning_seg.analysis.report.report import Heading, write_report
from lightning_seg.analysis.report.server import ReportServer
from lightning_seg.cli.arguments import Arguments, at_least, output_file


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
        type=Path,
        default=[Path("runs")],
        help="run directories or folders (default: runs)",
    )
    add("--group-by", metavar="KEY", help="group runs by a setting, such as lr or network")
    add("--baseline", metavar="NAME", help="compare all others with this one, not with the best")
    add(
        "--across", metavar="FIELD", action="append", default=[], help="let this field of the protocol differ"
    )
    add(
        "--block",
        metavar="N",
        type=at_least(1),
        default=1,
        help="resample N neighboring test images together: frames of one video are no independent images",
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
    comparison = compare(options.runs, options.group_by, options.baseline, options.across, options.block)
    print((options.layout or tables.text)(comparison), end="")
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
    from lightning_seg.cli.image_predictor import ImagePredictor  # imports torch, which a table does without

    with ReportServer(comparison, Heading(), ImagePredictor(), port) as server:
        print(f"report: {server.address} (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
