"""Eight data sets as their owners hold them: `python docs/scripts/eight_datasets.py SOURCES FOLDER`.

SOURCES holds CamVid (in the SegNet tutorial's layout), ISBI2012 and PennFudanPed; FOLDER gets a folder for each data
set of docs/own_data.md, `masks`, `colors`, `video`, `coco`, `labelme`, `yolo`, `bands` and `overlapping`, for the
experiments of `experiments/own/` (`root: FOLDER/masks` ...). Images and labels are real, at half their size; made are
the bands of `bands`, which are mixed of red, green and blue, and its place on earth.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import rasterio
from PIL import Image

from lightning_seg.data.datasets.camvid import CamVid

ROAD, PAVEMENT, TREE, CAR, PEDESTRIAN, BICYCLIST, VOID = 3, 4, 5, 8, 9, 10, 11  # numbers in CamVid's masks


class Frame(NamedTuple):
    """An image of CamVid: its drive and number, the split that it has here, image (H, W, 3) and mask (H, W)."""

    drive: str
    number: str
    split: str
    image: np.ndarray
    mask: np.ndarray

    @property
    def name(self) -> str:
        """The name that the file has in CamVid."""
        return f"{self.drive}_{self.number}"


def frames(sources: Path) -> Iterator[Frame]:
    """List every fifth frame of the training and of the validation split."""
    for split in ("train", "val"):
        for image in sorted((sources / "CamVid" / split).glob("*.png"))[::5]:
            drive, _, number = image.stem.partition("_")
            mask = read(image.parent.with_name(f"{split}annot") / image.name)[::2, ::2]
            yield Frame(drive, number, split, half(read(image)), mask)


def pedestrians(sources: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Read name, image and numbered objects of every second image of Penn-Fudan."""
    folder = sources / "PennFudanPed"
    for image in sorted((folder / "PNGImages").glob("*.png"))[::2]:
        yield image.stem, half(read(image)), read(folder / "PedMasks" / f"{image.stem}_mask.png")[::2, ::2]


def slices(sources: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Read number, image and mask (255 is a cell) of the slices of ISBI 2012, of each a quarter."""
    for image in sorted((sources / "ISBI2012/image").glob("*.png"), key=lambda path: int(path.stem)):
        label = read(sources / "ISBI2012/label" / image.name)
        yield int(image.stem), read(image)[:256, :256], label[:256, :256]


def read(path: Path) -> np.ndarray:
    """Read a picture."""
    return np.asarray(Image.open(path))


def half(image: np.ndarray) -> np.ndarray:
    """Make an image half as large."""
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def save(array: np.ndarray, path: Path) -> None:
    """Write a picture, and the folders above it; the ending says in what format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 92} if path.suffix == ".jpg" else {}))


def outlines(inside: np.ndarray, least: int = 10) -> list[np.ndarray]:
    """Draw around the parts of a mask (H, W) as a person would: points (N, 2), x and y in pixels; no holes."""
    found, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    simple = [cv2.approxPolyDP(one, 0.7, closed=True)[:, 0] for one in found if cv2.contourArea(one) >= least]
    return [one for one in simple if len(one) > 2]


def masks(sources: Path, root: Path) -> None:
    """Masks of 0 and 255, in images/ and masks/."""
    for number, image, mask in slices(sources):
        save(image, root / f"images/{number:02}.png")
        save(mask, root / f"masks/{number:02}.png")


def colors(sources: Path, root: Path) -> None:
    """Masks of colors, in a folder for each split; black is void."""
    table = np.zeros((256, 3), np.uint8)
    table[:VOID] = CamVid.palette
    for frame in frames(sources):
        save(frame.image, root / f"images/{frame.split}/{frame.name}.png")
        save(table[frame.mask], root / f"masks/{frame.split}/{frame.name}_L.png")


def video(sources: Path, root: Path) -> None:
    """Frames in a folder for each video, and lists of those to learn and to validate."""
    numbers = np.zeros(256, np.uint8)
    numbers[[ROAD, CAR, PEDESTRIAN, BICYCLIST, VOID]] = 1, 2, 3, 3, 255
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for frame in frames(sources):
        drive = f"{frame.drive}_later" if frame.split == "val" else frame.drive
        lists[frame.split].append(f"{drive}/{frame.number}.jpg")
        save(frame.image, root / f"images/{drive}/{frame.number}.jpg")
        save(numbers[frame.mask], root / f"masks/{drive}/{frame.number}.png")
    for split, names in lists.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")


