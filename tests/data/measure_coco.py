"""Seconds and memory that a data set of COCO's size takes: 118 000 images, 860 000 polygons, drawn.

`python tests/data/measure_coco.py make ROOT` writes it (images are links to a few small files), `... ours ROOT` starts
training on it and reads an epoch with one worker, `... pycocotools ROOT` does the same with a plain `Dataset`. The first
line is what imports alone take. Memory is the system's word: PSS counts shared pages by share, USS only pages of the
process alone. `EPOCH` shortens the epoch, `LIGHTNING_SEG_CACHE` says where the index is kept.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

IMAGES, OBJECTS = 118_000, 860_000
SIZE = (48, 64)
EPOCH = int(os.environ.get("EPOCH", IMAGES))  # images of an epoch that are read


def make(root: Path, images: int = IMAGES, objects: int = OBJECTS) -> None:
    """Write both splits; the val split has a twentieth."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, share in (("val", 24), ("train", 1)):
        folder = root / f"{split}2017"
        folder.mkdir()
        count, first = images // share, 10**6 * (split == "val")
        for i in range(count):
            name = folder / f"{first + i:012d}.jpg"
            if i % 20_000 == 0:  # file systems limit the links to one file
                original = name
                Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(name)
            else:
                os.link(original, name)
        with (root / "annotations" / f"instances_{split}2017.json").open("w") as file:
            listed = [
                {"license": 3, "file_name": f"{first + i:012d}.jpg", "coco_url": "http://images/" + "0" * 24, "height": SIZE[0],
                 "width": SIZE[1], "date_captured": "2013-11-14 17:02:52", "flickr_url": "http://farm9/" + "0" * 34, "id": first + i}
                for i in rng.permutation(count).tolist()
            ]  # fmt: skip
            file.write(f'{{"info": {{}}, "licenses": [], "images": {json.dumps(listed)}, "annotations": [')
            for place in range(objects // share):
                points = int(np.clip(rng.lognormal(3.1, 0.6), 4, 300))
                angles = np.sort(rng.uniform(0, 2 * np.pi, points))
                radius = rng.uniform(3, 12) * rng.uniform(0.7, 1, points)
                x, y = rng.uniform(14, 34, 2) + (8, 0)
                polygon = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).round(2)
                low, high = polygon.min(0), polygon.max(0)
                entry = {
                    "segmentation": [polygon.ravel().tolist()], "area": round(float(np.prod(high - low) / 2), 2), "iscrowd": 0,
                    "image_id": first + int(rng.integers(count)), "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
                    "category_id": int(rng.integers(1, 81)), "id": place + 1,
                }  # fmt: skip
                file.write((", " if place else "") + json.dumps(entry))
            categories = [{"supercategory": "x", "id": i, "name": f"class {i}"} for i in range(1, 81)]
            file.write(f'], "categories": {json.dumps(categories)}}}')


def memory(process: int | str = "self") -> str:
    """Say PSS, USS and RSS of a process, in MB."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name[:-1]] = int(size)
    own = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return "PSS {:6.0f}  USS {:6.0f}  RSS {:6.0f} MB".format(
        *(n / 1024 for n in (sizes["Pss"], own, sizes["Rss"]))
    )


class Clock:
    """Tells how long a step took."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a step."""
        self.wall, self.cpu = time.perf_counter(), sum(os.times()[:4])

    def tell(self, what: str) -> None:
        """End a step, and begin the next."""
        wall, cpu = time.perf_counter() - self.wall, sum(os.times()[:4]) - self.cpu
        load = os.getloadavg()[0]
        print(
            f"{what:28s} {wall:7.1f} s  {cpu:6.1f} CPU s (load {load:.0f})  {memory()}",
            flush=True,
        )
        self.start()


def an_epoch(loader: object, clock: Clock) -> None:
    """Read an epoch; tell the memory of the worker at its beginning and end."""
    from multiprocessing import active_children

    iterator = iter(loader)  # type: ignore[call-overload]
    next(iterator)
    (worker,) = active_children()
    print(f"{'worker, first batch':58s} {memory(worker.pid or 0)}")
    clock.tell("process, first batch")
    read = batch = 0
    for batch in iterator:
        read += len(batch["index"] if isinstance(batch, dict) else batch[1])
        if read >= EPOCH:
            break
    print(f"{f'worker, {read} images later':58s} {memory(worker.pid or 0)}")
    clock.tell(f"process, {read} images later")


def ours(root: Path) -> None:
    """Start training as `lightning-seg exp` does, up to the first batch, and read on."""
    from lightning_seg.data.datasets.coco import COCO

    clock = Clock()
    clock.tell("imports done")
    data = COCO(str(root), batch_size=16, crop_size=(32, 32), num_workers=1, seed=0)
    clock.tell("COCO(...)")
    data.setup("fit")
    clock.tell("setup, look at samples")
    print(data.fingerprint)
    clock.tell("fingerprint")
    an_epoch(data.train_dataloader(), clock)


class Plain(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What people write with pycocotools."""

    def __init__(self, root: Path) -> None:
        from pycocotools.coco import COCO

        self.root = root
        self.coco = COCO(str(root / "annotations/instances_train2017.json"))
        self.ids = sorted(self.coco.imgs)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        listed = self.coco.loadImgs(self.ids[index])[0]
        image = np.array(Image.open(self.root / "train2017" / listed["file_name"]).convert("RGB"))
        mask = np.zeros(image.shape[:2], np.uint8)
        for entry in self.coco.loadAnns(self.coco.getAnnIds(imgIds=self.ids[index])):
            mask[self.coco.annToMask(entry) > 0] = entry["category_id"]
        return torch.from_numpy(image), torch.from_numpy(mask)


def plain(root: Path) -> None:
    """The same with pycocotools."""
    import lightning_seg.data.datasets.coco  # noqa: F401  the same imports, for the same beginning

    clock = Clock()
    clock.tell("imports done")
    dataset = Plain(root)
    clock.tell("index")
    loader = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True, num_workers=1)
    an_epoch(loader, clock)


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    {"make": make, "ours": ours, "pycocotools": plain}[what](folder)
