"""Writers of small data sets in their real layout on disk."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

cv2.setNumThreads(0)  # as in training: threads would wait for one another on a busy machine

VOC_SIZES = [(60, 80), (75, 50), (64, 64), (61, 83), (90, 41)]


def blocks(rng, size, labels):
    """A mask of random rectangles, and an image whose color encodes the label of every pixel."""
    mask = np.zeros(size, np.uint8)
    for label in rng.permutation(labels):
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        mask[y : y + rng.integers(8, size[0]), x : x + rng.integers(8, size[1])] = label
    return encode(mask), mask


def encode(mask):
    """Color of a label: far enough from the others to survive interpolation away from borders."""
    return np.stack([mask * 9, 255 - mask * 9, np.full_like(mask, 40)], -1).astype(np.uint8)


@pytest.fixture
def camvid(tmp_path) -> Path:
    """The SegNet layout of CamVid, with foreign absolute paths in its lists; no test split."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 5)):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        lines = []
        for number in range(count):
            image, mask = blocks(rng, (48, 64), range(12))
            name = f"0001TP_{number:06d}.png"
            Image.fromarray(image).save(tmp_path / split / name)
            Image.fromarray(mask).save(tmp_path / f"{split}annot" / name)
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def voc(tmp_path) -> Path:
    """VOC 2012: JPEG images of different sizes, palette PNG masks with 255 borders, lists of names."""
    rng = np.random.default_rng(0)
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    colors = np.zeros((256, 3), np.uint8)
    colors[:21] = np.arange(63).reshape(21, 3) * 4
    colors[255] = (224, 224, 192)
    for split in ("train", "val"):
        names = [f"2007_{split}{number:06d}" for number in range(len(VOC_SIZES))]
        for name, size in zip(names, VOC_SIZES, strict=True):
            image, mask = blocks(rng, size, range(21))
            mask[:2] = mask[-2:] = 255
            Image.fromarray(image).save(base / "JPEGImages" / f"{name}.jpg", quality=95)
            picture = Image.fromarray(mask, mode="P")
            picture.putpalette(colors.tobytes())
            picture.save(base / "SegmentationClass" / f"{name}.png")
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return tmp_path


@pytest.fixture
def real_data() -> Path:
    """Folder with the real data sets, where there is one."""
    folder = os.environ.get("LIGHTNING_SEG_TEST_DATA")
    if not folder:
        pytest.skip("LIGHTNING_SEG_TEST_DATA names no folder with CamVid/, ISBI2012/ and PennFudanPed/")
    return Path(folder)
