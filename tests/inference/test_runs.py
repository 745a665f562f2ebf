"""Finished runs in use: from Python, in tests with another inference, in predictions with their uncertainty."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_seg import load
from lightning_seg.analysis.compare import compare
from lightning_seg.errors import UserError
from lightning_seg.inference import MultiScale, SlidingWindow
from lightning_seg.plotting.heat import heat
from tests.inference.conftest import call

WINDOWS = "--model.inference={class_path: lightning_seg.inference.SlidingWindow, init_args: {size: [32, 32]}}"


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (45, 52, 3), np.uint8)


def test_a_run_in_five_lines(runs, image, tmp_path):
    model = load(runs[0])
    labels = model(image)
    assert labels.shape == (45, 52) and labels.dtype == np.uint8 and labels.max() < len(model.class_names)
    Image.fromarray(image).save(tmp_path / "image.png")
    for same in (Image.fromarray(image), tmp_path / "image.png", str(tmp_path / "image.png")):
        assert (model(same) == labels).all()
    assert (model.probabilities(image).argmax(0) == labels).all()
    np.testing.assert_allclose(model.probabilities(image).sum(0), 1, atol=1e-5)
    assert (load(runs[0].parent)(image) == labels).all()  # the experiment's latest
    assert not (
        load(runs[0], inference=MultiScale((0.5, 1.5))).probabilities(image) == model.probabilities(image)
    ).all()


def test_loading_leaves_random_numbers_alone(runs):
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    load(runs[0])
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_an_inference_is_recorded_and_keeps_scores_apart(runs, tmp_path):
    unet, linknet = runs
    before = {name: (unet / name).read_bytes() for name in ("test.json", "test_images.npz")}
    try:
        assert call("test", unet, WINDOWS) == 0
        protocol = json.loads((unet / "test.json").read_text())["protocol"]
        assert protocol["test_time_augmentation"] == repr(SlidingWindow((32, 32)))
        with pytest.raises(UserError, match=r"differ in test_time_augmentation \(SlidingWindow\("):
            compare([unet, linknet])
    finally:
        for name, content in before.items():
            (unet / name).write_bytes(content)
    assert compare([unet, linknet])


def test_a_wrong_inference_is_a_short_error(runs, capsys):
    assert call("test", runs[0], WINDOWS.replace("[32, 32]", "[8, 8]")) == 2
    assert "SlidingWindow: size must be" in capsys.readouterr().err
    assert call("test", runs[0], WINDOWS.replace("SlidingWindow", "SlidingWindows")) == 2
    assert "SlidingWindows" in capsys.readouterr().err


def test_predict_draws_how_unsure_it_is(runs, image, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos/small.png")
    np.save(tmp_path / "large.npy", image)
    out = tmp_path / "out"
    assert call("predict", runs[0], tmp_path / "photos", "--output", out, "--uncertainty") == 0
    assert call("predict", runs[0], tmp_path / "large.npy", "--output", out, "--uncertainty") == 0
    model = load(runs[0])
    probabilities = model.probabilities(image)
    expected = -(probabilities * np.log(probabilities)).sum(0) / np.log(len(probabilities))
    drawn = Image.open(out / "uncertainty/small.png")
    assert np.abs(np.array(drawn) / 255 - expected).max() < 1 / 255
    assert drawn.convert("RGB").getpixel((3, 4)) == tuple(
        heat(np.array([[drawn.getpixel((3, 4)) / 255]]))[0, 0]
    )
    assert (np.array(Image.open(out / "masks/small.png")) == model(image)).all()
    assert (np.load(out / "masks/large.npy") == model(image)).all()
    assert np.abs(np.load(out / "uncertainty/large.npy") / 255 - expected).max() < 1 / 255


def test_a_folder_may_hold_large_images_too(runs, image, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_seg.inference.large.LARGE", 45 * 52)
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos/small.png")
    Image.fromarray(np.vstack([image, image])).save(tmp_path / "photos/large.png")
    assert call("predict", runs[0], tmp_path / "photos", "--output", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out/masks").iterdir()) == ["large.tif", "small.png"]


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        ("resume", "--seed_everything=5", "seed_everything was 0 and would be 5"),
        (
            "resume",
            "--trainer.fast_dev_run=true",
            "fast_dev_run tries a new run, and cannot continue one: light",
        ),
        ("resume", "--trainer.max_steps=3", "has already trained 16 steps; --trainer.max_steps must be more"),
        (
            "test",
            "--trainer.limit_test_batches=0",
            "trainer.limit_test_batches is 0, so nothing would be scored",
        ),
        ("test", "--ckpt_path=nothing", "there is no file nothing, which --ckpt_path names"),
    ],
)
def test_what_would_mix_two_runs_or_do_nothing_is_refused_and_leaves_the_run(
    runs, capsys, monkeypatch, tmp_path, command, option, message
):
    run = shutil.copytree(runs[0], tmp_path / runs[0].name)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    kept = [run / name for name in ("config.yaml", "metrics.csv", "test.json", "checkpoints/last.ckpt")]
    before = [path.read_bytes() for path in kept]
    assert call(command, run, option) == 2
    assert message in capsys.readouterr().err
    assert [path.read_bytes() for path in kept] == before
    assert json.loads((run / "environment.json").read_text())["failed"] is None
