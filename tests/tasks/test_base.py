"""What every task does: pretrained weights for a fresh training only, and training in the right mode."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_seg.errors import UserError
from lightning_seg.networks.linear import Linear
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.parts import batch_norms
from lightning_seg.training.finetune.policies import FrozenStages


def fit(weights, checkpoint=None, epochs=1):
    sample = {
        "image": torch.zeros(3, 32, 32, dtype=torch.uint8),
        "mask": torch.zeros(32, 32).byte(),
        "index": 0,
    }
    task = SemanticSegmentation(
        Linear(2, "test_resnet", weights=weights),
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),  # takes no other option
        ("a", "b"),
        finetune=FrozenStages(2),
    )
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, DataLoader([sample] * 2, batch_size=2), ckpt_path=checkpoint, weights_only=True)
    return trainer, task


def test_weights_that_a_checkpoint_replaces_are_not_looked_for(tmp_path):
    """A resumed run may be on a machine that has neither the file nor a hub."""
    trainer, task = fit(weights=False)
    assert task.pretrained == "random"
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    missing = str(tmp_path / "gone.safetensors")
    _, task = fit(missing, checkpoint=tmp_path / "last.ckpt", epochs=2)
    assert task.pretrained == "those of the checkpoint"
    with pytest.raises(UserError, match="gone.safetensors"):
        fit(missing)


def test_training_begins_in_the_mode_of_the_policy():
    """Nobody has called `train` before: Lightning does not."""
    _, task = fit(weights=False)
    stages = [stage for _, stage in task.network.backbone.stages()]
    modes = [{norm.training for norm in batch_norms(stage)} for stage in stages]
    assert modes == [{False}] * 2 + [{True}] * 3
