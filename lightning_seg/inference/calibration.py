"""Calibration of probabilities: temperature scaling, reliability diagram, ECE (Guo et al., arXiv:1706.04599)."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.folds import block_folds, group_folds
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.runs.directory import BEST_CHECKPOINT, PICTURES

CALIBRATION = "calibration.json"
LARGEST = 20.0  # temperature; the smallest is its inverse
_PIXELS = 200_000  # whose logits the temperature is fitted to
_SIDE, _GAP = 300, 56
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


class Evaluating(Protocol):
    """What calibration asks of a task."""

    @property
    def device(self) -> torch.device:
        """Where its network is."""

    def evaluated(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield images, logits (B, C, H, W), masks (B, H, W) and their index (B,)."""


class Reliability:
    """Reliability diagram: accuracy of the pixels in each interval of confidence.

    Args:
        bins: Number of intervals of equal width in 0..1.

    Attributes:
        table: (bins, 3): number of pixels, sum of their confidences, number of correct ones.
    """

    def __init__(self, bins: int = 15) -> None:
        self.table = np.zeros((bins, 3))

    def update(self, logits: Tensor, masks: Tensor) -> None:
        """Add logits (B, C, H, W) and masks (B, H, W); pixels of `IGNORE_INDEX` are left out."""
        confidence, labels = logits.softmax(1).max(1)
        counted = masks != IGNORE_INDEX
        confidence, right = confidence[counted].double(), (labels == masks)[counted].double()
        bins = len(self.table)
        place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # (0, 1/15], (1/15, 2/15], ...
        for i, values in enumerate((None, confidence, right)):
            self.table[:, i] += torch.bincount(place, values, bins).cpu().numpy()

    @property
    def ece(self) -> float:
        """Expected calibration error: mean absolute difference of confidence and accuracy over all pixels, 0..1."""
        pixels, confidence, right = self.table.T
        return float(np.abs(confidence - right).sum() / pixels.sum())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimizes the cross-entropy of softmax(logits / temperature).

    It lies between 1 / `LARGEST` and `LARGEST`.

    Args:
        logits: (N, C).
        labels: (N,).
    """
    logits, labels = logits.double(), labels.long()
    limit = math.log(LARGEST)
    power = torch.zeros((), dtype=torch.float64, requires_grad=True)  # logarithm: temperatures are above 0
    optimizer = torch.optim.LBFGS([power], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / power.clamp(-limit, limit).exp(), labels)
        value.backward()
        return value

    optimizer.step(loss)
    return float(power.detach().clamp(-limit, limit).exp())


def temperature_of(run: Path, checkpoint: Path | None = None) -> float:
    """Return the temperature that `lightning-seg calibrate` found for a run; 1 if there is none.

    Args:
        run: The run directory.
        checkpoint: The checkpoint that is used; the best by default.
    """
    try:
        known = json.loads((run / CALIBRATION).read_text())
    except FileNotFoundError:
        return 1.0
    if known["step"] == _step(checkpoint or run / BEST_CHECKPOINT):
        return known["temperature"]
    print(f"{run / CALIBRATION} is of another checkpoint and not used; calibrate the run again")
    return 1.0


@dataclass(frozen=True)
class HeldOut:
    """What a temperature changes on images that it was not fitted to; those of each half by that of the other half.

    Attributes:
        loss: Mean negative log-likelihood of the pixels before and after scaling.
        ece: Expected calibration error before and after.
    """

    loss: tuple[float, float]
    ece: tuple[float, float]

    @property
    def helps(self) -> bool:
        """Whether the likelihood rises and the calibration error does not."""
        return self.loss[1] < self.loss[0] and self.ece[1] <= self.ece[0]


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        fitted: The temperature that fits all pixels best.
        fitted_on: The split whose pixels it was fitted to.
        pixels: Number of these pixels.
        held_out: Its effect on held-out images; None where there is only one image.
        reliability: For each split before and after scaling by it.
    """

    fitted: float
    fitted_on: str
    pixels: int
    held_out: HeldOut | None
    reliability: dict[str, tuple[Reliability, Reliability]]

    @property
    def temperature(self) -> float:
        """The temperature that is kept: 1 if the fitted one does not help on held-out images."""
        return self.fitted if self.held_out is not None and self.held_out.helps else 1.0

    @property
    def at_limit(self) -> bool:
        """Whether a temperature beyond the limits would have fitted better."""
        return not 1 / LARGEST * 1.001 < self.fitted < LARGEST / 1.001

    def save(self, run: Path) -> list[Path]:
        """Write the temperature and the diagrams of the best checkpoint into a run directory; return the files."""
        result = {
            "temperature": self.temperature,
            "fitted": self.fitted,
            "fitted_on": self.fitted_on,
            "held_out": self.held_out and asdict(self.held_out),
            "step": _step(run / BEST_CHECKPOINT),
            "ece": {
                split: {"before": before.ece, "after": after.ece}
                for split, (before, after) in self.reliability.items()
            },
        }
        (run / CALIBRATION).write_text(json.dumps(result, indent=2) + "\n")
        (run / PICTURES).mkdir(exist_ok=True)
        picture = run / PICTURES / "reliability.png"
        draw(self.reliability, self.fitted).save(picture)
        return [run / CALIBRATION, picture]


