"""The small networks of docs/learn, trained on `Shapes`: one minute of one core, once."""

from pathlib import Path
from typing import Any

from lightning_seg import Experiment

RUNS = Path("runs")
_SMALL = {"backbone": "test_resnet", "weights": False}
_SCENES = {"train_images": 600, "val_images": 60, "test_images": 150}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn32s": ("FCN32s", _SMALL),
    "fcn8s": ("FCN8s", _SMALL),
}


def run_of(name: str) -> Path:
    """Return the run directory of a network; it is trained unless it is there."""
    found = sorted(RUNS.glob(f"learn/{name}/*/test.json"))
    if found:
        return found[-1].parent
    network, arguments = NETWORKS[name]
    optimizer = {"class_path": "AdamW", "init_args": {"lr": 2e-3, "weight_decay": 1e-4}}
    data = {"batch_size": 10, "crop_size": [96, 96], "scale_range": [0.75, 1.5], "num_workers": 0}
    return Experiment.from_settings(
        f"learn/{name}",
        seed_everything=0,
        runs=str(RUNS),
        model={
            "network": {"class_path": network, "init_args": arguments},
            "optimizer": optimizer,
            "lr_scheduler": {"class_path": "Poly", "init_args": {"warmup": 0.05}},
        },
        data={"class_path": "Shapes", "init_args": data | _SCENES},
        trainer={
            "max_epochs": 5,
            "precision": "32-true",
            "accelerator": "cpu",
        },
        tracking=[],
    ).train()
