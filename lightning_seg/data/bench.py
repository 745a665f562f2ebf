"""How fast samples are made, beside torchvision and albumentations on the same work."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_seg.data.loading import collate
from lightning_seg.data.split import Split
from lightning_seg.data.transforms import FILL, apply_color
from lightning_seg.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from lightning_seg.data.base import SegmentationData

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = (0.4, 0.4, 0.4, 0.1)
BATCH = 8

Make = Callable[[Sequence[int]], Any]


def bench(
    data: SegmentationData, rounds: int = 7, scale: tuple[float, float] = (0.5, 2.0)
) -> dict[str, float]:
    """Time how much processor time a training sample takes, in one thread.

    Every way makes the same: random scale, crop to the data set's `crop_size`, flip, brightness, contrast,
    saturation and hue, normalised ``float32`` batches of 8. The ways take turns.

    Args:
        data: The data set, with `color` set; it should keep its own `cache` at `none`.
        rounds: How often each way takes its turn; the median counts.
        scale: Smallest and largest magnification.

    Returns:
        Milliseconds a sample of each way.
    """
    cv2.setNumThreads(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    samples = [
        data.samples(data.train_split)[i] for i in range(min(8 * BATCH, len(data.samples(data.train_split))))
    ]
    pairs = [data.read(sample) for sample in samples]
    files = Split(data, data.train_split, train=True)
    cached = Split(data, data.train_split, train=True)
    cached.cache = pairs
    plain = _torchvision(data.crop_size, scale)
    ways: dict[str, Make] = {
        "decode alone": lambda batch: [data.read(samples[i]) for i in batch],
        "torchvision v2, from files": lambda batch: [plain(*data.read(samples[i])) for i in batch],
        "lightning_seg, from files": lambda batch: _ours(files, batch),
        "lightning_seg, cached": lambda batch: _ours(cached, batch),
        "lightning_seg, cached, without the device's part": lambda batch: collate(
            [cached[0, i] for i in batch]
        ),
    }
    try:
        other = _albumentations(data.crop_size, scale)
    except ImportError:
        pass
    else:
        ways["albumentations, from files"] = lambda batch: [other(*data.read(samples[i])) for i in batch]
        ways["albumentations, cached"] = lambda batch: [other(*pairs[i]) for i in batch]
    times: dict[str, list[float]] = {name: [] for name in ways}
    batches = [range(start, start + BATCH) for start in range(0, len(samples) - BATCH + 1, BATCH)]
    for turn in range(rounds + 1):  # the first warms up
        for name, make in ways.items():
            start = time.process_time()
            for batch in batches:
                make(batch)
            if turn:
                times[name].append((time.process_time() - start) / len(batches) / BATCH * 1000)
    torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in times.items()}


def table(milliseconds: dict[str, float]) -> str:
    """Render the result of `bench`, with the speed relative to torchvision."""
    base = milliseconds["torchvision v2, from files"]
    width = max(map(len, milliseconds))
    lines = [f"{'one thread':{width}}  ms/image  images/s  speed"]
    for name, value in sorted(milliseconds.items(), key=lambda item: -item[1]):
        lines.append(f"{name:{width}}  {value:8.3f}  {1000 / value:8.0f}  {base / value:4.1f}x")
    load = os.getloadavg()[0]
    if load > 1.5:
        lines.append(f"Other programs were busy (load {load:.1f}), which makes all of this slower.")
    return "\n".join(lines)


def _ours(split: Split, batch: Sequence[int]) -> Any:
    out = collate([split[0, i] for i in batch])
    image = apply_color(out["image"], out["color"])
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return torch.addcmul(-mean / std, image, 1 / (255 * std), out=image), out["mask"]


def _torchvision(
    crop: tuple[int, int], scale: tuple[float, float]
) -> Callable[[np.ndarray, np.ndarray], Any]:
    after = v2.Compose(
        [
            v2.RandomCrop(
                crop, pad_if_needed=True, fill={tv_tensors.Image: FILL, tv_tensors.Mask: IGNORE_INDEX}
            ),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(*JITTER),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def make(image: np.ndarray, mask: np.ndarray) -> Any:
        pixels = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous())
        resize = v2.ScaleJitter((image.shape[0], image.shape[1]), scale)
        return after(*resize(pixels, tv_tensors.Mask(torch.from_numpy(mask))))

    return make


def _albumentations(
    crop: tuple[int, int], scale: tuple[float, float]
) -> Callable[[np.ndarray, np.ndarray], Any]:
    import albumentations as A

    pipeline = A.Compose(
        [
            A.RandomScale((scale[0] - 1, scale[1] - 1), p=1),
            A.PadIfNeeded(*crop, fill=FILL, fill_mask=IGNORE_INDEX),
            A.RandomCrop(*crop),
            A.HorizontalFlip(),
            A.ColorJitter(*((1 - j, 1 + j) for j in JITTER[:3]), (-JITTER[3], JITTER[3]), p=1),
            A.Normalize(MEAN, STD),
        ]
    )
    return lambda image, mask: pipeline(image=image, mask=mask)
