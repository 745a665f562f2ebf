"""How fast training samples of four bands of 16 bits are made, beside torchgeo's pipeline: a table of processor time.

`python docs/scripts/bands_speed.py FOLDER`; FOLDER holds `bands` of `docs/scripts/eight_datasets.py`. torchgeo's
pipeline is that of its Landsat data modules: rasterio, float32, then Kornia's normalization, random resized crop and
flip of the batch. Needs `torchgeo` and `kornia`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import kornia.augmentation as K
import numpy as np
import rasterio
import torch
from kornia.constants import DataKey, Resample

from lightning_seg.bench.timing import Goal, table, take_turns
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.loading import collate, keep_memory
from lightning_seg.networks.backbones.base import Backbone

BANDS, CROP, BATCH, IMAGES = (4, 2, 1, 6), 160, 8, 32
TORCHGEO, OURS = "torchgeo, from files", "ours, from files"


def ways(root: Path) -> dict[str, Callable[[], float]]:
    """Make the ways, each of which returns seconds of processor time of an epoch of 32 images."""
    data = Folder(
        str(root), ["other", "road", "tree"], bands=[*BANDS], batch_size=BATCH, crop_size=(CROP, CROP), hflip=0.5,
        scale_range=(1.0, 1.3),
    )  # fmt: skip
    samples = [data.samples("train")[i] for i in range(IMAGES)]
    pairs = [data.read(sample) for sample in samples]
    files, cached = Split(data, "train", train=True), Split(data, "train", train=True)
    cached.cache = pairs
    mean, std = (
        getattr(np.stack([image for image, _ in pairs]), name)((0, 1, 2)) for name in ("mean", "std")
    )
    backbone = Backbone([1], [1])
    backbone.expect(data.pixels, data.measurement)
    augment = K.AugmentationSequential(
        K.Normalize(mean=torch.tensor(mean), std=torch.tensor(std)),
        K.RandomResizedCrop((CROP, CROP), scale=(0.6, 1.0)),
        K.RandomHorizontalFlip(p=0.5),
        data_keys=None,
        keepdim=True,
        extra_args={DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": None}},
    )

    def ours(split: Split) -> Callable[[range], object]:
        return lambda batch: backbone.normalize(collate([split[0, i] for i in batch])["image"])

    def read(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        with rasterio.open(samples[i][0]) as image, rasterio.open(samples[i][1]) as mask:
            values = image.read([band + 1 for band in BANDS]).astype(np.float32)
            return torch.from_numpy(values), torch.from_numpy(mask.read(1).astype(np.int64))

    def torchgeo(of: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> Callable[[range], object]:
        def make(batch: range) -> object:
            images, masks = zip(*map(of, batch), strict=True)
            return augment({"image": torch.stack(images), "mask": torch.stack(masks)[:, None].float()})

        return make

    kept = [
        (torch.from_numpy(image).permute(2, 0, 1).float(), torch.from_numpy(mask).long())
        for image, mask in pairs
    ]
    makers = {
        TORCHGEO: torchgeo(read),
        OURS: ours(files),
        "decoding alone, ours": lambda batch: [data.read(samples[i]) for i in batch],
        "torchgeo, from memory": torchgeo(lambda i: kept[i]),
        "ours, cached": ours(cached),
    }

    def timed(make: Callable[[range], object]) -> Callable[[], float]:
        def turn() -> float:
            start = time.process_time()
            for first in range(0, IMAGES, BATCH):
                make(range(first, first + BATCH))
            return time.process_time() - start

        return turn

    return {name: timed(make) for name, make in makers.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_memory()
    times = take_turns(ways(Path(sys.argv[1]) / "bands"), 7)
    print(table(times, TORCHGEO, (Goal(OURS, TORCHGEO, 1),), unit=IMAGES))
