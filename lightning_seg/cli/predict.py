"""The `predict` command: masks and overlays for a folder of any images, or for one."""

from pathlib import Path
from typing import Any

from lightning_seg.callbacks.prediction_writer import ObjectWriter, PredictionWriter
from lightning_seg.cli.arguments import Arguments
from lightning_seg.data.io import list_images
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import finished_run, run_argument
from lightning_seg.experiment.failures import friendly_errors
from lightning_seg.inference.calibration import temperature_of
from lightning_seg.inference.large import is_large, predict_large
from lightning_seg.inference.predictor import load
from lightning_seg.inference.writing import make_folders


def main(args: list[str]) -> None:
    """Predict, ``RUN IMAGES [--output DIR] [--uncertainty] [--key=value ...]``."""
    run, args = run_argument("predict", args)
    parser = Arguments("lightning-seg predict RUN", "Write masks and overlays for images.")
    parser.add_argument("images", nargs="?", help="a folder of images, or one image of any size")
    parser.add_argument("--output", type=Path, default=Path("predictions", run.parent.name, run.name))
    parser.add_argument("--uncertainty", action="store_true", help="also draw how unsure each pixel is")
    chosen, settings = parser.parse_known_args(args)
    if chosen.images is None:
        raise UserError(
            "which images? Type 'lightning-seg predict RUN FOLDER [--output DIR] [--uncertainty]'."
        )
    paths = list_images(chosen.images)
    large = [path for path in paths if is_large(path)]
    if large:
        make_folders(chosen.output, ["masks"] + ["uncertainty"] * chosen.uncertainty)
        model = load(run, settings=settings)
        for path in large:
            predict_large(model, path, chosen.output, chosen.uncertainty)
        print(f"{len(large)} of {len(paths)} images by windows; masks in {chosen.output}/masks")
    if len(large) == len(paths):
        return
    experiment, options = finished_run(
        "predict", [str(run), f"--data.init_args.predict_folder={chosen.images}", *settings]
    )
    data: Any = experiment.datamodule
    data.predict_folder = [path for path in paths if path not in large]
    if not experiment.model.instances:
        experiment.model.temperature = temperature_of(run, Path(options["ckpt_path"]))
        callback = PredictionWriter(chosen.output, chosen.uncertainty)
    elif chosen.uncertainty:
        raise UserError(
            "--uncertainty is of pixels; a run that finds objects gives each a score, in objects/*.json."
        )
    else:
        callback = ObjectWriter(chosen.output)
    experiment.trainer.callbacks.append(callback)  # type: ignore[attr-defined]
    with friendly_errors(experiment):
        experiment.trainer.predict(**options, return_predictions=False)
