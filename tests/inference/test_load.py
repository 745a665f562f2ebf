"""`load` takes runs and checkpoints, of pixels and of objects, and says what is missing."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_seg import (
    InstanceSegmentation,
    ObjectPredictor,
    Predictor,
    SegmentationTask,
    SemanticSegmentation,
    load,
)
from lightning_seg.errors import UserError
from lightning_seg.inference import SlidingWindow
from lightning_seg.metrics.instance import arrays
from tests.inference.conftest import call
from tests.tasks.test_instance import TINY as OBJECTS

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 56, 3), np.uint8)


def test_a_checkpoint_stands_for_its_run(runs, tmp_path):
    expected = load(runs[0]).logits(IMAGE)
    assert torch.equal(load(runs[0] / "checkpoints/best.ckpt").logits(IMAGE), expected)
    for name in ("checkpoints/best.ckpt", "config.yaml"):
        shutil.copy(runs[0] / name, tmp_path)
    assert torch.equal(load(tmp_path / "best.ckpt").logits(IMAGE), expected)
    assert torch.equal(load(str(tmp_path / "best.ckpt")).logits(IMAGE), expected)


def test_another_checkpoint_of_a_run_is_another_network(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    file = tmp_path / "run/checkpoints/other.ckpt"
    state = torch.load(runs[0] / "checkpoints/best.ckpt", weights_only=True)
    state["state_dict"] = {key: value * 0.9 for key, value in state["state_dict"].items()}
    torch.save(state, file)
    assert not torch.equal(load(file).logits(IMAGE), load(tmp_path / "run").logits(IMAGE))


def test_a_checkpoint_alone_is_enough(runs, tmp_path):
    shutil.copy(runs[0] / "checkpoints/best.ckpt", tmp_path / "best.ckpt")
    expected = load(runs[0])
    alone = load(tmp_path / "best.ckpt")
    assert torch.equal(alone.logits(IMAGE), expected.logits(IMAGE)) and alone.palette == expected.palette


def test_lightnings_own_way_needs_neither_run_nor_data(runs, tmp_path):
    file = shutil.copy(runs[0] / "checkpoints/best.ckpt", tmp_path / "moved.ckpt")
    task = SemanticSegmentation.load_from_checkpoint(file)
    assert type(task) is SemanticSegmentation and not task.network.training
    assert task.class_names == load(runs[0]).class_names
    with torch.inference_mode():
        logits = task(torch.from_numpy(IMAGE).permute(2, 0, 1)[None])
    assert torch.equal(logits[0], load(runs[0]).logits(IMAGE))
    labels = task.predict(IMAGE)
    assert labels.dtype == np.uint8 and (labels == load(runs[0])(IMAGE)).all()
    state = torch.load(file, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())
    changed = SegmentationTask.load_from_checkpoint(file, temperature=2.0)
    assert isinstance(changed, SemanticSegmentation) and changed.temperature == 2


def test_a_checkpoint_of_another_task_or_without_settings_says_so(runs, tmp_path):
    file = runs[0] / "checkpoints/best.ckpt"
    with pytest.raises(UserError, match="is of SemanticSegmentation, not of InstanceSegmentation"):
        InstanceSegmentation.load_from_checkpoint(file)
    with pytest.raises(UserError, match="cannot be built: .*temprature"):
        SemanticSegmentation.load_from_checkpoint(file, temprature=2.0)
    old = torch.load(file, weights_only=True)
    del old["settings"]
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"lightning_seg\.load\('.*old\.ckpt'\) predicts"):
        SemanticSegmentation.load_from_checkpoint(tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"old\.ckpt has no config\.yaml beside it"):
        load(tmp_path / "old.ckpt")


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """A run of Mask R-CNN that has hardly trained."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "objects.yaml").write_text(yaml.safe_dump(OBJECTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        options = (
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=2",
            "--model.score_threshold=0.01",
        )
        assert call("exp", folder / "objects.yaml", f"--runs={folder / 'runs'}", *options) == 0
    (path,) = (folder / "runs/objects").iterdir()
    return path


def test_a_run_of_objects_gives_masks_boxes_and_classes(objects, tmp_path):
    model = load(objects)
    assert isinstance(model, ObjectPredictor) and not isinstance(model, Predictor)
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    with torch.inference_mode():
        every = arrays(model.network(torch.from_numpy(IMAGE).permute(2, 0, 1)[None])[0])
    kept = every["scores"] >= model.score_threshold
    assert kept.any()
    for image in (IMAGE, Image.fromarray(IMAGE), tmp_path / "image.png"):
        found = model(image)
        assert found["masks"].shape == (kept.sum(), 48, 56) and found["masks"].dtype == bool
        assert found["boxes"].shape == (kept.sum(), 4) and (np.diff(found["scores"]) <= 0).all()
        assert sorted(found["scores"]) == sorted(every["scores"][kept])
        assert [model.class_names[label] for label in found["labels"]] == found["classes"].tolist()
    alone = InstanceSegmentation.load_from_checkpoint(objects / "checkpoints/best.ckpt").predict(IMAGE)
    assert alone.keys() == found.keys() and all((alone[name] == found[name]).all() for name in found)
    model.score_threshold = 1.1
    assert {name: len(values) for name, values in model(IMAGE).items()} == dict.fromkeys(found, 0)
    with pytest.raises(UserError, match="no inference strategy"):
        load(objects, inference=SlidingWindow())


def test_a_run_of_objects_labels_no_pixels(objects, tmp_path, capsys):
    np.save(tmp_path / "large.npy", IMAGE)
    assert call("predict", objects, tmp_path / "large.npy", "--output", tmp_path / "out") == 2
    assert "gives no class to each pixel" in capsys.readouterr().err
