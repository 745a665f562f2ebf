"""The curves beside the loss, with known values."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_seg.callbacks.training_curves import TrainingCurves, learning_rates


class Slope(L.LightningModule):
    """Its gradient is (3, 4) at every step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, batch, batch_idx):
        return (self.weight * torch.tensor([3.0, 4.0])).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


class Kept(L.pytorch.loggers.Logger):
    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_norm_is_that_before_clipping_and_the_rate_that_of_the_step(accumulate):
    logger = Kept()
    L.Trainer(
        max_epochs=1,
        log_every_n_steps=2,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
        callbacks=[TrainingCurves()],
        logger=logger,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(Slope(), DataLoader(torch.zeros(8 * accumulate), batch_size=None))
    steps = [(step, row) for step, row in logger.rows if "train/gradient_norm" in row]
    assert [step for step, _ in steps] == [1, 3, 5, 7]
    for _, row in steps:
        assert row["train/gradient_norm"] == pytest.approx(5.0) and row["train/lr"] == 0.5
    assert [row["train/peak_memory_gb"] > 0 for _, row in logger.rows if "train/peak_memory_gb" in row] == [
        True
    ]


def test_groups_have_names():
    def rates(*factors):
        groups = [{"params": [torch.zeros(1)], "lr": 2 * f, "lr_factor": f} for f in factors]
        return learning_rates(torch.optim.SGD(groups))

    assert rates(1.0) == {"train/lr": 2.0}
    assert rates(0.5, 1.0) == {"train/lr": 2.0, "train/lr/backbone": 1.0}
    assert rates(1.0, 0.5, 0.25) == {"train/lr": 2.0, "train/lr/backbone0": 0.5, "train/lr/backbone1": 1.0}