def coco(sources: Path, root: Path) -> None:
    """Roboflow's export in COCO's format: a JSON file beside the images of each split, category 0 unused."""
    names = {"bicyclist": BICYCLIST, "car": CAR, "pedestrian": PEDESTRIAN}
    categories = [{"id": 0, "name": "street", "supercategory": "none"}]
    categories += [{"id": i, "name": name, "supercategory": "street"} for i, name in enumerate(names, 1)]
    files: dict[str, dict[str, list[object]]] = {}
    for frame in frames(sources):
        split = {"train": "train", "val": "valid"}[frame.split]
        file = files.setdefault(split, {"categories": [*categories], "images": [], "annotations": []})
        name, mask = f"{frame.name}_png.rf.{hash_of(frame.name):032x}.jpg", frame.mask
        save(frame.image, root / split / name)
        number = len(file["images"])
        file["images"].append(
            {"id": number, "license": 1, "file_name": name, "height": mask.shape[0], "width": mask.shape[1]}
        )
        for category, label in enumerate(names.values(), 1):
            for points in outlines(mask == label):
                left, top, width, height = cv2.boundingRect(points)
                file["annotations"].append(
                    {
                        "id": len(file["annotations"]), "image_id": number, "category_id": category, "iscrowd": 0,
                        "bbox": [left, top, width, height], "area": float(cv2.contourArea(points)),
                        "segmentation": [points.ravel().tolist()],
                    }
                )  # fmt: skip
    for split, contents in files.items():
        (root / split / "_annotations.coco.json").write_text(json.dumps(contents))


def hash_of(name: str) -> int:
    """Make a number of a name, the same in every process."""
    return int.from_bytes(name.encode()[-8:], "big")


def labelme(sources: Path, root: Path) -> None:
    """LabelMe's JSON file beside each image."""
    for name, image, numbers in pedestrians(sources):
        save(image, root / f"images/{name}.jpg")
        shapes = [
            {
                "label": "pedestrian", "points": points.astype(float).tolist(), "group_id": None,
                "shape_type": "polygon", "flags": {},
            }
            for number in range(1, numbers.max() + 1)
            for points in outlines(numbers == number)
        ]  # fmt: skip
        contents = {
            "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None,
            "imageHeight": image.shape[0], "imageWidth": image.shape[1],
        }  # fmt: skip
        (root / f"images/{name}.json").write_text(json.dumps(contents, indent=2))


def yolo(sources: Path, root: Path) -> None:
    """YOLO's polygons, a text file for each image, and data.yaml."""
    for number, image, mask in slices(sources):
        split = "val" if number >= 18 else "train"
        save(image, root / f"images/{split}/{number:02}.jpg")
        size = np.array(mask.shape[::-1])
        lines = [
            " ".join(["0", *(f"{value:.6f}" for value in (points / size).ravel())])
            for points in outlines(mask > 0)
        ]
        label = root / f"labels/{split}/{number:02}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cell\n")


MIXED = {
    "coastal": (-0.2, 0.1, 0.9), "blue": (0, 0.1, 0.9), "green": (0.1, 0.8, 0.1), "yellow": (0.5, 0.5, 0),
    "red": (0.9, 0.1, 0), "red edge": (0.5, 0.7, -0.3), "nir1": (-0.4, 1.8, -0.5), "nir2": (-0.5, 1.7, -0.4),
}  # fmt: skip
"""Share of red, green and blue in each band, in the order of the satellite WorldView-2."""


def bands(sources: Path, root: Path) -> None:
    """GeoTIFFs of eight bands, 12 bits in uint16, with names, a place on earth and a corner without data (0)."""
    mixing = np.array([*MIXED.values()], np.float32)
    numbers = np.zeros(256, np.uint8)
    numbers[[ROAD, PAVEMENT, TREE, VOID]] = 1, 1, 2, 255
    rng = np.random.default_rng(0)
    for place, frame in enumerate(frames(sources)):
        image, mask = frame.image.astype(np.float32), numbers[frame.mask]
        values = (image @ mixing.T * 10 + 400 + rng.normal(0, 12, (*mask.shape, len(MIXED)))).clip(1, 4095)
        rows, columns = np.indices(mask.shape)
        values[rows + columns < 40] = 0
        height, width = mask.shape
        profile = {
            "driver": "GTiff", "height": height, "width": width, "crs": "EPSG:32633", "compress": "deflate",
            "transform": rasterio.Affine(2, 0, 600_000 + 2 * width * place, 0, -2, 5_300_000),
        }  # fmt: skip
        for folder, array in (("images", values.astype(np.uint16)), ("masks", mask[..., None])):
            path = root / folder / frame.split / f"{frame.name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            own = {"count": array.shape[2], "dtype": array.dtype.name}
            if folder == "images":
                own["nodata"] = 0
            with rasterio.open(path, "w", **profile, **own) as file:
                file.write(array.transpose(2, 0, 1))
                for number, name in enumerate(MIXED if folder == "images" else (), 1):
                    file.set_band_description(number, name)


def overlapping(sources: Path, root: Path) -> None:
    """A mask for each class, where there is any of it: a bicyclist is a person and a vehicle."""
    members = {"person": (PEDESTRIAN, BICYCLIST), "vehicle": (CAR, BICYCLIST), "ground": (ROAD, PAVEMENT)}
    for frame in frames(sources):
        save(frame.image, root / f"images/{frame.split}/{frame.name}.jpg")
        mask = frame.mask
        for name, labels in members.items():
            if (inside := np.isin(mask, labels)).any():
                save(inside.astype(np.uint8) * 255, root / f"masks/{name}/{frame.split}/{frame.name}.png")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    for make in (masks, colors, video, coco, labelme, yolo, bands, overlapping):
        make(Path(sys.argv[1]), Path(sys.argv[2]) / make.__name__)
        print(f"{sys.argv[2]}/{make.__name__}: {(make.__doc__ or '').splitlines()[0]}")
