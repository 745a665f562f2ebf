"""A network of a paper, a loss of torch and metrics of torchmetrics in a whole run, named in the YAML."""

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from lightning_seg.cli.main import main

MODULE = """
import torch
from torch import nn


class PapersNet(nn.Module):
    def __init__(self, n_channels, n_classes, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(n_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.out, self.side = nn.Conv2d(2 * width, n_classes, 1), nn.Conv2d(2 * width, n_classes, 1)

    def forward(self, x):
        fine = self.stem(x)
        deep = self.down(fine)
        logits = self.out(torch.cat([fine, self.up(deep)], 1))
        return (logits, self.side(deep)) if self.training else logits
"""
YAML = """
model:
  network:
    class_path: papers_net.PapersNet
    init_args: {width: 8}
    backbone: [stem, down]
  finetune: {class_path: FrozenStages, init_args: {stages: 1}}
  optimizer: {class_path: AdamW, init_args: {lr: 3e-3}}
  loss:
    class_path: CompoundLoss
    init_args:
      losses: [CrossEntropyLoss, {class_path: segmentation_models_pytorch.losses.DiceLoss, init_args: {mode: multiclass}}]
  metrics:
  - BoundaryF1
  - {class_path: MulticlassCohenKappa, init_args: {num_classes: 6}}
  - {class_path: torchmetrics.classification.MulticlassAUROC, init_args: {num_classes: 6, average: none, thresholds: 20}}
data:
  class_path: Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 8, val_images: 3, test_images: 5,
     num_workers: 0}
overfitting: {train_eval_fraction: 0}
trainer: {max_epochs: 12, check_val_every_n_epoch: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_SEG_RUN", raising=False)
    (tmp_path / "foreign.yaml").write_text(YAML)
    (tmp_path / "papers_net.py").write_text(MODULE)
    return tmp_path


def test_a_run_with_parts_of_other_libraries(experiment, capsys):
    assert main(["exp", "foreign.yaml"]) == 0
    said = capsys.readouterr().out
    assert "metric   MulticlassCohenKappa is given labels, one image at a time; ignored pixels" in said
    assert "network  PapersNet, " in said
    assert "backbone stem + down of PapersNet; images less (0.485, 0.456, 0.406)" in said
    assert "padded to multiples of 2" in said and "backbone.stem" in said
    assert "CrossEntropyLoss is given class numbers (B, H, W), ignored pixels as 255" in said
    assert "DiceLoss is given class numbers (B, H, W), ignored pixels as 255" in said
    (run,) = (experiment / "runs/foreign").iterdir()
    written = json.loads((run / "test.json").read_text())
    matrix = np.load(run / "test_images.npz")["confusion"].astype(int)
    true, predicted = np.nonzero(matrix)
    expected = cohen_kappa_score(true, predicted, sample_weight=matrix[true, predicted])
    assert written["scores"]["MulticlassCohenKappa"] == pytest.approx(expected, abs=1e-4) != 0
    assert {"boundary_f1_0.75pct", "miou"} <= written["scores"].keys()
    assert set(written["per_class"]["MulticlassAUROC"]) == set(written["protocol"]["classes"])
    kappa, auroc = written["protocol"]["metrics"]
    assert kappa["settings"]["ignore_index"] == 255 and kappa["given"] == "labels, one image at a time"
    assert (
        auroc["given"] == "probabilities, one image at a time" and len(auroc["settings"]["thresholds"]) == 20
    )
    assert main(["test", str(run)]) == 0
    assert json.loads((run / "test.json").read_text())["scores"] == written["scores"]


def test_a_loss_that_fits_nothing_is_one_error_before_training(experiment, capsys):
    assert main(["exp", "foreign.yaml", "--model.loss=NLLLoss"]) == 2
    assert "model.loss: NLLLoss works with masks in no form" in capsys.readouterr().err
    assert not (experiment / "runs").exists()
