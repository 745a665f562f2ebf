"""Figures of networks, against networks small enough to count by hand."""

import json
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_seg.bench.network_profile import (
    Conditions,
    field_side,
    images_per_second,
    measure,
    receptive_field,
)
from lightning_seg.cli.main import main
from lightning_seg.networks.backbones.plain import PlainBackbone
from lightning_seg.networks.base import Network
from lightning_seg.networks.deeplab import DeepLabV3
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.policies import Frozen

H, W = 16, 24


class Convolutions(Network):
    """A 3x3 convolution to 4 channels and a 1x1 convolution to 2 classes."""

    def __init__(self, layers=1):
        convolutions = [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1, bias=False) for i in range(layers)]
        super().__init__(PlainBackbone([nn.Sequential(*convolutions)], [4], nn.MaxPool2d))
        self.decoder = nn.Identity()
        self.head = nn.Conv2d(4, 2, 1)

    def decode(self, x, features):
        return features[-1]


def task(network, optimizer=torch.optim.SGD, **arguments):
    return SemanticSegmentation(network, optimizer, ("a", "b"), **arguments)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("lightning_seg.bench.network_profile.images_per_second", lambda *args: (12.5, True))


def test_figures_by_hand(quick):
    figures = measure("some", task(Convolutions()), Conditions((H, W)))
    assert figures.network == "Convolutions, PlainBackbone"
    assert figures.parameters == figures.trainable == {"backbone": 108, "decoder": 0, "head": 10}
    assert figures.multiply_adds == {"backbone": 108 * H * W, "decoder": 0, "head": 8 * H * W}
    assert figures.output_stride == 1 and figures.images_per_second == 12.5
    # weights and gradients; the six numbers of the normalisation; a few numbers of the loss
    assert figures.fixed_memory == pytest.approx(4 * (2 * 118 + 6), abs=16)
    # float32: the image, the 4 channels, 2 log-probabilities; int64: the labels
    assert figures.image_memory == H * W * (4 * (3 + 4 + 2) + 8)
    assert figures.memory(3) == figures.fixed_memory + 3 * figures.image_memory


def test_memory_knows_optimizer_and_frozen_parts(quick):
    adam = measure("some", task(Convolutions(), torch.optim.Adam), Conditions((H, W)))
    # two moments, and a step count for each of 3 tensors
    assert adam.fixed_memory == pytest.approx(4 * (4 * 118 + 6 + 3), abs=16)
    frozen = measure("some", task(Convolutions(), finetune=Frozen()), Conditions((H, W)))
    assert frozen.trainable == {"backbone": 0, "decoder": 0, "head": 10}
    assert frozen.image_memory == H * W * (4 * (4 + 2) + 8)  # no need of the image


def test_bf16_halves_activations_but_copies_weights(quick):
    half = measure("some", task(Convolutions()), Conditions((H, W), bf16=True))
    full = measure("some", task(Convolutions()), Conditions((H, W)))
    # image and channels in bfloat16; the loss stays in float32
    assert half.image_memory == H * W * (2 * (3 + 4) + 4 * 2 + 8)
    assert half.fixed_memory - full.fixed_memory == 2 * (108 + 8)  # what is multiplied with, not the bias


def test_field_of_box_filters():
    """Three box filters in a row weigh pixels like the coefficients of (1 + x + x^2)^3, down and across."""
    network = Convolutions(3)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    field = receptive_field(network, Conditions((H, W)), count=1)
    line = np.zeros((2, 24))
    line[0, 5:12] = line[1, 9:16] = [1, 3, 6, 7, 6, 3, 1]
    expected = np.outer(line[0, :H], line[1])
    np.testing.assert_allclose(field / field.max(), expected / 49, atol=1e-6)
    assert field_side(field, 1) == 7
    assert field_side(field, 19**2 / 27**2 - 0.01) == 3 and field_side(field, 19**2 / 27**2 + 0.01) == 5


def test_side_of_an_even_field():
    even = np.ones((9, 11))
    # squares of 1, 9, 25, 49 of 99 pixels
    assert field_side(even, 0.2) == 5 and field_side(even, 0.45) == 7
    assert field_side(even, 0.95) is None and field_side(even, 1) is None


def test_image_pooling_sees_everything():
    network = DeepLabV3(2, "test_resnet", weights=False, decoder_channels=8)
    assert (receptive_field(network, Conditions((64, 96)), count=1) > 0).mean() > 0.99


class Slow(nn.Module):
    def forward(self, images):
        assert images.shape == (4, 3, 8, 8) and images.is_contiguous(memory_format=torch.channels_last)
        time.sleep(0.01)
        return images


def test_speed_counts_images():
    rate, _ = images_per_second(Slow(), Conditions((8, 8), batch_size=4), seconds=0.05)
    assert 20 < rate <= 400


TINY = """
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [16, 16, 8, 8, 8]}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args: {batch_size: 4, crop_size: [32, 32]}
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    for name in ("tiny", "twin"):
        (tmp_path / f"experiments/{name}.yaml").write_text(TINY)
    for i, score in enumerate((0.4, 0.6)):
        (tmp_path / f"runs/tiny/{i}").mkdir(parents=True)
        result = {"protocol": {"data": "Shapes", "split": "test"}, "scores": {"miou": score}}
        (tmp_path / f"runs/tiny/{i}/test.json").write_text(json.dumps(result))
    return tmp_path


def test_one_experiment(workplace, capsys):
    override = "--model.network.init_args.decoder_channels=[32,16,8,8,8]"
    assert main(["profile", "tiny", "--size=64x96", override]) == 0
    out = capsys.readouterr().out
    assert "tiny: UNet, test_resnet" in out and "12.5 * images/s" in out and "4 crops of 32x32" in out
    assert "64x96 pixels, batch of 1, float32, CPU" in out and "* other programs" in out
    assert Image.open(workplace / "profile/tiny.png").size == (480, 5 * 64 + 76)


def test_table_and_charts_of_all(workplace, capsys):
    assert main(["profile", "--all", "--size=64x64", "--html=page.html", "--png=chart.png"]) == 0
    out = capsys.readouterr().out.splitlines()
    first, second = (line.split() for line in out[1:3])
    assert first[0] == "tiny" and second[0] == "twin" and first[1:] == second[1:]
    page = (workplace / "page.html").read_text()
    assert ">tiny</text>" in page and page.count("data:image/png") == 2
    assert "Shapes, test split" in page
    assert set(re.findall('https?:[^"]+', page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert Image.open(workplace / "chart.png").size == (900, 540)


LOSS, ARGUMENT = "--model.loss=lightning_seg.training.losses.", "--model.loss.init_args."


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "There are: tiny, twin"),
        (["tinny"], "Did you mean tiny?"),
        (["tiny", "--size=64"], "HEIGHTxWIDTH"),
        (["tiny", "--device=tpu"], "--device tpu"),
        (["runs/tiny"], "no run directory"),
        (["tiny", "--data.init_args.bach_size=3"], "Did you mean batch_size?"),
        (["tiny", f"{LOSS}OHEMCrossEntropy", f"{ARGUMENT}threshold=2"], "error: OHEMCrossEntropy needs"),
        (["tiny", f"{LOSS}CrossEntropy", f"{ARGUMENT}class_weights=[1,2]"], "needs 6 numbers, one for each"),
    ],
)
def test_mistakes(workplace, capsys, arguments, expected):
    assert main(["profile", *arguments]) == 2
    assert expected in capsys.readouterr().err
