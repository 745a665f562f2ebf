"""The learning-rate range test."""

import os

import lightning as L
import numpy as np
import pytest
import torch

from lightning_seg.callbacks.range_test import RangeTest
from lightning_seg.cli.main import main
from lightning_seg.errors import UserError

TINY = """
model:
  network: {class_path: lightning_seg.networks.linear.Linear, init_args: {backbone: test_resnet, weights: false}}
  finetune: {class_path: lightning_seg.training.finetune.policies.Full, init_args: {backbone_lr_mult: 0.1}}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.05}}
  lr_scheduler: {class_path: lightning_seg.training.schedules.Poly}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args: {batch_size: 2, crop_size: [32, 32], train_images: 8, val_images: 2, test_images: 2, num_workers: 0}
trainer: {accelerator: cpu, precision: 32-true}
"""


class Seen(L.Callback):
    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def test_command_suggests_draws_and_leaves_nothing_else(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    seen = Seen()
    trainer = L.Trainer
    monkeypatch.setattr(
        L, "Trainer", lambda callbacks, **options: trainer(callbacks=[*callbacks, seen], **options)
    )
    assert main(["find-lr", "tiny.yaml", "--steps", "20", "--low", "1e-4", "--high", "1"]) == 0
    assert "the experiment has 0.05" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["lr.png", "tiny.yaml"]
    rates = np.array(seen.rates)
    np.testing.assert_allclose(rates[:, 1], np.geomspace(1e-4, 1, 20)[: len(rates)], rtol=1e-6)
    np.testing.assert_allclose(rates[:, 0], 0.1 * rates[:, 1])  # the backbone keeps its factor


def watched(losses):
    """A range test that has seen these losses."""
    test, trainer = RangeTest(len(losses), 1e-4, 1.0), Trainer()
    test.on_train_start(trainer, None)
    for loss in losses:
        if trainer.should_stop:
            break
        test.on_train_batch_start(trainer, None, None, 0)
        test.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, 0)
        trainer.global_step += 1
    return test, trainer


class Trainer:
    def __init__(self):
        self.global_step, self.should_stop = 0, False
        self.optimizers = [torch.optim.SGD([torch.zeros(1)])]


def test_suggestion_is_where_the_loss_falls_most_steeply():
    place = np.linspace(0, 1, 200)
    losses = 2 - 1 / (1 + np.exp(-40 * (place - 0.5))) + 3 * (place > 0.9)
    test, _ = watched(losses.tolist())
    steepest = 1e-4 ** (1 - 0.5)
    assert steepest < test.suggestion() < 3 * steepest  # the smoothing looks back a few steps


def test_test_ends_where_the_loss_explodes_and_says_nothing_if_it_never_fell():
    test, trainer = watched([1.0] * 30 + [float("nan")] + [1.0] * 9)
    assert trainer.should_stop and len(test.losses) == 31 and test.suggestion() is None
    test, trainer = watched([1.0] * 20 + [1e3] * 20)
    assert trainer.should_stop and len(test.losses) < 25
    assert watched(np.linspace(1, 2, 40).tolist())[0].suggestion() is None


@pytest.mark.parametrize("wrong", [(100, 1.0, 0.1), (100, 0.0, 1.0), (5, 1e-3, 1.0)])
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(UserError, match="low < high"):
        RangeTest(*wrong)
