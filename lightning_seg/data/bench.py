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

from lightning_seg.data.loading import collate, keep_memory
from lightning_seg.data.split import Split
from lightning_seg.data.transforms import FILL, apply_color
from lightning_seg.errors import UserError
from lightning_seg.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from lightning_seg.data.base import SegmentationData

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 8
DECODE = "decode alone"
FILES, CACHED, WORKER = (
    f"lightning_seg, {what}" for what in ("from files", "cached", "cached, without the device's part")
)
TORCHVISION = "torchvision v2, from files"
ALBUMENTATIONS = "albumentations, cached"
GOALS = (
    (CACHED, TORCHVISION, 20.0),
    (CACHED, ALBUMENTATIONS, 1.5),
    (FILES, DECODE, 0.85),
)

Make = Callable[[Sequence[int]], Any]


def bench(data: SegmentationData, rounds: int = 7) -> dict[str, float]:
    """Time how much processor time a training sample takes, in one thread.

    Every way makes the same, with the settings of the data set: random scale, crop to `crop_size`, flip, brightness,
    contrast, saturation and hue, normalisation to ``float32``. The ways take turns with 64 samples each. Files are
    always read by the data set, so that all profit from its decoder. Ours are batches of 8, with the part that is the
    device's (colours and normalisation) done on the processor as well; the others are left as single samples.

    Args:
        data: The data set; its own `cache` should be `none`.
        rounds: How often each way takes its turn; the median counts.

    Returns:
        Milliseconds a sample of each way.

    Raises:
        UserError: If the experiment does not change colours, or has fewer images than a batch.
    """
    from lightning_seg.networks.backbone import Encoder

    if data.color is None:
        raise UserError(
            "bench compares ways to change colours, too, and this experiment leaves them alone. Add "
            "--data.init_args.color='{brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}'."
        )
    samples = data.samples(data.train_split)[: 8 * BATCH]
    if len(samples) < BATCH:
        raise UserError(f"bench needs {BATCH} training images; {data.train_split} has {len(samples)}.")
    cv2.setNumThreads(0)
    keep_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pairs = [data.read(sample) for sample in samples]
    files, cached = (Split(data, data.train_split, train=True) for _ in range(2))
    cached.cache = pairs
    normalize = Encoder([1], [1], MEAN, STD).normalize  # what a network does first
    plain = _torchvision(data)

    def ours(split: Split, batch: Sequence[int]) -> Any:
        out = collate([split[0, i] for i in batch])
        return normalize(apply_color(out["image"], out["color"])), out["mask"]

    ways: dict[str, Make] = {
        DECODE: lambda batch: [data.read(samples[i]) for i in batch],
        TORCHVISION: lambda batch: [plain(*data.read(samples[i])) for i in batch],
        FILES: lambda batch: ours(files, batch),
        CACHED: lambda batch: ours(cached, batch),
        WORKER: lambda batch: collate([cached[0, i] for i in batch]),
    }
    try:
        other = _albumentations(data)
    except ImportError:
        pass  # `table` says so
    else:
        ways["albumentations, from files"] = lambda batch: [other(*data.read(samples[i])) for i in batch]
        ways[ALBUMENTATIONS] = lambda batch: [other(*pairs[i]) for i in batch]
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
    """Render the result of `bench`, with the speed relative to torchvision, and what of it was aimed at."""
    base = milliseconds[TORCHVISION]
    width = max(map(len, milliseconds))
    lines = [f"{'one thread':{width}}  ms/image  images/s  speed"]
    for name, value in sorted(milliseconds.items(), key=lambda item: -item[1]):
        lines.append(f"{name:{width}}  {value:8.3f}  {1000 / value:8.0f}  {base / value:4.1f}x")
    lines.append("")
    for ours, other, goal in GOALS:
        if other in milliseconds:
            speed = milliseconds[other] / milliseconds[ours]
            reached = "reached" if speed >= goal else "missed"
            lines.append(f"{ours} / {other}: {speed:.2f}x, goal {goal:g}x {reached}")
        else:
            lines.append("To compare with albumentations: `uv pip install albumentations`.")
    load = os.getloadavg()[0]
    if load > 1.5:
        lines.append(f"Other programs were busy (load {load:.1f}), which makes all of this slower.")
    return "\n".join(lines)


def _torchvision(data: SegmentationData) -> Callable[[np.ndarray, np.ndarray], Any]:
    assert data.color is not None
    crop, flip = data.geometry
    color = data.color
    after = v2.Compose(
        [
            v2.RandomCrop(
                crop.size, pad_if_needed=True, fill={tv_tensors.Image: FILL, tv_tensors.Mask: IGNORE_INDEX}
            ),
            v2.RandomHorizontalFlip(flip.p),
            v2.ColorJitter(color.brightness, color.contrast, color.saturation, color.hue),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def make(image: np.ndarray, mask: np.ndarray) -> Any:
        pixels = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous())
        resize = v2.ScaleJitter((image.shape[0], image.shape[1]), crop.scale)
        return after(*resize(pixels, tv_tensors.Mask(torch.from_numpy(mask))))

    return make


def _albumentations(data: SegmentationData) -> Callable[[np.ndarray, np.ndarray], Any]:
    import albumentations as A

    assert data.color is not None
    crop, flip = data.geometry
    color = data.color
    factors = [(1 - spread, 1 + spread) for spread in (color.brightness, color.contrast, color.saturation)]
    pipeline = A.Compose(
        [
            A.RandomScale((crop.scale[0] - 1, crop.scale[1] - 1), p=1),
            A.PadIfNeeded(*crop.size, fill=FILL, fill_mask=IGNORE_INDEX),
            A.RandomCrop(*crop.size),
            A.HorizontalFlip(p=flip.p),
            A.ColorJitter(*factors, (-color.hue, color.hue), p=1),
            A.Normalize(MEAN, STD),
        ]
    )
    return lambda image, mask: pipeline(image=image, mask=mask)
