"""The `export` command: ONNX and torch.export files that take images as they are, checked against the network."""

import copy
import importlib.util
import json
import logging
import pkgutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import DataOnly, quiet, trained
from lightning_seg.experiment.files import experiment_file
from lightning_seg.inference.export.exportable import Labels, exportable
from lightning_seg.networks.base import Network
from lightning_seg.plotting.pictures import Palette
from lightning_seg.runs.directory import existing_run

ARCHITECTURES = (
    "fcn.FCN8s",
    "deeplab.DeepLabV3",
    "deeplab.DeepLabV3Plus",
    "unet.UNet",
    "segnet.SegNet",
    "pspnet.PSPNet",
    "fpn.FPN",
    "upernet.UPerNet",
    "linknet.LinkNet",
    "unetplusplus.UNetPlusPlus",
)
BACKBONES = ("resnet50", "resnet101", "vgg16")
_SIZES = ((1, 3, 97, 129), (3, 3, 160, 96))  # what an exported file is checked with: alone and as a batch
_TOLERANCE = 1e-3  # of the largest logit
_REMARK = (
    "SegNet puts a value where the maximum of a cell was. Where two values of a cell are equal but for rounding, "
    "another place can win: on VGG16, pixels that differ by a millionth do the same to PyTorch itself."
)
_AXES = {0: "batch", 2: "height", 3: "width"}

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Check:
    """How an exported network compares with the one it was made of, on a batch of noise.

    Attributes:
        shape: Of the batch.
        difference: Largest difference of a logit; NaN where the file gives labels only.
        mean: Mean difference of a logit; NaN likewise.
        largest: Largest magnitude of a logit.
        agreement: Fraction of pixels with the same label.
    """

    shape: tuple[int, ...]
    difference: float
    mean: float
    largest: float
    agreement: float

    @property
    def good(self) -> bool:
        """Whether the difference is rounding, which may move single maxima, and with them what is unpooled."""
        return not self.mean > _TOLERANCE * self.largest and self.agreement > 0.99

    def __str__(self) -> str:
        batch, _, height, width = self.shape
        same = f"{100 * self.agreement:.3f} % of the labels are the same"
        if np.isnan(self.difference):
            return f"batch of {batch}, {height}x{width}: {same}"
        return (
            f"batch of {batch}, {height}x{width}: largest difference {self.difference:.1e} "
            f"(logits up to {self.largest:.3g}), {same}"
        )


def export_onnx(module: nn.Module, path: Path, metadata: dict[str, str], kind: torch.dtype) -> Run:
    """Write an ONNX file for batches of any number of images of any size.

    Args:
        module: See `exportable`.
        path: File to write.
        metadata: Texts that the file carries.
        kind: Type of the images' values, in 0..255.

    Returns:
        What runs the file: images (B, 3, H, W) to its output.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    with _hushed():
        program: Any = torch.onnx.export(
            module,
            (_noise((2, *_SIZES[0][1:])).to(kind),),
            dynamo=True,
            dynamic_shapes=(_AXES,),
            opset_version=18,
            input_names=["images"],
            output_names=[_output(module)],
            verbose=False,
        )
        program.model.metadata_props.update(metadata)
        program.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def export_pt2(module: nn.Module, path: Path, metadata: dict[str, str], kind: torch.dtype) -> Run:
    """Write a torch.export file; see `export_onnx`. Its images must be larger than the network's stride."""
    any_size = dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC)
    with _hushed():
        images = _noise((2, *_SIZES[0][1:])).to(kind)
        program = torch.export.export(module, (images,), dynamic_shapes=(any_size,), strict=False)
        torch.export.save(program, path, extra_files=dict(metadata))
        run = torch.export.load(path).module()
    return lambda images: run(torch.from_numpy(images)).detach().numpy()


FORMATS = {"onnx": export_onnx, "pt2": export_pt2}


def check(network: Network, run: Run, labels: bool, kind: torch.dtype) -> list[Check]:
    """Compare an exported network with the one it was made of, on single images and batches of two sizes."""
    network = copy.deepcopy(network).cpu().float().eval()
    checks = []
    for shape in _SIZES:
        images = _noise(shape)
        with torch.inference_mode():
            expected = network(images).numpy()
        found = run(images.to(kind).numpy())
        predicted = found if labels else found.argmax(1)
        error = np.full(1, np.nan) if labels else np.abs(found - expected)
        agreement = float((predicted == expected.argmax(1)).mean())
        largest = float(np.abs(expected).max())
        checks.append(Check(shape, float(error.max()), float(error.mean()), largest, agreement))
    return checks


