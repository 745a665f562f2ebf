"""The `export` command: ONNX and torch.export files that take images as they are, checked against the network."""

import json
from pathlib import Path

import torch

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import DataOnly, quiet, trained
from lightning_seg.experiment.files import experiment_file
from lightning_seg.inference.export.check import check
from lightning_seg.inference.export.exportable import exportable
from lightning_seg.inference.export.formats import FORMATS, reason_of
from lightning_seg.inference.export.standalone import standalone
from lightning_seg.networks.base import Network
from lightning_seg.runs.directory import existing_run


def main(args: list[str]) -> None:
    """Export a run or an experiment, ``RUN|NAME [--format onnx|pt2] [--output FILE] [--key=value ...]``."""
    chosen, settings = _parser().parse_known_args(args)
    if chosen.name is None:
        raise UserError("which network? Type 'lightning-seg export RUN' or an experiment's NAME.")
    settings = quiet(["--compile=false", *settings])
    if Path(chosen.name).is_dir():
        run = existing_run(chosen.name)
        experiment, path = trained(run, settings), run / f"model.{chosen.format}"
    else:
        file = experiment_file(chosen.name)
        experiment, path = DataOnly(["-c", str(file), *settings]), Path(f"{file.stem}.{chosen.format}")
        print(f"note: {chosen.name} is an experiment, no run: its weights are random")
    path = chosen.output or path
    network, data = experiment.model.network, experiment.datamodule
    if not isinstance(network, Network):
        raise UserError(f"export takes networks of semantic segmentation, not {type(network).__name__}.")
    dtype = torch.float32 if chosen.float else torch.uint8
    metadata = {"classes": json.dumps(data.class_names), "palette": json.dumps(data.palette)}
    try:
        runner = FORMATS[chosen.format](exportable(network, chosen.labels), path, metadata, dtype)
        checks = check(network, runner, chosen.labels, dtype)
    except Exception as error:  # torch, onnx and onnxruntime raise their own
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{type(network).__name__} cannot be exported as {chosen.format}: {reason_of(error)}"
        ) from error
    lines = "\n".join(f"  {one}" for one in checks)
    if not all(one.good for one in checks):
        path.unlink()
        raise UserError(
            f"the exported network gives other results than the checkpoint; no file is kept.\n{lines}"
        )
    given = (
        "labels (batch, height, width) uint8" if chosen.labels else "logits (batch, classes, height, width)"
    )
    print(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB): images (batch, 3, height, width) {str(dtype)[6:]} in 0..255"
        f" -> {given}\nchecked against the checkpoint:\n{lines}\n\n# This runs it, without this package:\n"
        f"{standalone(path, chosen.labels, dtype, data.palette)}"
    )


def _parser() -> Arguments:
    parser = Arguments(
        prog="lightning-seg export",
        description="Write a network as a file that runs without this package, and check it.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", help="a run, whose best checkpoint is taken, or an experiment")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="onnx, or pt2 for torch.export")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to; model.onnx in the run unless given"
    )
    parser.add_argument("--labels", action="store_true", help="give labels (uint8) instead of logits")
    parser.add_argument(
        "--float", action="store_true", help="take images as float32 in 0..255 instead of uint8"
    )
    return parser
