"""Parts of your own for experiments/NAME.yaml: change what you need, delete what you do not.

The YAML names them by NAME.MyNetwork, NAME.MyLoss and so on. Their arguments are settings: give one a new argument, and
the YAML and the command line have it, with its default and the check of its type.
"""

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seg import (
    IGNORE_INDEX,  # 255: pixels that do not count
    ImageMetric,
    Network,
    SegmentationData,
)


class MyNetwork(Network):
    """A decoder and a head on the feature maps of a backbone; the base class normalizes, pads and resizes.

    Args:
        num_classes: C; comes from the data.
        backbone: Any model of timm.
        weights: Pretrained weights of the backbone: true, false, or a file.
        channels: Width of the decoder.
    """

    def __init__(
        self, num_classes: int, backbone: str = "resnet18", weights: bool | str = True, channels: int = 32
    ) -> None:
        super().__init__(backbone, weights, output_stride=32)
        shallow, deep = self.backbone.channels[-3], self.backbone.channels[-1]
        self.decoder = nn.ModuleList([nn.Conv2d(shallow, channels, 1), nn.Conv2d(deep, channels, 1)])
        self.head = nn.Conv2d(channels, num_classes, 3, padding=1)

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Turn the image (B, 3, H, W) and its feature maps, the finest first, into what `head` is given."""
        assert isinstance(self.decoder, nn.ModuleList)
        fine, coarse = self.decoder[0](features[-3]), self.decoder[1](features[-1])
        return F.relu(fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False))


class MyLoss(nn.Module):
    """Cross-entropy in which easy pixels count less, the more so the larger `gamma`.

    Args:
        gamma: 0 is cross-entropy.
    """

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the mean over counted pixels: logits (B, C, H, W) float32, masks (B, H, W) int64."""
        cost = F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX, reduction="none")
        weight = (
            1 - torch.exp(-cost.detach())
        ) ** self.gamma  # of a pixel: what its class's probability lacks
        return (weight * cost).sum() / (masks != IGNORE_INDEX).sum().clamp(min=1)


class MyMetric(ImageMetric):
    """The share of images in which at most a tenth of the pixels are wrong.

    A metric measures a row of numbers in each image, and makes its scores of all rows: so they do not depend on batches
    or processes.
    """

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """Wrong pixels, and counted ones."""
        return (2,)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Measure one image: predicted and true classes (H, W)."""
        counted = truth != IGNORE_INDEX
        return np.array([(labels != truth)[counted].sum(), counted.sum()])

    def scores(self, rows: np.ndarray) -> dict[str, float | np.ndarray]:
        """Make scores by name of all rows (N, 2)."""
        return {"images_right": float(np.mean(rows[:, 0] <= 0.1 * rows[:, 1]))}


class MyData(SegmentationData):
    """Drawn disks and rings. For your own files, list them in `list_samples` and leave out `read`.

    Args:
        train_images: Number of training images.
        **kwargs: As for every data set: batch_size, crop_size, augmentation, splits, ...
    """

    class_names = ("background", "disk", "ring")
    palette = ((40, 40, 40), (230, 25, 75), (60, 180, 75))  # for pictures

    def __init__(self, train_images: int = 64, **kwargs: Any) -> None:
        super().__init__(root="", **kwargs)  # for files: take an argument `root` and hand it on
        self.train_images = train_images

    def list_samples(self, split: str) -> list[tuple[str, int]]:
        """List the samples of a split; for files, pairs (image path, mask path).

        images = sorted((self.root / split / "images").glob("*.jpg"))
        return [(image, self.root / split / "masks" / f"{image.stem}.png") for image in images]
        """
        numbers = {"train": self.train_images, "val": 16, "test": 16}
        if split not in numbers:
            raise self.unknown(split, numbers)
        return [(split, number) for number in range(numbers[split])]

    def read(self, sample: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Read image (H, W, 3) and mask (H, W), both uint8; `IGNORE_INDEX` in the mask does not count."""
        split, number = sample
        rng = np.random.default_rng([("train", "val", "test").index(split), number])
        image = rng.integers(60, 120, (80, 96, 3), np.uint8)
        mask = np.zeros((80, 96), np.uint8)
        for _ in range(4):
            label = int(rng.integers(1, 3))
            center, radius = rng.integers(10, 75, 2).tolist(), int(rng.integers(8, 16))
            color = (220, 90, 60) if label == 1 else (70, 190, 220)
            cv2.circle(image, center, radius, color, -1 if label == 1 else 4)
            cv2.circle(mask, center, radius, label, -1 if label == 1 else 4)
        return image, mask

    def name_of(self, sample: tuple[str, int]) -> str:
        """Name a sample, for tables and pictures; not needed for files."""
        return f"{sample[0]}_{sample[1]:03d}"
