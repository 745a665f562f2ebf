"""``lightning-seg export``: write a network as a file that runs without this package, and check it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_seg.cli.arguments import Arguments, output_file, size
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file
from lightning_seg.runs.directory import existing_run

if TYPE_CHECKING:
    import torch

    from lightning_seg.data.base import SegmentationData
    from lightning_seg.inference.export.check import Batch
    from lightning_seg.inference.export.formats import Run
    from lightning_seg.tasks.semantic import SemanticSegmentation


def main(arguments: list[str]) -> None:
    """Run the command."""
    options, settings = _parser().parse_with_settings(arguments)
    run = existing_run(options.name) if Path(options.name).is_dir() else None
    file = None if run else experiment_file(options.name)

    import torch

    from lightning_seg.experiment.experiment import TaskAndData
    from lightning_seg.experiment.loading import load_run
    from lightning_seg.inference.export.check import noise
    from lightning_seg.inference.export.standalone import standalone
    from lightning_seg.inference.export.write import validation_images, write
    from lightning_seg.networks.base import Network
    from lightning_seg.tasks.multi_label import MultiLabelSegmentation
    from lightning_seg.tasks.semantic import SemanticSegmentation

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
    if not (isinstance(network, Network) and isinstance(task, SemanticSegmentation | MultiLabelSegmentation)):
        raise UserError(f"export takes networks that label pixels, not {type(network).__name__}.")
    images, note = [], ""
    try:
        images = validation_images(data) if run else []
    except UserError as error:
        note = f"\nnot on images of {data.val_split}: {str(error).splitlines()[0]}"
    wide = data.pixels.takes_any_values if not images else any(one.dtype != "uint8" for _, one in images)
    dtype = torch.float32 if options.float or wide else torch.uint8
    images = [one for one in images if options.size in (None, one[1].shape[2:])]
    metadata = {"classes": json.dumps(data.class_names), "palette": json.dumps(data.palette)}
    thresholds = task.thresholds if isinstance(task, MultiLabelSegmentation) else None
    least = None if thresholds is None else dict(zip(task.scored_classes, thresholds.tolist(), strict=True))
    if least is not None:
        metadata |= {"classes": json.dumps(task.scored_classes), "thresholds": json.dumps(least)}
    found, checks = write(
        network,
        path,
        options.format,
        options.labels,
        dtype,
        metadata,
        [*images, *noise(data.num_channels, options.size)],
        thresholds,
        options.size,
    )
    if isinstance(task, MultiLabelSegmentation):
        note += f"\nnot in the file: {task.inference!r}" if task.inference is not None else ""
    elif task.inference is not None or task.postprocess is not None:
        note += _what_is_left_out(task, data, found, options.labels, dtype, images)
    given = "labels (batch, height, width) uint8"
    if not options.labels or least is not None:
        given = f"{'masks of 0 and 1' if options.labels else 'logits'} (batch, classes, height, width)"
    lines = "\n".join(f"  {one}" for one in checks)
    program = standalone(path, options.format, options.labels, dtype, data.palette, data.pixels, least)
    stored = f"{path.stat().st_size / 1e6:.1f} MB"
    lengths = "{}, {}".format(*options.size) if options.size else "height, width"
    print(
        f"{path} ({stored}): images (batch, {data.num_channels}, {lengths}) {str(dtype)[6:]}, with the values of"
        f" their files -> {given}\nchecked against the checkpoint, in float32 as 'predict' computes:\n{lines}{note}"
        f"\n\n# This runs it, without this package:\n{program}"
    )


def _what_is_left_out(
    task: "SemanticSegmentation",
    data: "SegmentationData",
    run: "Run",
    labels: bool,
    dtype: "torch.dtype",
    images: Sequence["Batch"],
) -> str:
    """Say what `predict` does beside running the network, and how much that changes."""
    from lightning_seg.inference.export.write import agreement
    from lightning_seg.inference.predictor import Predictor

    steps = [repr(step) for step in (task.postprocess.steps if task.postprocess else ())]
    parts = ", ".join([repr(task.inference)] * (task.inference is not None) + steps)
    text = f"\nnot in the file, which is the network alone: {parts}"
    if images:
        postprocess = task.postprocess.of_logits if task.postprocess else None
        model = Predictor(
            task.network,
            data.class_names,
            data.palette,
            task.inference,
            task.temperature,
            postprocess,
            data.pixels,
        )
        same = agreement(run, labels, dtype, model, images)
        text += f"\n'predict', which does this, gives the same label for {100 * same:.2f} % of the pixels"
    return text


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
    add(
        "--size",
        type=size,
        metavar="HEIGHTxWIDTH",
        help="take images of this size alone; of any unless given",
    )
    add("--float", action="store_true", help="take images as float32 instead of uint8, with the same values")
    return parser
