"""A run of overlapping classes from training to export, and what the task makes of its batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lightning_seg import load
from lightning_seg.cli.main import main
from lightning_seg.errors import UserError
from lightning_seg.metrics.multi_label import probabilities_of
from lightning_seg.metrics.scores import class_iou
from lightning_seg.networks.unet import UNet
from lightning_seg.runs.records import read
from lightning_seg.tasks.multi_label import MultiLabelSegmentation
from lightning_seg.training.losses import CompoundLoss, CrossEntropy
from lightning_seg.training.multi_label_losses import BinaryCrossEntropy, BinaryDiceLoss

TINY = """
task: MultiLabelSegmentation
seed_everything: 0
model:
  network: {class_path: UNet, init_args: {backbone: test_resnet, weights: false, decoder_channels: [32, 16, 16, 8, 8]}}
  optimizer: {class_path: AdamW, init_args: {lr: 3e-3}}
  loss:
    class_path: CompoundLoss
    init_args: {losses: [{class_path: BinaryCrossEntropy, init_args: {positive_weights: inverse_sqrt}}, BinaryDiceLoss]}
data:
  class_path: Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 16, val_images: 5, test_images: 3,
     num_workers: 0, class_balanced_crops: 0.5}
pictures: {count: 1}
trainer: {max_epochs: 1, accelerator: cpu, devices: 1}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("multi_label")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("LIGHTNING_SEG_CACHE", str(folder / "cache"))
        assert main(["exp", str(folder / "tiny.yaml"), f"--runs={folder / 'runs'}"]) == 0
    return next((folder / "runs" / "tiny").iterdir())


def make(**settings):
    torch.manual_seed(0)
    network = UNet(2, "test_resnet", weights=False, decoder_channels=(32, 16, 16, 8, 8))
    return MultiLabelSegmentation(network, torch.optim.SGD, ("none", "a", "b"), **settings)


def test_scores_thresholds_and_counts_of_images_are_recorded(run):
    table = json.loads((run / "test.json").read_text())
    classes = ["circle", "square", "triangle", "star", "cross"]
    assert table["protocol"]["classes"] == classes and table["labels"] == ["background", *classes]
    counts = read(run).counts
    assert counts.shape == (3, 5, 3)
    assert list(table["scores"]["iou"].values()) == pytest.approx(
        class_iou(counts.sum(0)).tolist(), nan_ok=True
    )
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]["thresholds"]
    recorded = [table["per_class"]["threshold"][name] for name in classes]
    assert recorded == pytest.approx(probabilities_of(kept.numpy()).tolist())
    assert set(table["per_class"]["ap"]) == set(classes) and 0 <= table["scores"]["map"] <= 1
    assert (run / "pictures" / "test.png").is_file()


def test_what_is_loaded_predicts_what_was_scored(run, monkeypatch):
    monkeypatch.chdir(run)
    model = load(run)
    task = MultiLabelSegmentation.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    from lightning_seg.data.datasets.shapes import Shapes

    data = Shapes(batch_size=1, crop_size=(32, 32), image_size=(48, 40), test_images=3)
    expected = read(run).counts
    for i, sample in enumerate(data.samples("test")):
        image, mask = data.read(sample)
        found = model(image)
        assert found.shape == (5, *mask.shape) and found.dtype == bool
        assert np.array_equal(found, task.predict(image))
        true = mask == np.arange(1, 6)[:, None, None]
        counts = np.stack([(found & true).sum((1, 2)), found.sum((1, 2)), true.sum((1, 2))], axis=-1)
        assert np.array_equal(counts, expected[i])


def test_predict_writes_a_mask_for_each_class(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    out = tmp_path / "out"
    assert main(["predict", str(run), str(tmp_path / "a.png"), f"--output={out}", "--probabilities"]) == 0
    expected = load(run)(pixels)
    for name, mask in zip(("circle", "square", "triangle", "star", "cross"), expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(out / "masks" / name / "a.png")), mask)
    probabilities = np.load(out / "probabilities" / "a.npy")
    np.testing.assert_allclose(probabilities, load(run).probabilities(pixels), atol=1e-5)


def test_the_exported_program_gives_the_masks_of_predict(run, tmp_path, capsys, monkeypatch):
    file = tmp_path / "model.pt2"
    assert main(["export", str(run), "--format=pt2", "--labels", f"--output={file}"]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    program = capsys.readouterr().out.rpartition("without this package:\n")[2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py", "a.png"])
    exec(program, {})
    for name, mask in zip(("circle", "square", "triangle", "star", "cross"), load(run)(pixels), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"mask_{name}.png")), mask * np.uint8(255))


def test_commands_that_need_one_class_a_pixel_say_so(run, capsys):
    assert main(["calibrate", str(run)]) == 2
    assert "semantic segmentation" in capsys.readouterr().err


def test_padding_for_transport_changes_no_count():
    task = make().eval()
    images = [torch.randint(255, (1, 3, h, w), dtype=torch.uint8) for h, w in ((30, 40), (37, 33))]
    masks = [torch.randint(2, (1, 2, *image.shape[-2:]), dtype=torch.uint8) for image in images]
    with torch.inference_mode():
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            task._evaluate({"image": image, "mask": mask, "index": torch.tensor([i])})
        alone = task.histograms.compute().clone()
        task.histograms.reset()
        room = [(0, 40 - image.shape[-1], 0, 37 - image.shape[-2]) for image in images]
        task._evaluate(
            {
                "image": torch.cat([F.pad(x, by) for x, by in zip(images, room, strict=True)]),
                "mask": torch.cat([F.pad(x, by, value=255) for x, by in zip(masks, room, strict=True)]),
                "size": torch.tensor([[30, 40], [37, 33]]),
                "index": torch.arange(2),
            }
        )
    found = task.histograms.compute()
    assert torch.equal(found.sum(2), alone.sum(2)) and alone.sum() == 2 * (30 * 40 + 37 * 33)
    steps = torch.arange(found.shape[2])
    mean = [(part * steps).sum(2) / part.sum(2) for part in (found, alone)]
    torch.testing.assert_close(*mean, rtol=0, atol=0.1)  # a convolution may round otherwise


def test_settings_that_cannot_be_meant_are_refused():
    for thresholds in (0.0, 1.0, [0.5], [0.5, 2.0]):
        with pytest.raises(UserError, match="thresholds"):
            make(thresholds=thresholds)
    with pytest.raises(UserError, match="of which each pixel has one"):
        make(loss=CompoundLoss([BinaryDiceLoss(), CrossEntropy()]))
    with pytest.raises(UserError, match="2 numbers"):
        make(loss=BinaryCrossEntropy([1.0, 2.0, 3.0]))


def test_given_thresholds_are_kept_and_tuned_ones_go_with_the_weights():
    given = make(thresholds=[0.5, 0.25])
    assert probabilities_of(given.thresholds.numpy()) == pytest.approx([0.5, 0.25], abs=1e-3)
    assert "thresholds" not in given.state_dict() and "thresholds" in make().state_dict()
