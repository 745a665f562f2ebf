"""The small networks of docs/learn, trained on `Shapes`: two minutes of one core, once."""

from pathlib import Path
from typing import Any

from lightning_seg import Experiment

RUNS = Path("runs")
_SMALL = {"backbone": "test_resnet", "weights": False}
_SCENES = {"train_images": 600, "val_images": 60, "test_images": 150}
_FEW = {
    "train_images": 8,
    "batch_size": 8,
    "val_images": 30,
    "test_images": 30,
    "scale_range": [1.0, 1.0],
    "hflip": 0.0,
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn32s": ("FCN32s", _SMALL),
    "fcn8s": ("FCN8s", _SMALL),
}
# Name of the run: what it has unlike the others, all an FCN-8s.
FITS: dict[str, dict[str, Any]] = {
    "learning_too_slowly": {
        "lr": 1e-4,
        "epochs": 6,
        "schedule": "Constant",
        "data": _SCENES | {"train_images": 200, "val_images": 30, "test_images": 30},
    },
    "learned_by_heart": {"epochs": 250, "every": 25, "schedule": "Constant", "data": _FEW},
}


def run_of(name: str) -> Path:
    """Return the run directory of a network or a fit; it is trained unless it is there."""
    found = sorted(RUNS.glob(f"learn/{name}/*/test.json"))
    if found:
        return found[-1].parent
    network, arguments = NETWORKS.get(name, NETWORKS["fcn8s"])
    fit = FITS.get(name, {})
    optimizer = {"class_path": "AdamW", "init_args": {"lr": fit.get("lr", 2e-3), "weight_decay": 1e-4}}
    data = {"batch_size": 10, "crop_size": [96, 96], "scale_range": [0.75, 1.5], "num_workers": 0}
    return Experiment.from_settings(
        f"learn/{name}",
        seed_everything=0,
        runs=str(RUNS),
        model={
            "network": {"class_path": network, "init_args": arguments},
            "optimizer": optimizer,
            "lr_scheduler": {"class_path": fit.get("schedule", "Poly"), "init_args": {"warmup": 0.05}},
        },
        data={"class_path": "Shapes", "init_args": data | fit.get("data", _SCENES)},
        trainer={
            "max_epochs": fit.get("epochs", 5),
            "check_val_every_n_epoch": fit.get("every", 1),
            "precision": "32-true",
            "accelerator": "cpu",
        },
        tracking=[],
    ).train()
