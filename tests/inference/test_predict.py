"""The command `predict`: every image has its mask, and what cannot be read is said."""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from lightning_seg import load
from lightning_seg.callbacks.checkpointing import Stopped
from lightning_seg.callbacks.prediction_writer import PredictionWriter
from lightning_seg.cli.predict import _stoppable
from tests.inference.conftest import call


def picture(seed, size=(45, 52)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
    """Three images of two sizes, two of them of one name."""
    for name, seed in (("a/001.png", 1), ("a/001.bmp", 2), ("b/001.png", 3)):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed, (45, 52 + seed % 2))).save(path)
    return tmp_path / "photos"


def test_every_image_has_its_own_mask(runs, photos, tmp_path):
    out = photos / "out"
    for _ in range(2):  # a second time its output is no input
        assert call("predict", runs[0], photos, "--output", out, "--probabilities") == 0
    model = load(runs[0])
    expected = {"a/001.png.png": "a/001.png", "a/001.bmp.png": "a/001.bmp", "b/001.png": "b/001.png"}
    masks = {path.relative_to(out / "masks").as_posix(): path for path in (out / "masks").rglob("*.png")}
    assert set(masks) == set(expected)
    for name, image in expected.items():
        assert (np.array(Image.open(masks[name])) == model(photos / image)).all()
        stored = np.load(out / "probabilities" / f"{name.removesuffix('.png')}.npy")
        assert stored.dtype == np.float32 and (stored == model.probabilities(photos / image)).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_reported_and_the_others_are_predicted(runs, photos, tmp_path, capsys, workers):
    (photos / "a/000.png").write_bytes(b"no image")
    whole = (photos / "b/001.png").read_bytes()
    (photos / "b/cut.png").write_bytes(whole[: len(whole) // 2])
    options = ["--output", tmp_path / "out", f"--data.init_args.num_workers={workers}"]
    assert call("predict", runs[0], photos, *options, "--data.init_args.eval_batch_size=2") == 1
    said = capsys.readouterr()
    assert said.err.count("skipped: ") == 2
    assert "a/000.png cannot be read" in said.err and "b/cut.png cannot be read" in said.err
    assert "2 of 5 images could not be predicted" in said.err
    assert "3 images: masks, overlays in" in said.out
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 3


def test_an_unreadable_large_file_is_reported_too(runs, photos, tmp_path, capsys):
    (photos / "x.npy").write_bytes(b"no array")
    assert call("predict", runs[0], photos / "x.npy", "--output", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "skipped: " in said and "x.npy cannot be read" in said and "1 of 1 images" in said
    assert not list((tmp_path / "out/masks").iterdir())


def test_probabilities_of_a_large_image_are_written(runs, tmp_path):
    np.save(tmp_path / "x.npy", picture(0))
    options = ("--output", tmp_path / "out", "--probabilities")
    assert call("predict", runs[0], tmp_path / "x.npy", *options) == 0
    found = np.load(tmp_path / "out/probabilities/x.npy")
    assert (found.argmax(0) == np.load(tmp_path / "out/masks/x.npy")).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_is_called_by_its_name(runs, photos, tmp_path, capsys, monkeypatch, number):
    write = PredictionWriter.write

    def stopped(self, *args):
        write(self, *args)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(PredictionWriter, "write", stopped)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as left:
        call("predict", runs[0], photos, "--output", tmp_path / "out")
    assert left.value.code == 128 + number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    said = capsys.readouterr().err
    assert f"stopped by {number.name}; what was predicted before is in" in said and "memory" not in said
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 1


def test_a_worker_that_the_signal_ended_first_is_not_the_reason():
    def alarm(*args):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with pytest.raises(Stopped, match="SIGTERM"), _stoppable():
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
        with pytest.raises(RuntimeError, match="signal: Killed"), _stoppable():
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")  # the system's doing
    finally:
        signal.signal(signal.SIGALRM, before)
