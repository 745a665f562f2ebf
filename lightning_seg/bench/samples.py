"""How fast training samples are made, beside torchvision and albumentations on the same work."""

import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_seg import IGNORE_INDEX
from lightning_seg.bench.timing import Goal
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.dataset import Split
from lightning_seg.data.loading import collate, keep_memory
from lightning_seg.data.transforms.color import apply_color
from lightning_seg.data.transforms.geometry import FILL
from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 8
DECODE = "decode alone"
FILES, CACHED, WORKER = "ours, from files", "ours, cached", "ours, cached, without the device's part"
TORCHVISION = "torchvision v2, from files"
ALBUMENTATIONS = "albumentations, cached"
GOALS = (
    Goal(CACHED, TORCHVISION, 20),
    Goal(CACHED, ALBUMENTATIONS, 1.5),
    Goal(FILES, DECODE, 0.85),
)

Make = Callable[[Sequence[int]], object]


def sample_ways(data: SegmentationData) -> tuple[dict[str, Callable[[], float]], int]:
    """Make the ways to make samples, all with the settings of the data set.

    Files are always read by the data set, so that all profit from its decoder. Ours are batches of 8, with the part
    that is the device's (colors and normalization) done on the processor as well; the others are left as single
    samples, whose images torchvision smooths before it makes them smaller.

    Args:
        data: The data set; its own `cache` should be `none`.

    Returns:
        The ways, each of which returns seconds of processor time, and the number of images in a turn.

    Raises:
        UserError: If the experiment does not change colors, or has fewer images than a batch.
    """
    if data.instances or data.overlapping:
        raise UserError("bench data times masks of one class a pixel, and this experiment has others.")
    if data.color is None:
        raise UserError(
            "bench compares ways to change colors, too, and this experiment leaves them alone. Add "
            "--data.init_args.color='{brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}'."
        )
    samples = data.samples(data.train_split)
    samples = samples[: min(8, len(samples) // BATCH) * BATCH]
    if not samples:
        raise UserError(f"bench needs {BATCH} training images; {data.train_split} has fewer.")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_memory()
    pairs = [data.read(sample) for sample in samples]
    files, cached = (Split(data, data.train_split, train=True, cache=cache) for cache in (None, pairs))
    normalize = Backbone([1], [1], MEAN, STD).normalize  # what a network does first
    plain = _torchvision(data)

    def ours(split: Split, batch: Sequence[int]) -> object:
        out = collate([split[0, i] for i in batch])
        return normalize(apply_color(out["image"], out["color"])), out["mask"]

    makers: dict[str, Make] = {
        DECODE: lambda batch: [data.read(samples[i]) for i in batch],
        TORCHVISION: lambda batch: [plain(*data.read(samples[i])) for i in batch],
        FILES: lambda batch: ours(files, batch),
        CACHED: lambda batch: ours(cached, batch),
        WORKER: lambda batch: collate([cached[0, i] for i in batch]),
    }
    try:
        other = _albumentations(data)
    except ImportError:
        pass
    else:
        makers["albumentations, from files"] = lambda batch: [other(*data.read(samples[i])) for i in batch]
        makers[ALBUMENTATIONS] = lambda batch: [other(*pairs[i]) for i in batch]
    batches = [range(start, start + BATCH) for start in range(0, len(samples), BATCH)]

    def timed(make: Make) -> Callable[[], float]:
        def turn() -> float:
            start = time.process_time()
            for batch in batches:
                make(batch)
            return time.process_time() - start

        return turn

    return {name: timed(make) for name, make in makers.items()}, len(samples)


def _torchvision(data: SegmentationData) -> Callable[[np.ndarray, np.ndarray], object]:
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

    def make(image: np.ndarray, mask: np.ndarray) -> object:
        pixels = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous())
        resize = v2.ScaleJitter((image.shape[0], image.shape[1]), crop.scale_range)
        return after(*resize(pixels, tv_tensors.Mask(torch.from_numpy(mask))))

    return make


def _albumentations(data: SegmentationData) -> Callable[[np.ndarray, np.ndarray], object]:
    import albumentations as A

    assert data.color is not None
    crop, flip = data.geometry
    color = data.color
    factors = [(1 - spread, 1 + spread) for spread in (color.brightness, color.contrast, color.saturation)]
    pipeline = A.Compose(
        [
            A.RandomScale((crop.scale_range[0] - 1, crop.scale_range[1] - 1), p=1),
            A.PadIfNeeded(*crop.size, fill=FILL, fill_mask=IGNORE_INDEX),
            A.RandomCrop(*crop.size),
            A.HorizontalFlip(p=flip.p),
            A.ColorJitter(*factors, (-color.hue, color.hue), p=1),
            A.Normalize(MEAN, STD),
        ]
    )
    return lambda image, mask: pipeline(image=image, mask=mask)
