"""``lightning-seg export``: write a network as a file that runs without this package, and check it."""

import json
from pathlib import Path

from lightning_seg.cli.arguments import Arguments, output_file
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    options, settings = _parser().parse_with_settings(arguments)
    run = existing_run(options.name) if Path(options.name).is_dir() else None
    file = None if run else experiment_file(options.name)

    import torch

    from lightning_seg.experiment.experiment import TaskAndData
    from lightning_seg.experiment.loading import load_run
    from lightning_seg.inference.export.check import check
    from lightning_seg.inference.export.exportable import exportable
    from lightning_seg.inference.export.formats import FORMATS, reason_of
    from lightning_seg.inference.export.standalone import standalone
    from lightning_seg.networks.base import Network

    settings = ["--model.compile=false", *settings]
    if run:
        loaded = load_run(run, settings)
        task, data, path = loaded.task, loaded.data, run / f"model.{options.format}"
    else:
        assert file is not None
        built = TaskAndData(["-c", str(file), *settings])
        task, data, path = built.model, built.datamodule, Path(f"{file.stem}.{options.format}")
        print(f"note: {options.name} is an experiment, no run: its weights are random")
    path = options.output or path
    network = task.network
    if not isinstance(network, Network):
        raise UserError(f"export takes networks of semantic segmentation, not {type(network).__name__}.")
    dtype = torch.float32 if options.float else torch.uint8
    metadata = {"classes": json.dumps(data.class_names), "palette": json.dumps(data.palette)}
    try:
        runner = FORMATS[options.format](exportable(network, options.labels), path, metadata, dtype)
        checks = check(network, runner, options.labels, dtype)
    except Exception as error:  # torch, onnx and onnxruntime raise their own
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{type(network).__name__} cannot be exported as {options.format}: {reason_of(error)}"
        ) from error
    lines = "\n".join(f"  {one}" for one in checks)
    if not all(one.good for one in checks):
        path.unlink()
        raise UserError(
            f"the exported network gives other results than the checkpoint; no file is kept.\n{lines}"
        )
    given = (
        "labels (batch, height, width) uint8" if options.labels else "logits (batch, classes, height, width)"
    )
    print(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB): images (batch, 3, height, width) {str(dtype)[6:]} in 0..255"
        f" -> {given}\nchecked against the checkpoint:\n{lines}\n\n# This runs it, without this package:\n"
        f"{standalone(path, options.labels, dtype, data.palette)}"
    )


def _parser() -> Arguments:
    parser = Arguments(
        "lightning-seg export",
        "Write a network as a file that runs without this package, and check that it gives the same results.",
        "lightning-seg export runs/unet_camvid --format onnx --output unet.onnx",
        settings=True,
    )
    add = parser.add_argument
    add("name", metavar="RUN|NAME", help="a run, whose best checkpoint is taken, or an experiment")
    add("--format", choices=("onnx", "pt2"), default="onnx", help="onnx (default), or pt2 for torch.export")
    add("--output", type=output_file, metavar="FILE", help="where to; model.onnx in the run unless given")
    add("--labels", action="store_true", help="give labels (uint8) instead of logits")
    add("--float", action="store_true", help="take images as float32 in 0..255 instead of uint8")
    return parser
