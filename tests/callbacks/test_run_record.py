"""Steps that no validation follows, and epochs, are counted before the training, as Lightning then trains."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_seg.callbacks.run_record import epochs_of, steps_without_validation


class Counter(L.LightningModule):
    """Notes how many steps came after the last validation and how many epochs began, and how many were expected to."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.validated = 0
        self.expected = None
        self.epochs = self.expected_epochs = 0

    def on_train_start(self):
        self.expected = steps_without_validation(self.trainer)
        self.expected_epochs = epochs_of(self.trainer)

    def on_train_epoch_start(self):
        self.epochs += 1

    def training_step(self, batch, batch_idx):
        return (self.weight * batch).sum()

    def validation_step(self, batch, batch_idx):
        self.validated = self.global_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 4},
        {"max_epochs": 4, "check_val_every_n_epoch": 3},
        {"max_epochs": 2, "check_val_every_n_epoch": 5},
        {"max_steps": 12},
        {"max_steps": 17},
        {"max_steps": 3},
        {"max_steps": 17, "check_val_every_n_epoch": 2},
        {"max_epochs": 3, "val_check_interval": 0.5},
        {"max_steps": 10, "val_check_interval": 0.5},
        {"max_steps": 11, "val_check_interval": 2},
        {"max_epochs": 2, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"max_steps": 13, "val_check_interval": 8, "check_val_every_n_epoch": None},
        {"max_steps": 13, "val_check_interval": 20, "check_val_every_n_epoch": None},
        {"max_epochs": 3, "accumulate_grad_batches": 3},
        {"max_steps": 5, "accumulate_grad_batches": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 2, "val_check_interval": 2},
        {"max_epochs": 2, "max_steps": 9},
    ],
    ids=str,
)
def test_it_is_as_many_as_then_come(options):
    module = Counter()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    loader = DataLoader(torch.ones(5, 1))
    trainer.fit(module, loader, DataLoader(torch.ones(1, 1)))
    assert module.expected == trainer.global_step - module.validated
    assert module.expected_epochs == module.epochs
