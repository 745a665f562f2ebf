"""The `predict` command: masks and overlays for a folder of any images, or for one."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning_seg.callbacks.checkpointing import Stopped
from lightning_seg.callbacks.prediction_writer import ObjectWriter, PredictionWriter
from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import finished_run, run_argument
from lightning_seg.experiment.failures import friendly_errors
from lightning_seg.inference.calibration import temperature_of
from lightning_seg.inference.large import check_windows, is_large, predict_large
from lightning_seg.inference.predictor import load
from lightning_seg.inference.writing import plan_outputs


def main(args: list[str]) -> None:
    """Predict, ``RUN IMAGES [--output DIR] [--uncertainty] [--probabilities] [--key=value ...]``."""
    run, args = run_argument("predict", args)
    parser = Arguments("lightning-seg predict RUN", "Write masks and overlays for images.")
    parser.add_argument("images", nargs="?", help="a folder of images, or one image of any size")
    parser.add_argument("--output", type=Path, default=Path("predictions", run.parent.name, run.name))
    parser.add_argument("--uncertainty", action="store_true", help="also write the entropy of each pixel")
    parser.add_argument(
        "--probabilities", action="store_true", help="also write them, .npy (classes, height, width) float32"
    )
    chosen, settings = parser.parse_known_args(args)
    if chosen.images is None:
        raise UserError(
            "which images? Type 'lightning-seg predict RUN FOLDER [--output DIR] [--uncertainty]'."
        )
    outputs = plan_outputs(chosen.images, chosen.output)
    large = [path for path in outputs.names if is_large(path)]
    if large and chosen.probabilities:
        raise UserError(
            f"{large[0]} is predicted window by window, without --probabilities: they would take"
            " 4 bytes a pixel and class. Cut it into tiles, or leave the option out."
        )
    small = [path for path in outputs.names if path not in set(large)]
    try:
        with _stoppable():
            unreadable = _predict_large(run, settings, outputs, large, chosen.uncertainty) if large else 0
            unreadable += _predict_small(run, settings, outputs, small, chosen) if small else 0
    except Stopped as stop:
        print(f"{stop}; what was predicted before is in {outputs.folder}", file=sys.stderr)
        raise
    if unreadable:
        print(f"{unreadable} of {len(outputs.names)} images could not be predicted", file=sys.stderr)
        raise SystemExit(1)


def _predict_large(
    run: Path, settings: list[str], outputs: Any, images: list[Path], uncertainty: bool
) -> int:
    """Predict images window by window; return how many could not be read."""
    model, unreadable = load(run, settings=settings), 0
    check_windows(model, images[0])
    outputs.create(["masks"] + ["uncertainty"] * uncertainty, run)
    for path in images:
        try:
            predict_large(model, path, outputs, uncertainty)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr, flush=True)
            unreadable += 1
    print(f"{len(images) - unreadable} images by windows: masks in {outputs.folder}/masks")
    return unreadable


def _predict_small(run: Path, settings: list[str], outputs: Any, images: list[Path], chosen: Any) -> int:
    """Predict images as a whole; return how many could not be read."""
    experiment, options = finished_run(
        "predict", [str(run), f"--data.init_args.predict_folder={chosen.images}", *settings]
    )
    data: Any = experiment.datamodule
    data.predict_folder = images
    writer: PredictionWriter
    if not experiment.model.instances:
        experiment.model.temperature = temperature_of(run, Path(options["ckpt_path"]))
        writer = PredictionWriter(outputs, run, chosen.uncertainty, chosen.probabilities)
    elif chosen.uncertainty or chosen.probabilities:
        raise UserError(
            "--uncertainty and --probabilities are of pixels; a run that finds objects gives each a score, in"
            " objects/*.json."
        )
    else:
        writer = ObjectWriter(outputs, run)
    experiment.trainer.callbacks.append(writer)  # type: ignore[attr-defined]
    with friendly_errors(experiment):
        experiment.trainer.predict(**options, return_predictions=False)
    return writer.unreadable


@contextmanager
def _stoppable() -> Iterator[None]:
    """End the block at once on SIGINT or SIGTERM, whatever its data workers, which may get the signal too, die of.

    Raises:
        Stopped: A signal came.
    """
    process, received = os.getpid(), list[signal.Signals]()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process and not received:  # a data worker is ended by its parent
            received.append(signal.Signals(number))
            raise Stopped(received[0], first=True)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception as error:
        if "killed by signal" in str(error.__cause__ or error) and not received:
            time.sleep(
                0.5
            )  # a worker died before the signal reached this process, which raises `Stopped` here
        if not received:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Stopped(received[0], first=True)
