"""When pictures and tables go to W&B."""

import lightning as L
import torch

from lightning_seg.callbacks.pictures import Pictures
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.networks.unet import UNet
from lightning_seg.runs.csv_logger import RunLogger
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.tracking.wandb_run import WandbSettings
from tests.tracking.wandb_logs import of_type, records


def test_tables_go_to_wandb_after_every_nth_validation_and_the_last_and_the_test(home, tmp_path):
    data = Shapes(
        batch_size=2,
        crop_size=(32, 32),
        image_size=(32, 32),
        train_images=2,
        val_images=3,
        test_images=3,
        num_workers=0,
    )
    network = UNet(data.num_classes, "test_resnet", weights=False, decoder_channels=(16, 8, 8, 8, 8))
    task = SemanticSegmentation(network, torch.optim.SGD, data.class_names)
    run_dir = tmp_path / "e" / "id"
    with WandbSettings(mode="offline").start(run_dir, {}) as run:
        trainer = L.Trainer(
            max_epochs=5,
            logger=[RunLogger(run_dir), run.logger],
            callbacks=[Pictures(count=2, tables_every_n=2)],
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(task, data)
        trainer.test(task, data, verbose=False)
    rows = [row["item"] for row in of_type(records(run_dir), "history")]

    def steps(name):
        return [row["trainer/global_step"] for row in rows if any(key.startswith(name) for key in row)]

    assert steps("val/pictures.") == [0, 1, 2, 3, 4]
    for table in ("val/pictures_table", "val/confusion_table", "val/iou_per_class_table"):
        assert steps(table) == [1, 3, 4]
        assert len(steps(table.replace("val", "test"))) == 1