def standalone(path: Path, labels: bool, kind: torch.dtype, palette: Palette) -> str:
    """Return a Python program that runs an exported file without this package."""
    onnx = path.suffix == ".onnx"
    dtype = str(kind).removeprefix("torch.")
    load = (
        f"onnxruntime.InferenceSession({path.name!r})"
        if onnx
        else f"torch.export.load({path.name!r}).module()"
    )
    call = (
        'network.run(None, {"images": images})[0]'
        if onnx
        else "network(torch.from_numpy(images)).detach().numpy()"
    )
    return f"""\
import sys

import numpy as np
import {"onnxruntime" if onnx else "torch"}
from PIL import Image

network = {load}
image = Image.open(sys.argv[1]).convert("RGB")
images = np.array(image, dtype=np.{dtype}).transpose(2, 0, 1)[None]  # (1, 3, height, width) in 0..255
mask = {call}[0]{"" if labels else ".argmax(0).astype(np.uint8)"}
picture = Image.fromarray(mask)  # its values are the classes
picture.putpalette({[value for colour in palette for value in colour]})
picture.save("mask.png")
"""


def main(args: list[str]) -> None:
    """Export a run or an experiment, ``RUN|NAME [--format onnx|pt2] [--output FILE] [--key=value ...]``."""
    chosen, settings = _parser().parse_known_args(args)
    if chosen.matrix:
        write_matrix(chosen.matrix)
        return
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
    kind = torch.float32 if chosen.float else torch.uint8
    metadata = {"classes": json.dumps(data.class_names), "palette": json.dumps(data.palette)}
    try:
        runner = FORMATS[chosen.format](exportable(network, chosen.labels), path, metadata, kind)
        checks = check(network, runner, chosen.labels, kind)
    except Exception as error:  # torch, onnx and onnxruntime raise their own
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{type(network).__name__} cannot be exported as {chosen.format}: {_reason(error)}"
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
        f"{path} ({path.stat().st_size / 1e6:.1f} MB): images (batch, 3, height, width) {str(kind)[6:]} in 0..255"
        f" -> {given}\nchecked against the checkpoint:\n{lines}\n\n# This runs it, without this package:\n"
        f"{standalone(path, chosen.labels, kind, data.palette)}"
    )


def write_matrix(output: Path, backbones: Sequence[str] = BACKBONES) -> None:
    """Export every architecture on every backbone to ONNX, and write how exact that is as a Markdown table."""
    rows = [
        "| architecture | backbone | MB | largest difference | of the largest logit | same labels |",
        "|---|---|---|---|---|---|",
    ]
    for name in ARCHITECTURES:
        for backbone in backbones:
            cells = _matrix_cells(pkgutil.resolve_name(f"lightning_seg.networks.{name}"), backbone)
            rows.append(f"| {name.split('.')[1]} | {backbone} | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    used = ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxruntime"))
    sizes = " and ".join(f"{shape[0]} of {shape[2]}x{shape[3]}" for shape in _SIZES)
    output.write_text(
        "# ONNX export\n\nWritten by `lightning-seg export --matrix FILE`: networks of 21 classes with random weights, "
        f"exported with pre-processing inside and dynamic batch, height and width (opset 18), compared in onnxruntime "
        f"on noise images, {sizes}; the worse of the two. {used}.\n\n" + "\n".join(rows) + f"\n\n{_REMARK}\n"
    )
    print(output)


def _matrix_cells(build: Callable[..., Network], backbone: str) -> list[str]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        try:
            network = build(21, backbone, weights=False).eval()
            checks = check(
                network, export_onnx(exportable(network), path, {}, torch.uint8), False, torch.uint8
            )
        except Exception as error:
            return ["–", "–", "–", f"does not export: {_reason(error)}"]
        size = path.stat().st_size / 1e6
    worst = max(checks, key=lambda one: one.difference / one.largest)
    return [
        f"{size:.0f}",
        f"{worst.difference:.1e}",
        f"{worst.difference / worst.largest:.1e}",
        f"{100 * min(one.agreement for one in checks):.3f} %",
    ]


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
    parser.add_argument(
        "--matrix",
        type=Path,
        metavar="FILE",
        help="export every architecture, write a table of how exact that is",
    )
    return parser


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _output(module: nn.Module) -> str:
    return "labels" if isinstance(module, Labels) else "logits"


def _reason(error: Exception) -> str:
    """Return the line of an exporter's pages that says most."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]


def _require(*packages: str) -> None:
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise UserError(
            f"export as ONNX needs {', '.join(missing)}. Install with `uv pip install {' '.join(missing)}`."
        )


@contextmanager
def _hushed():
    """Hold back what exporters print and warn about on the way."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(action="ignore"):
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
