"""What a run depends on besides its configuration: the machine, the versions, the data."""

import platform
import sys
import time
from dataclasses import asdict
from importlib.metadata import version

import lightning as L
import torch

import lightning_seg
from lightning_seg.data.base import SegmentationData, data_of
from lightning_seg.tasks.base import SegmentationTask

PACKAGES = (  # beside this one
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "segmentation_models_pytorch",
    "wandb",
)


def environment(trainer: L.Trainer, module: SegmentationTask) -> dict[str, object]:
    """Describe what a run depends on besides its configuration."""
    data = data_of(trainer)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": sys.argv[1:],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "packages": {"lightning_seg": lightning_seg.__version__} | {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "accelerator": type(trainer.accelerator).__name__,
        "devices": devices or [platform.processor() or platform.machine()],
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
        "world_size": trainer.world_size,
        "effective_batch_size": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        "learning_rate_factor": module.lr_factor,
        "data_fingerprint": data.fingerprint,
        "parameters": sum(p.numel() for p in module.parameters()),
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "backbone": module.network.describe(),
        "parts": [asdict(part) for part in module.finetune.parts(module.network)],
    }


def data_version(data: SegmentationData) -> dict[str, object]:
    """Describe the version of a data set that a run sees."""
    splits = dict.fromkeys((data.train_split, data.val_split, data.test_split))
    return {
        "fingerprint": data.fingerprint,
        "classes": list(data.class_names),
        "images": {split: len(data.samples(split)) for split in splits},
    }