def calibrate(
    task: Evaluating, loaders: Mapping[str, Iterable[Batch]], fitted_on: str, half: np.ndarray
) -> Calibration:
    """Fit a temperature on one split, check it on held-out images of it, and measure the calibration on all splits.

    Args:
        task: A task of semantic segmentation in evaluation mode.
        loaders: The batches of each split.
        fitted_on: The split whose pixels the temperature is fitted to.
        half: Half of each of its images (N,), 0 or 1: each is held out from a fit to the other.
    """
    with torch.inference_mode():
        logits, labels, images = _sample(task, loaders[fitted_on], _PIXELS // len(half) + 1)
    held_out = check_held_out(logits, labels, torch.from_numpy(half)[images])
    temperature = fit_temperature(logits, labels)
    found = {split: _measure(task, loader, temperature) for split, loader in loaders.items()}
    return Calibration(temperature, fitted_on, len(labels), held_out, found)


def halves(data: SegmentationData, split: str) -> np.ndarray:
    """Divide the images of a split into two halves (N,), 0 or 1, as folds are: groups and sequences stay together."""
    groups = [data.group_of(sample) for sample in data.samples(split)]
    if len(set(groups)) > 1:
        return group_folds(groups, 2)
    return block_folds(len(groups), 2) if data.sequence and len(groups) > 1 else np.arange(len(groups)) % 2


def check_held_out(logits: Tensor, labels: Tensor, half: Tensor) -> HeldOut | None:
    """Fit a temperature to each half of the pixels, and measure it on the other half.

    Args:
        logits: (N, C).
        labels: (N,).
        half: (N,), 0 or 1.

    Returns:
        The effect; None if a half is empty.
    """
    if not 0 < int(half.sum()) < len(half):
        return None
    scaled = logits.clone()
    for i in (0, 1):
        scaled[half == i] /= fit_temperature(logits[half != i], labels[half != i])
    loss, ece = [], []
    for values in (logits, scaled):
        loss.append(float(F.cross_entropy(values.double(), labels.long())))
        reliability = Reliability()
        reliability.update(values.T[None, :, None], labels[None, None])
        ece.append(reliability.ece)
    return HeldOut((loss[0], loss[1]), (ece[0], ece[1]))


def draw(found: dict[str, tuple[Reliability, Reliability]], temperature: float) -> Image.Image:
    """Draw reliability diagrams: one row for each split, before scaling on the left and after it on the right."""
    width, height = 2 * (_SIDE + _GAP) + 24, len(found) * (_SIDE + 112)
    canvas = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for row, (split, pair) in enumerate(found.items()):
        names = ("as trained", f"divided by {temperature:.2f}")
        for column, (reliability, name) in enumerate(zip(pair, names, strict=True)):
            corner = column * (_SIDE + _GAP) + _GAP, row * (_SIDE + 112) + 30
            title = f"{split}, {name}: ECE {100 * reliability.ece:.2f} %"
            _diagram(pen, font, corner, title, reliability.table)
    return canvas


def _diagram(
    pen: ImageDraw.ImageDraw,
    font: Font,
    corner: tuple[int, int],
    title: str,
    table: np.ndarray,
) -> None:
    """Draw the accuracy of each bin as a bar, its confidence as a line, and its share of the pixels below."""
    (left, top), bins = corner, len(table)
    bottom, step = top + _SIDE, _SIDE / bins
    pen.text((left, top - 22), title, "black", font)
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - value * _SIDE
        pen.line((left, y, left + _SIDE, y), "#dddddd")
        pen.text((left - 6, y), f"{value:g}", "black", font, "rm")
        pen.text((left + value * _SIDE, bottom + 36), f"{value:g}", "black", font, "mt")
    for i, (pixels, confidence, right) in enumerate(table):
        if pixels:
            box = left + i * step + 1, left + (i + 1) * step - 1
            pen.rectangle((box[0], bottom - right / pixels * _SIDE, box[1], bottom), "#1f6fb4")
            y = bottom - confidence / pixels * _SIDE
            pen.line((box[0], y, box[1], y), "#dc143c", 3)
            pen.rectangle(
                (box[0], bottom + 32 - 28 * pixels / table[:, 0].sum(), box[1], bottom + 32), "#999999"
            )
    pen.line((left, bottom, left + _SIDE, top), "black")
    pen.rectangle((left, top, left + _SIDE, bottom), outline="black")
    pen.text((left, bottom + 52), "blue: accuracy; red: confidence; gray: share of pixels", "black", font)


def _sample(task: Evaluating, loader: Iterable[Batch], per_image: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw equally many pixels from every image; return their logits (N, C), labels (N,) and numbers of images (N,)."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for logits, masks, index in _evaluated(task, loader):
        for one, mask, number in zip(logits, masks, index.tolist(), strict=True):
            counted = (mask.flatten() != IGNORE_INDEX).nonzero()[:, 0]
            chosen = counted[torch.randperm(len(counted), generator=generator)[:per_image].to(counted.device)]
            numbers = torch.full((len(chosen),), number)
            parts.append((one.flatten(1)[:, chosen].T.cpu(), mask.flatten()[chosen].cpu(), numbers))
    logits, labels, images = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits, labels, images


def _measure(
    task: Evaluating, loader: Iterable[Batch], temperature: float
) -> tuple[Reliability, Reliability]:
    before, after = Reliability(), Reliability()
    with torch.inference_mode():
        for logits, masks, _ in _evaluated(task, loader):
            before.update(logits, masks)
            after.update(logits / temperature, masks)
    return before, after


def _evaluated(task: Evaluating, loader: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for batch in loader:
        for _, logits, masks, index in task.evaluated(move_data_to_device(batch, task.device)):
            yield logits.float(), masks, index


def _step(checkpoint: Path) -> int:
    """Return the number of training steps at a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
