"""``lightning-seg sync``: upload to W&B what runs could not upload, or send runs to TensorBoard or MLflow."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning_seg.cli.arguments import Arguments, folder
from lightning_seg.errors import ExitCode
from lightning_seg.runs.directory import METRICS
from lightning_seg.runs.records import find, read
from lightning_seg.tracking.sync import account, logs_to_upload, upload

_BUSY = 600  # seconds without a line after which a run without an end is taken for dead


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = Arguments(
        "lightning-seg sync",
        "Upload runs that were logged offline, or could not upload all, to Weights & Biases: curves, pictures with"
        " masks, configuration, checkpoints. Run directories may have been moved or copied here. With --to it sends"
        " any run to TensorBoard or MLflow; sent twice, it is there once.",
        "lightning-seg sync runs/unet_camvid --to mlflow",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=folder,
        default=[Path("runs")],
        help="run directories or folders of them (default: runs)",
    )
    parser.add_argument(
        "--to",
        choices=("wandb", "tensorboard", "mlflow"),
        default="wandb",
        help="tensorboard: a file in each run directory; mlflow: MLFLOW_TRACKING_URI, or mlflow.db in this folder",
    )
    parser.add_argument("--again", action="store_true", help="to W&B: also what was uploaded before")
    options = parser.parse_args(arguments)
    return _to_wandb(options.runs, options.again) if options.to == "wandb" else _to(options.to, options.runs)


def _to_wandb(runs: Sequence[Path], again: bool) -> int:
    waiting, busy = logs_to_upload(runs, again)
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


def _to(name: Literal["tensorboard", "mlflow"], runs: Sequence[Path]) -> int:
    """Send runs to a tracker beside W&B."""
    from lightning_seg.tracking.mlflow import MLflowSettings
    from lightning_seg.tracking.tracker_sync import export
    from lightning_seg.tracking.trackers import make_tracker
    from lightning_seg.tracking.wandb_logger import one_line

    failed = 0
    for run in find(runs):
        record = read(run)
        curves = run / METRICS
        if record.status == "not tested" and curves.exists() and time.time() - curves.stat().st_mtime < _BUSY:
            print(f"{run}: left alone, it may still be running")
            continue
        if record.problem:
            print(f"{run}: left out, {record.problem}")
            continue
        where = MLflowSettings(**(record.config.get("mlflow") or {}))
        tracker = make_tracker(name, run, where)
        try:
            print(f"{run}: {export(tracker, run)}", flush=True)
        except Exception as error:  # whatever the server, the disk or the library does
            failed += 1
            print(f"{run}: not sent ({one_line(error)})", flush=True)
    if failed:
        print(f"{failed} runs were not sent whole; the same command tries them again")
    return ExitCode.FINDINGS if failed else ExitCode.DONE
