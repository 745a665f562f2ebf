"""Writers of exported networks: ONNX and torch.export files for batches of any number and images of any size."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.inference.export.exportable import ClassMasks, Labels
from lightning_seg.networks.base import channels_of

Run = Callable[[np.ndarray], np.ndarray]
"""Runs an exported file: maps images (B, C, H, W) to its output."""

Size = tuple[int, int]
"""Height and width of images."""


def _example(module: nn.Module, dtype: torch.dtype, size: Size | None) -> Tensor:
    """Return the batch that exporters trace a network with."""
    network = module.network if isinstance(module, Labels | ClassMasks) else module
    return torch.zeros(2, channels_of(network), *(size or (97, 129)), dtype=dtype)


def _axes(size: Size | None) -> dict[int, str]:
    """Name the axes whose length is free."""
    return {0: "batch"} if size else {0: "batch", 2: "height", 3: "width"}


def export_onnx(
    module: nn.Module, path: Path, metadata: dict[str, str], dtype: torch.dtype, size: Size | None = None
) -> Run:
    """Write an ONNX file (opset 18) with dynamic batch, height and width.

    Args:
        module: The network, see `exportable`.
        path: File to write.
        metadata: Texts that the file carries.
        dtype: Type of the images' values.
        size: Of the images, where only the batch is to be dynamic.

    Returns:
        The file in onnxruntime.

    Raises:
        UserError: A package of the extra `export` is not installed.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    with _quiet_exporters():
        program: Any = torch.onnx.export(
            module,
            (_example(module, dtype, size),),
            dynamo=True,
            dynamic_shapes=(_axes(size),),
            opset_version=18,
            input_names=["images"],
            output_names=["labels" if isinstance(module, Labels | ClassMasks) else "logits"],
            verbose=False,
        )
        program.model.metadata_props.update(metadata)
        program.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def export_pt2(
    module: nn.Module, path: Path, metadata: dict[str, str], dtype: torch.dtype, size: Size | None = None
) -> Run:
    """Write a torch.export file; see `export_onnx`. Its images must be larger than the network's stride."""
    free = dict.fromkeys(_axes(size), torch.export.Dim.DYNAMIC)
    with _quiet_exporters():
        images = _example(module, dtype, size)
        program = torch.export.export(module, (images,), dynamic_shapes=(free,), strict=False)
        torch.export.save(program, path, extra_files=dict(metadata))
        run = torch.export.load(path).module()
    return lambda images: run(torch.from_numpy(images)).detach().numpy()


FORMATS = {"onnx": export_onnx, "pt2": export_pt2}


def reason_of(error: Exception) -> str:
    """Return the most telling line of an exporter's error, at most 200 characters."""
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
def _quiet_exporters() -> Iterator[None]:
    """Silence what exporters print and warn about on the way."""
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
