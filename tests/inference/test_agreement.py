"""Test, predict, load and the exported file give the same labels, whatever precision the run trained in."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_seg import load
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.inference.precision import full_precision
from lightning_seg.metrics.images import overlap
from tests.inference.conftest import TINY, call

CHAIN = "--model.postprocess=[{class_path: lightning_seg.postprocess.crf.DenseCRF, init_args: {exact: true, iterations: 2}}]"
WINDOWS = "--model.inference={class_path: lightning_seg.inference.SlidingWindow, init_args: {size: [32, 32]}}"


@pytest.fixture(scope="module", params=["32-true", "bf16-mixed"])
def run(request, tmp_path_factory):
    """A run that trained in 32 or in 16 bits, whatever a probe of this machine would choose."""
    folder = tmp_path_factory.mktemp("precision")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        precision = f"--trainer.precision={request.param}"
        assert call("exp", folder / "tiny.yaml", f"--runs={folder / 'runs'}", precision) == 0
    (path,) = (folder / "runs/tiny").iterdir()
    assert json.loads((path / "environment.json").read_text())["precision"] == request.param
    return path


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The images of the test split as files, and their masks."""
    folder = tmp_path_factory.mktemp("images")
    data = Shapes(batch_size=4, crop_size=(32, 32), image_size=(48, 40), test_images=5)
    truths = []
    for i, sample in enumerate(Split(data, "test")):
        Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        truths.append(sample["mask"].numpy())
    return folder, truths


@pytest.mark.parametrize("settings", [(), (CHAIN,), (WINDOWS,)], ids=["network", "chain", "windows"])
def test_labels_are_the_same_to_the_bit(run, samples, tmp_path, settings):
    folder, truths = samples
    tested = tmp_path / "run"
    shutil.copytree(run, tested)
    assert call("test", tested, *settings) == 0
    assert call("predict", tested, folder, "--output", tmp_path / "out", *settings) == 0
    model = load(tested, settings=settings)
    masks = [np.array(Image.open(tmp_path / f"out/masks/{i}.png")) for i in range(len(truths))]
    assert len(np.unique(masks)) > 1
    for i, mask in enumerate(masks):
        assert (mask == model(folder / f"{i}.png")).all()
    counts = [overlap(mask, truth, len(model.class_names)) for mask, truth in zip(masks, truths, strict=True)]
    assert (np.load(tested / "test_images.npz")["counts"] == counts).all()


def test_the_test_at_the_end_of_training_counts_the_same(run, samples, tmp_path):
    before = np.load(run / "test_images.npz")["counts"]
    shutil.copytree(run, tmp_path / "run")
    assert call("test", tmp_path / "run") == 0
    assert (np.load(tmp_path / "run/test_images.npz")["counts"] == before).all()


def test_the_exported_file_gives_the_labels_of_predict(run, samples, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder, truths = samples
    assert call("export", run, "--labels", "--output", tmp_path / "model.onnx") == 0
    session, model = onnxruntime.InferenceSession(tmp_path / "model.onnx"), load(run)
    for i in range(len(truths)):
        image = np.array(Image.open(folder / f"{i}.png"))
        (labels,) = session.run(None, {"images": image.transpose(2, 0, 1)[None]})
        assert (labels[0] == model(image)).all()


def test_a_callers_autocast_changes_nothing(run, samples):
    model, image = load(run), samples[0] / "0.png"
    expected = model.logits(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.logits(image), expected)
        with full_precision(torch.device("cpu")):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
