"""``lightning-seg sync``: upload what runs logged offline, or could not upload, to Weights & Biases."""

from pathlib import Path

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import ExitCode
from lightning_seg.tracking.sync import account, logs_to_upload, upload


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = Arguments(
        "lightning-seg sync",
        "Upload runs that were logged offline, or could not upload all, to Weights & Biases: curves, pictures with"
        " masks, configuration, checkpoints. Run directories may have been moved or copied here.",
        "lightning-seg sync runs/unet_camvid",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        help="run directories or folders of them (default: runs)",
    )
    parser.add_argument("--again", action="store_true", help="also what was uploaded before")
    options = parser.parse_args(arguments)
    waiting, busy = logs_to_upload(options.runs, options.again)
    for run in busy:
        print(f"{run}: left alone, it may still be running")
    if not waiting:
        print("nothing to upload")
        return ExitCode.DONE
    api = account()
    print(f"uploading {len(waiting)} run{'s' * (len(waiting) > 1)} as {api.default_entity} ...", flush=True)
    incomplete = [run for run, problem in upload(api, waiting).items() if problem]
    if not incomplete:
        return ExitCode.DONE
    print(
        f"{len(incomplete)} of {len(waiting)} runs did not arrive whole; 'lightning-seg sync' tries them again"
    )
    return ExitCode.FINDINGS
