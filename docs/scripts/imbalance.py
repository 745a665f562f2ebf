"""What sampling and losses do for a class with 0.6 % of the pixels: a table.

`python docs/scripts/imbalance.py ISBI FOLDER [SEEDS]`; ISBI is the folder of that data set (see
`lightning_seg.data.datasets.isbi`). Of its cells only the small cross-sections, of 20 to 175 pixels, are a class. The
first 16 slices are learned by a network of five dilated convolutions, four choose the threshold, four are tested.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from lightning_seg.data.class_frequencies import positive_pixels
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.loading import collate
from lightning_seg.metrics.multi_label import LogitHistograms, average_precision, best_thresholds, counts_at
from lightning_seg.metrics.scores import class_iou
from lightning_seg.training.losses import CompoundLoss
from lightning_seg.training.multi_label_losses import (
    BinaryCrossEntropy,
    BinaryDiceLoss,
    BinaryFocalLoss,
    MultiLabelLoss,
)

STEPS, BATCH = 1600, 8

VARIANTS: dict[str, tuple[Any, float]] = {
    "`BinaryCrossEntropy`": (BinaryCrossEntropy, 0),
    "the same, `class_balanced_crops: 0.5`": (BinaryCrossEntropy, 0.5),
    "`positive_weights: inverse_sqrt`": (lambda: BinaryCrossEntropy("inverse_sqrt"), 0),
    "`positive_weights: inverse`": (lambda: BinaryCrossEntropy("inverse"), 0),
    "`BinaryFocalLoss`": (BinaryFocalLoss, 0),
    "`BinaryDiceLoss`": (BinaryDiceLoss, 0),
    "`BinaryCrossEntropy` + `BinaryDiceLoss`": (lambda: CompoundLoss([BinaryCrossEntropy(), BinaryDiceLoss()]), 0),
    "the same, `class_balanced_crops: 0.5`, too": (
        lambda: CompoundLoss([BinaryCrossEntropy(), BinaryDiceLoss()]), 0.5,
    ),
}  # fmt: skip


def gather(isbi: Path, root: Path) -> float:
    """Write images and masks into a folder for each split; return the share of the class."""
    shares = []
    for number in range(24):
        image, label = (np.asarray(Image.open(isbi / part / f"{number}.png")) for part in ("image", "label"))
        parts, _ = ndimage.label(label > 0)
        areas = np.bincount(parts.ravel())
        mask = ((areas >= 20) & (areas <= 175))[parts].astype(np.uint8)
        split = "train" if number < 16 else "val" if number < 20 else "test"
        for folder, array in (("images", image), ("masks", mask)):
            path = root / folder / split / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        shares.append(mask.mean())
    return float(np.mean(shares))


def network(channels: int = 12) -> nn.Sequential:
    """Make a network that sees 63 pixels around each."""
    layers: list[nn.Module] = []
    for place, dilation in enumerate((1, 2, 4, 8, 16)):
        before = channels if place else 1
        layers += [
            nn.Conv2d(before, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def grey(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W) as (B, 1, H, W) in about -1 to 1."""
    return images[:, :1].float() / 128 - 1


def histograms(net: nn.Module, data: Folder, split: str) -> np.ndarray:
    """Count the logits of a split where the class is and where it is not."""
    found, samples = LogitHistograms(1), Split(data, split)
    with torch.inference_mode():
        for index in range(len(samples)):
            batch = collate([samples[index]])
            found.update(net(grey(batch["image"])), batch["mask"])
    return found.compute().numpy()


def scores(root: Path, loss: nn.Module, balanced: float, seed: int) -> list[float]:
    """Train; return IoU at 0.5, IoU at the threshold that is best in validation, AP, and the threshold."""
    torch.manual_seed(seed)
    data = Folder(
        str(root), ["rest", "small cell"], batch_size=BATCH, crop_size=(64, 64), scale_range=(0.9, 1.1), cache="ram",
        class_balanced_crops=balanced, seed=seed,
    )  # fmt: skip
    data.overlapping = True
    if isinstance(loss, MultiLabelLoss) and loss.balance:
        loss.set_counts(*map(torch.from_numpy, positive_pixels(data)))
    net, split = network().train(), Split(data, "train", train=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS)
    for step in range(STEPS):
        epoch, first = divmod(step * BATCH, len(split))
        batch = collate([split[epoch, first + i] for i in range(BATCH)])
        optimizer.zero_grad()
        loss(net(grey(batch["image"])), batch["mask"]).backward()
        optimizer.step()
        rates.step()
    net.eval()
    threshold = best_thresholds(histograms(net, data, "val"))
    test = histograms(net, data, "test")
    half, tuned = (float(class_iou(counts_at(test, at))[0]) for at in (np.zeros(1), threshold))
    return [half, tuned, float(average_precision(test)[0]), float(1 / (1 + np.exp(-threshold[0])))]


def table(isbi: Path, folder: Path, seeds: int) -> str:
    """Train all variants; give the mean over the seeds and half of their range."""
    share = gather(isbi, folder)
    lines = [
        f"{100 * share:.2f} % of the pixels, {seeds} seeds", "",
        "| loss, sampling | IoU at 0.5 | IoU, tuned threshold | AP | threshold |", "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for name, (make, balanced) in VARIANTS.items():
        found = np.array([scores(folder, make(), balanced, seed) for seed in range(seeds)])
        cells = (f"{m:.3f} ± {s / 2:.3f}" for m, s in zip(found.mean(0), np.ptp(found, 0), strict=True))
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3))
