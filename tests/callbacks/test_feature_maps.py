"""Feature maps: they are the network's own, and the picture shows where they are high."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lightning_seg.callbacks.feature_maps import CELL, FeatureMaps, draw, feature_maps
from lightning_seg.cli.main import main
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.networks.base import resize
from lightning_seg.networks.fcn import FCN8s
from lightning_seg.networks.unet import UNet
from lightning_seg.plotting.heat import heat
from lightning_seg.runs.csv_logger import RunLogger

DARK, BRIGHT = heat(np.array([[0.0, 1.0]]))[0].tolist()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet(3, "test_resnet", weights=False, decoder_channels=(16, 16, 8, 8, 8)).eval()


def test_heat_is_even():
    grey = heat(np.linspace(-0.5, 1.5, 201)[None]).mean(2)[0]
    assert (np.diff(grey) >= -2).all() and DARK == [68, 1, 84] and BRIGHT == [253, 231, 37]


@pytest.mark.parametrize("architecture", ["unet", "fcn8s"])
def test_maps_are_those_of_the_network(architecture, network):
    if architecture == "fcn8s":
        network = FCN8s(3, "test_resnet", weights=False).eval()
    image = torch.randint(256, (3, 50, 70), dtype=torch.uint8)
    maps = feature_maps(network, image)
    *backbone, decoder = maps.values()
    assert list(maps)[-1] == "decoder" and len(backbone) == len(network.backbone.strides)
    for name, values, stride in zip(maps, backbone, network.backbone.strides, strict=False):
        assert name == f"backbone, stride {stride}"
        assert values.shape[1:] == (64 // stride, 96 // stride)  # the padded image
    with torch.inference_mode():
        logits = network.head(torch.from_numpy(decoder)[None])
        logits = resize(logits, torch.zeros(1, 1, 64, 96))[..., :50, :70]
        torch.testing.assert_close(logits, network(image[None]))
    assert not network.backbone._forward_hooks and not network.head._forward_pre_hooks


def cell(picture, row, column, height):
    top, left = 6 + row * (height + 38) + 32, 6 + column * (CELL + 6)
    return np.asarray(picture)[top : top + height, left : left + CELL]


def test_picture_shows_where_maps_are_high_without_the_padding():
    image = np.full((32, 48, 3), 120, np.uint8)  # padded to 32 x 64
    maps = np.zeros((3, 8, 16), np.float32)
    maps[1, :, 6:] = 1  # varies; its edge is in the middle of the image
    maps[:, :, 12:] = 1000  # in the padding
    picture = draw(image, {"one": maps, "decoder": maps[:, ::2, ::2]}, stride=32, channels=2)
    height = round(CELL * 32 / 48)
    assert picture.size == (5 * (CELL + 6) + 6, 2 * (height + 38) + 6)
    assert (cell(picture, 0, 0, height) == 120).all()
    for row, column in ((0, 1), (0, 2), (0, 3), (1, 1)):
        shown = cell(picture, row, column, height)
        assert (shown[:, : CELL // 2 - 1] == DARK).all() and (shown[:, CELL // 2 + 1 :] == BRIGHT).all()
    assert (cell(picture, 0, 4, height) == DARK).all()  # a channel that does not vary


class Mirror(WandbLogger):
    def __init__(self):
        self.logged = {}

    def log_metrics(self, metrics, step=None):
        self.logged[step] = metrics


def test_callback_draws_into_the_run_and_to_wandb(tmp_path, network):
    data = Shapes(batch_size=1, crop_size=(32, 32), val_images=1)
    mirror = Mirror()
    precision = SimpleNamespace(forward_context=contextlib.nullcontext)
    trainer = SimpleNamespace(
        loggers=[RunLogger(tmp_path), mirror], sanity_checking=True, is_global_zero=True, global_step=8,
        datamodule=data, strategy=SimpleNamespace(precision_plugin=precision),
    )  # fmt: skip
    module = SimpleNamespace(network=network, device=torch.device("cpu"))
    callback = FeatureMaps(channels=3, every_n_validations=2)
    callback.on_validation_end(trainer, module)
    assert not mirror.logged  # the sanity check
    trainer.sanity_checking = False
    for step in (8, 16, 24):
        trainer.global_step = step
        callback.on_validation_end(trainer, module)
    assert list(mirror.logged) == [7, 23]
    (picture,) = mirror.logged[7]["val/feature_maps"]
    size = Image.open(tmp_path / "pictures/feature_maps.png").size
    assert (picture.image.size if picture.image else size) == size
    assert size[0] == 6 * (CELL + 6) + 6


RUN = """
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [16, 16, 8, 8, 8]}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args: {batch_size: 1, crop_size: [32, 32]}
"""


def test_command(tmp_path, network, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/some/1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(RUN)
    Image.new("RGB", (70, 50), "teal").save("photo.jpg")
    assert main(["features", "runs/some", "photo.jpg"]) == 2
    assert "--ckpt_path=FILE takes another" in capsys.readouterr().err
    (run / "checkpoints/last.ckpt").touch()
    assert main(["features", "runs/some", "photo.jpg"]) == 2
    assert "/1/checkpoints/last.ckpt takes its last weights" in capsys.readouterr().err
    network = UNet(6, "test_resnet", weights=False, decoder_channels=(16, 16, 8, 8, 8))
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state | {"loss.class_weights": torch.ones(6)}}, run / "checkpoints/best.ckpt")
    assert main(["features", "runs/some", "photo.jpg"]) == 0
    assert Image.open(run / "pictures/features_photo.png").width == 7 * (CELL + 6) + 6
    assert main(["features", "runs/some", "nothing.jpg"]) == 2
    assert main(["features", "runs/some"]) == 2
