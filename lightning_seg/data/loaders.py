"""The loaders of a data set's splits, and what happens to a batch on the device."""

import os
from abc import abstractmethod

import lightning as L
import torch

from lightning_seg.data.dataset import Images, Split
from lightning_seg.data.instances import CopyPaste, mix_objects
from lightning_seg.data.loading import EpochSampler, Loader, choose_workers, collate, outlive_signal, seeded
from lightning_seg.data.pixels import Pixels
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.data.transforms.color import apply_color
from lightning_seg.data.transforms.mixing import Mix


class SplitLoaders(L.LightningDataModule):
    """Loads the splits of a data set for training, evaluation and prediction; see `SegmentationData`."""

    train_split: str
    val_split: str
    test_split: str
    predict_folder: list[str] | str | None
    batch_size: int
    eval_batch_size: int
    num_workers: int | None
    seed: int | None
    pixels: Pixels
    mix: Mix | CopyPaste | None

    @abstractmethod
    def _split(self, name: str, train: bool = False) -> Split:
        """Make the data set of a split."""

    def train_dataloader(self) -> Loader:
        """Load shuffled, augmented batches; the last, smaller one of an epoch is left out."""
        return self._loader(self._split(self.train_split, train=True), self.batch_size)

    def val_dataloader(self) -> Loader:
        """Load the validation split in order."""
        return self._loader(self._split(self.val_split), self.eval_batch_size)

    def test_dataloader(self) -> Loader:
        """Load the test split in order."""
        return self._loader(self._split(self.test_split), self.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        """Load the images of `predict_folder`: "image", "index" and "path", a list of file names."""
        return self._loader(Images(self.predict_folder or ".", self.pixels), self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Apply the color jitter of a training batch and mix its samples, on the device."""
        if "color" in batch:
            batch["image"] = apply_color(batch["image"], batch.pop("color"), self.pixels.limits)
        if self.mix is not None and self.trainer is not None and self.trainer.training:
            if batch["image"].dtype == torch.uint16:  # for which torch has few operations
                batch["image"] = batch["image"].float()
            with seeded(self.run_seed, self.trainer.global_step, self.trainer.global_rank):
                batch = mix_objects(batch, self.mix) if isinstance(self.mix, CopyPaste) else self.mix(batch)
        return batch

    def _loader(self, dataset: Split | Images, batch_size: int) -> Loader:
        train = getattr(dataset, "train", False)
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        workers = choose_workers(dataset, trainer) if self.num_workers is None else self.num_workers
        return Loader(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(
                dataset, train, self.run_seed, rank, world_size, keep_step=isinstance(dataset, Split)
            ),
            drop_last=train,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
            worker_init_fn=outlive_signal,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    @property
    def run_seed(self) -> int:
        """The seed in force: the argument, or that of the whole run, which Lightning keeps there for all processes."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
