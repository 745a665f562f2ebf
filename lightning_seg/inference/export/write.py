"""Export of a network to a file that is kept only if it gives what the network gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.dataset import Split
from lightning_seg.errors import UserError
from lightning_seg.inference.export.check import Batch, Check, check
from lightning_seg.inference.export.exportable import exportable
from lightning_seg.inference.export.formats import FORMATS, Run, Size, reason_of
from lightning_seg.inference.predictor import Predictor
from lightning_seg.networks.base import Network

IMAGES = 4  # of the validation split that a file is checked on


def write(
    network: Network,
    path: Path,
    form: str,
    labels: bool,
    dtype: torch.dtype,
    metadata: dict[str, str],
    batches: Sequence[Batch],
    thresholds: torch.Tensor | None = None,
    size: Size | None = None,
) -> tuple[Run, list[Check]]:
    """Export a network and compare the file with it; an earlier file is replaced only if it is good.

    Args:
        network: The network.
        path: The file.
        form: Its format, one of `FORMATS`.
        labels: Whether it gives labels instead of logits.
        dtype: Type of the images that it takes.
        metadata: Texts that the file carries.
        batches: The images to compare on.
        thresholds: Least logit (K,) of each class, if classes may overlap.
        size: Height and width of the images, if the file is to take no others.

    Returns:
        What runs the file, and the comparison of each batch.

    Raises:
        UserError: The network cannot be exported, or the file gives something else.
    """
    unfinished = path.with_name(f".unfinished-{path.name}")
    hint = "" if size else "\nIt may work for images of a single size, with --size=HEIGHTxWIDTH."
    try:
        run = FORMATS[form](exportable(network, labels, thresholds), unfinished, metadata, dtype, size)
        checks = check(network, run, labels, dtype, batches, thresholds)
        if not all(one.good for one in checks):
            lines = "\n".join(f"  {one}" for one in checks)
            raise UserError(
                f"the exported network gives other results than the checkpoint; no file is kept.\n{lines}{hint}"
            )
        unfinished.replace(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    except Exception as error:  # torch, onnx and onnxruntime raise their own
        what = "of {}x{}".format(*size) if size else "of any size"
        raise UserError(
            f"{network.title} cannot be exported as {form} for images {what}: {reason_of(error)}{hint}"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return run, checks


def validation_images(data: SegmentationData) -> list[Batch]:
    """Return images of the validation split, evenly spaced, each a batch of its own.

    Raises:
        UserError: The data is not there.
    """
    split = Split(data, data.val_split)
    batches = []
    for i in sorted({int(i) for i in np.linspace(0, len(split) - 1, IMAGES)}):
        image = split[i]["image"].numpy()[None]
        batches.append((f"{data.val_split} image {data.name_of(split.samples[i])}", image))
    return batches


def agreement(
    run: Run, labels: bool, dtype: torch.dtype, model: Predictor, batches: Sequence[Batch]
) -> float:
    """Return the fraction of pixels for which a file gives the labels of a model with inference and post-processing.

    Args:
        run: The exported network.
        labels: Whether it gives labels instead of logits.
        dtype: Type of the images that it takes.
        model: The model that `predict` uses.
        batches: The images, each a batch of its own.
    """
    same = []
    for _, images in batches:
        found = run(torch.from_numpy(images).to(dtype).numpy())[0]
        predicted = found if labels else found.argmax(0)
        same.append((predicted == model(images[0].transpose(1, 2, 0))).ravel())
    return float(np.concatenate(same).mean())
