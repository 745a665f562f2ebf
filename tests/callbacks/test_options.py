"""Averages, early stopping, schedules and the overfitting monitor from a YAML, in a whole run and its resumption."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch

from lightning_seg.cli.main import main

YAML = """
seed_everything: 0
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [16, 8, 8, 8, 8]}
  finetune: {class_path: lightning_seg.training.finetune.policies.GradualUnfreeze, init_args: {schedule: [1, 2], backbone_lr_mult: 0.1}}
  optimizer: {class_path: torch.optim.RMSprop, init_args: {lr: 1e-3, weight_decay: 1e-4}}
  lr_scheduler: {class_path: lightning_seg.training.schedules.Plateau, init_args: {patience: 1}}
  loss: {class_path: lightning_seg.training.losses.CrossEntropy, init_args: {label_smoothing: 0.1}}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [32, 32], train_images: 8, val_images: 4, test_images: 3,
     num_workers: 0}
overfitting: {train_eval_fraction: 1}
trainer:
  max_epochs: 30
  accelerator: cpu
  precision: 32-true
  log_every_n_steps: 1
  callbacks:
    - {class_path: lightning_seg.callbacks.averaging.EMA, init_args: {decay: 0.9}}
    - {class_path: lightning_seg.callbacks.l1.L1, init_args: {strength: 1e-5}}
    - {class_path: lightning_seg.callbacks.early_stopping.EarlyStopping, init_args: {patience: 4, min_delta: 1.0}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that stopped early, five validations after its begin."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("work")
    os.chdir(folder)
    (folder / "tiny.yaml").write_text(YAML)
    assert main(["exp", "tiny.yaml"]) == 0
    yield next((folder / "runs" / "tiny").iterdir())
    os.chdir(before)


def rows(run):
    return list(csv.DictReader((run / "metrics.csv").open()))


def validations(run):
    """The steps of the validations within the training."""
    return sorted(int(row["step"]) for row in rows(run) if row["val/miou"] and row["step"] != "0")


def test_run_stops_early_and_says_what_became_of_it(run):
    assert validations(run) == [1, 3, 5, 7, 9]
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["epoch"] == 4 and "unaveraged" in state


def test_gap_is_logged_for_every_validation_and_drawn(run):
    found = [row for row in rows(run) if row["gap/miou"]]
    val = {row["step"]: row for row in rows(run) if row["val/loss"]}
    assert [row["step"] for row in found] == [*val]
    for row in found:
        difference = float(row["gap/train_loss"]) - float(val[row["step"]]["val/loss"])
        assert float(row["gap/loss"]) == pytest.approx(difference, abs=1e-6)
    assert (run / "pictures" / "curves.png").stat().st_size > 1000


def test_the_rates_of_all_groups_the_gradient_and_the_memory_are_logged(run):
    steps = [row for row in rows(run) if row["train/loss"]]
    assert len(steps) == 10
    whole = [float(row["train/lr"]) for row in steps]
    backbone = [float(row["train/lr/backbone"]) for row in steps]
    assert whole[0] == pytest.approx(1e-3) and whole[-1] < whole[0]  # Plateau
    assert backbone == pytest.approx([0.1 * rate for rate in whole])
    assert all(0 < float(row["train/gradient_norm"]) < 1e4 for row in steps)
    memory = [float(row["train/peak_memory_gb"]) for row in rows(run) if row["train/peak_memory_gb"]]
    assert len(memory) == 5 and memory == sorted(memory) and 0.05 < memory[0] < 100


def test_environment_holds_the_weights_and_the_parts(run):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["weights"] == "random"
    parts = {part["name"]: part for part in environment["parts"]}
    assert [*parts] == [*(f"backbone.stage{i}" for i in range(5)), "decoder", "head"]
    assert parts["backbone.stage3"]["start"] == 2 and parts["backbone.stage2"]["trainable"] == 0
    assert parts["backbone.stage4"]["lr_factor"] == 0.1 and parts["head"]["lr_factor"] == 1


def test_validation_of_the_best_checkpoint_repeats_the_score_that_chose_it(run, capsys):
    """Both are of the averaged weights."""
    best = max(float(row["val/miou"]) for row in rows(run) if row["val/miou"])
    assert main(["validate", str(run)]) == 0
    (mean,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mean")]
    assert float(mean.split()[1]) == pytest.approx(best, abs=6e-4)


def test_resumed_run_that_had_stopped_trains_no_further(run, capsys):
    scores = json.loads((run / "test.json").read_text())["scores"]
    assert main(["resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert (
        "weights  those of the checkpoint" in out
        and "resumes  after epoch 5 of 30, step 10\n" in out
        and "stopped  4 validations without a better val/miou" in out
    )
    assert "fit      " in out and "epoch 6" not in out
    assert json.loads((run / "test.json").read_text())["scores"] == scores
    assert json.loads((run / "environment.json").read_text())["weights"] == "random"
    assert validations(run) == [1, 3, 5, 7, 9]


def test_more_patience_lets_it_go_on(run, capsys):
    ema = "{class_path: lightning_seg.callbacks.averaging.EMA, init_args: {decay: 0.9}}"
    stop = "{class_path: lightning_seg.callbacks.early_stopping.EarlyStopping, init_args: {patience: 6, min_delta: 1.0}}"
    assert main(["resume", str(run), f"--trainer.callbacks=[{ema}, {stop}]"]) == 0
    assert "epoch 6/30" in capsys.readouterr().out
    assert validations(run) == [1, 3, 5, 7, 9, 11, 13]
