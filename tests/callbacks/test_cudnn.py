"""cuDNN tries kernels in training steps only."""

import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_seg.callbacks.cudnn import CudnnBenchmark


def test_kernels_are_tried_in_training_only(tmp_path):
    seen = {"train": [], "val": []}

    class Model(BoringModel):
        def training_step(self, batch, batch_idx):
            seen["train"].append(torch.backends.cudnn.benchmark)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            seen["val"].append(torch.backends.cudnn.benchmark)

    trainer = L.Trainer(
        max_epochs=2,
        limit_train_batches=2,
        limit_val_batches=1,
        callbacks=[CudnnBenchmark()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Model())
    assert seen["train"] == [True] * 4
    assert seen["val"] and not any(seen["val"])
    assert not torch.backends.cudnn.benchmark
