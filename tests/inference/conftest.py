"""Two finished runs of different architectures, made once."""

from pathlib import Path

import pytest

from lightning_seg.cli.main import main

TINY = """
seed_everything: 0
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [32, 16, 16, 8, 8]}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3e-3}}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 32, val_images: 6, test_images: 5,
     num_workers: 0}
pictures: {count: 0}
overfitting: {train_eval_fraction: 0}
trainer: {max_epochs: 2, accelerator: cpu, devices: 1}
"""


def call(*arguments):
    """Call the command line; return the exit code."""
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A run of a U-Net and one of a LinkNet."""
    folder = tmp_path_factory.mktemp("work")
    file = folder / "tiny.yaml"
    file.write_text(TINY)
    root = folder / "runs"
    options = "{backbone: test_resnet, weights: false}"
    linknet = f"--model.network={{class_path: lightning_seg.networks.linknet.LinkNet, init_args: {options}}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert call("exp", file, f"--runs={root}", "--name=unet") == 0
        assert call("exp", file, f"--runs={root}", "--name=linknet", linknet) == 0
    return next((root / "unet").iterdir()), next((root / "linknet").iterdir())
