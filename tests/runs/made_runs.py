"""Run directories made without training, as a run writes them."""

import itertools
import json
import zlib
from pathlib import Path

import numpy as np
import yaml

from lightning_seg.metrics.scores import miou_and_iou
from lightning_seg.plotting.pictures import save_parts
from lightning_seg.runs.directory import CONFIG, ENVIRONMENT, METRICS, TEST_IMAGES, TEST_SCORES

PALETTE = ((0, 0, 0), (220, 40, 40), (40, 90, 220))

_numbers = itertools.count()


def simulate(rng, shift=0.0, images=20, classes=3, seed_noise=0.0, noise=0.05, easy=None, true=None):
    """Count one run's pixels so that the expected IoU of class c is 0.4 + 0.1 c / C + shift: unions are fixed.

    Args:
        rng: Source of the noise.
        shift: Of the IoU.
        images: N.
        classes: C.
        seed_noise: Standard deviation of what all images of the run share.
        noise: Standard deviation of what each class of each image has of its own.
        easy: How easy each image is for a group of runs, (N, C).
        true: True pixels (N, C); drawn unless given.
    """
    if true is None:
        true = np.random.default_rng(0).gamma(2, 500, (images, classes)).round()
    union = (true * 1.3).round()
    iou = 0.4 + 0.1 * np.arange(classes) / classes + shift + rng.normal(0, seed_noise)
    iou = iou + rng.normal(0, noise, true.shape) + (0 if easy is None else easy)
    hit = np.clip(np.rint(iou * union), 0, true)
    return np.stack([hit, union - true + hit, true], -1).astype(np.int64)


def make_run(
    root,
    experiment="unet",
    seed=0,
    shift=0.0,
    lr=0.01,
    tested=True,
    counts=None,
    protocol=None,
    config=None,
    parts=(),
    confusion=None,
    rows=5,
) -> Path:
    """Write a run directory under ``root``; runs made later have later ids.

    Args:
        parts: Index, image, truth and prediction of the test images that are drawn.
        confusion: The confusion matrix of the test.
    """
    number = next(_numbers)
    run = root / experiment / f"20260101-{number:06d}-{number:04x}"
    run.mkdir(parents=True)
    settings = {
        "seed_everything": seed,
        "name": experiment,
        "model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}}},
        "data": {
            "class_path": "lightning_seg.data.datasets.shapes.Shapes",
            "init_args": {"root": f"/data/{number}"},
        },
        "wandb": {"tags": ["first"]},
        "runs": str(root),
    }
    (run / CONFIG).write_text(yaml.safe_dump(settings | (config or {})))
    described = {"time": "2026-11-21T07:53:15+0000", "commit": "ccfcc9f7b6db", "effective_batch_size": 16}
    (run / ENVIRONMENT).write_text(json.dumps(described))
    lines = ["step,train/loss,epoch,val/loss,val/miou,val/iou/disc,train/images_per_second"]
    for i in range(rows):
        lines.append(f"{10 * i},{1 / (i + 1)},{i},,,,")
        lines.append(
            f"{10 * i},,{i},{2 / (i + 1)},{(0.4 + shift) * (1 - 0.9**i)},0.5,{30 + number % 7 + i % 2}"
        )
    (run / METRICS).write_text("\n".join(lines) + "\n")
    for part in parts:
        save_parts(run / "pictures" / "test", *part, PALETTE)
    if tested:
        if counts is None:
            counts = simulate(np.random.default_rng([zlib.crc32(experiment.encode()), seed]), shift)
        fields = {
            "split": "test",
            "images": len(counts),
            "data": "Shapes",
            "fingerprint": str(number),  # is of the training images too: may differ
            "classes": [f"class {c}" for c in range(counts.shape[1])],
            "ignore_index": 255,
            "resolution": "original",
            "test_time_augmentation": None,
            "checkpoint": "best.ckpt",
            "loss": 0.1 * number,
        }
        test = {
            "protocol": fields | (protocol or {}),
            "scores": {"miou": float(miou_and_iou(counts.sum(0))[0]), "dice": 0.5},
        }
        (run / TEST_SCORES).write_text(json.dumps(test))
        names = np.array([f"test_{i:04d}" for i in range(len(counts))])
        matrix = {} if confusion is None else {"confusion": confusion}
        np.savez_compressed(run / TEST_IMAGES, counts=counts, names=names, **matrix)
    return run
