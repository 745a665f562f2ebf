"""Make docs/comparison.jpg, the picture of a comparison page: ``python docs/scripts/comparison.py``; needs chromium.

Three losses with three seeds each, small networks on drawn shapes, in runs/losses, and the page they are compared on,
runs/losses.html: about one minute of one core. Runs that are there are not made again.
"""

import subprocess
import tempfile
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.optim import AdamW

from lightning_seg import (
    CrossEntropy,
    DiceLoss,
    Experiment,
    FCN8s,
    LovaszLoss,
    Poly,
    Shapes,
    compare,
    write_report,
)

RUNS = Path("runs")
WIDTH, HEIGHT = 1100, 900  # of the window, in pixels


def main() -> None:
    """Train what is missing, write the page, take its picture."""
    torch.set_num_threads(1)
    for loss in (CrossEntropy, DiceLoss, LovaszLoss):
        for seed in range(3):
            if not [*RUNS.glob(f"losses/{loss.__name__}-{seed}/*/test.json")]:
                train(loss, seed)
    page = RUNS / "losses.html"
    write_report(compare([RUNS / "losses"], group_by="loss"), page)
    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary, "page.png")
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
            + [f"--user-data-dir={temporary}/profile", "--disable-extensions"]
            + [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}", page.resolve().as_uri()],
            check=True,
        )
        Image.open(picture).convert("RGB").save("docs/comparison.jpg", quality=70, optimize=True)


def train(loss: type[torch.nn.Module], seed: int) -> None:
    """Make one run."""
    Experiment.from_settings(
        f"losses/{loss.__name__}-{seed}",
        runs=str(RUNS),
        seed_everything=seed,
        model={
            "network": partial(FCN8s, backbone="test_resnet", weights=False),
            "optimizer": partial(AdamW, lr=2e-3),
            "lr_scheduler": Poly,
            "loss": loss,
        },
        data=partial(
            Shapes,
            train_images=240,
            val_images=30,
            test_images=50,
            batch_size=8,
            crop_size=(96, 96),
            num_workers=0,
        ),
        trainer={"max_epochs": 3, "check_val_every_n_epoch": 3, "precision": "32-true", "accelerator": "cpu"},
        tracking=[],
    ).train()


if __name__ == "__main__":
    main()
