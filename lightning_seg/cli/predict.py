"""``lightning-seg predict``: masks and overlays for a folder of images, or for one image of any size."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lightning_seg.cli.arguments import Arguments, folder
from lightning_seg.errors import ExitCode, UserError
from lightning_seg.runs.directory import existing_run

if TYPE_CHECKING:
    from lightning_seg.data.volumes import Slice
    from lightning_seg.inference.writing import Outputs


def main(arguments: list[str]) -> int:
    """Run the command; the exit code tells whether all images could be read."""
    options, settings = _parser().parse_with_settings(arguments)
    run = existing_run(options.run)
    output = options.output or Path("predictions", run.absolute().parent.name, run.name)

    from lightning_seg.callbacks.checkpointing import Stopped
    from lightning_seg.inference.large import is_large
    from lightning_seg.inference.writing import plan_outputs

    outputs = plan_outputs(options.images, output)
    large = [path for path in outputs.names if isinstance(path, Path) and is_large(path)]
    small = [path for path in outputs.names if path not in set(large)]
    try:
        with _stoppable():
            unreadable = _predict_large(run, settings, outputs, large, options) if large else 0
            unreadable += _predict_small(run, settings, outputs, small, options) if small else 0
    except Stopped as stop:
        print(f"{stop}; what was predicted before is in {outputs.folder}", file=sys.stderr)
        raise
    if unreadable:
        print(f"{unreadable} of {len(outputs.names)} images could not be predicted", file=sys.stderr)
    return ExitCode.FINDINGS if unreadable else ExitCode.DONE


def _parser() -> Arguments:
    parser = Arguments(
        "lightning-seg predict",
        "Write the mask of each image, and the mask laid over the image. Sub-folders are kept; a file that cannot be"
        " read is reported and left out. Images over 67 megapixels and .npy files are predicted window by window.",
        "lightning-seg predict runs/unet_camvid photos --output out --uncertainty",
        settings=True,
    )
    parser.add_run()
    add = parser.add_argument
    add("images", metavar="IMAGES", help="a folder of images, or one image of any size")
    add("--output", type=folder, metavar="DIR", help="predictions/<experiment>/<id> unless given")
    add("--uncertainty", action="store_true", help="also write the entropy of each pixel, 0 to 255")
    add(
        "--probabilities",
        action="store_true",
        help="also write arrays (classes, height, width), float32: GeoTIFFs for GeoTIFFs, else .npy",
    )
    return parser


def _predict_large(
    run: Path, settings: list[str], outputs: "Outputs", images: list[Path], options: argparse.Namespace
) -> int:
    """Predict images window by window; return how many could not be read."""
    from lightning_seg.experiment.loading import load_run
    from lightning_seg.inference.large import check_windows, predict_large
    from lightning_seg.tasks.mask_classification import MaskClassification

    loaded = load_run(run, ["--model.compile=false", *settings])
    if isinstance(loaded.task, MaskClassification) and loaded.task.gives != "classes":
        raise UserError(
            f"{images[0]} is predicted window by window, which gives classes, but no {loaded.task.gives}: add "
            "--model.output=classes and, as --model.inference, a strategy of windows."
        )
    model, unreadable = loaded.predictor(), 0
    check_windows(model, images[0])
    more = ["uncertainty"] * options.uncertainty + ["probabilities"] * options.probabilities
    outputs.create(["masks", *more], run)
    for path in images:
        try:
            predict_large(model, path, outputs, options.uncertainty, options.probabilities)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr, flush=True)
            unreadable += 1
    print(f"{len(images) - unreadable} images by windows: masks in {outputs.folder}/masks")
    return unreadable


def _predict_small(
    run: Path,
    settings: list[str],
    outputs: "Outputs",
    images: "list[Path | Slice]",
    options: argparse.Namespace,
) -> int:
    """Predict whole images; return how many could not be read."""
    from lightning_seg.callbacks.prediction_writer import MultiLabelWriter, ObjectWriter, PredictionWriter
    from lightning_seg.callbacks.segment_writer import SegmentWriter
    from lightning_seg.experiment.failures import friendly_errors
    from lightning_seg.experiment.loading import load_run
    from lightning_seg.tasks.mask_classification import MaskClassification

    listed = json.dumps([str(image) for image in images])
    loaded = load_run(run, [f"--data.init_args.predict_folder={listed}", *settings])
    writer: PredictionWriter
    task = loaded.task
    gives = task.gives if isinstance(task, MaskClassification) else "objects" if task.instances else "classes"
    if task.overlapping:
        writer = MultiLabelWriter(outputs, run, options.uncertainty, options.probabilities)
    elif gives == "classes":
        writer = PredictionWriter(outputs, run, options.uncertainty, options.probabilities)
    elif options.uncertainty or options.probabilities:
        name = "--uncertainty" if options.uncertainty else "--probabilities"
        also = "; --model.output=classes has it" if task.segments else ""
        raise UserError(
            f"{name} is of pixels; a run that finds {gives} gives each a score, in {gives}/*.json{also}."
        )
    else:
        writer = (ObjectWriter if gives == "objects" else SegmentWriter)(outputs, run)
    trainer = loaded.make_trainer(writer)
    with friendly_errors(trainer, loaded.data, lambda: run, resumes=False):
        trainer.predict(**loaded.trainer_arguments, return_predictions=False)
    return writer.unreadable


@contextmanager
def _stoppable() -> Iterator[None]:
    """End the block at once on SIGINT or SIGTERM, whatever its data workers, which may get the signal too, die of.

    Raises:
        Stopped: A signal came.
    """
    from lightning_seg.callbacks.checkpointing import Stopped

    if threading.current_thread() is not threading.main_thread():
        yield  # only there Python allows handlers
        return
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
            time.sleep(0.5)  # the signal that ended a worker is on its way to this process, too
        if not received:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Stopped(received[0], first=True)
