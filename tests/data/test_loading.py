import multiprocessing
import os
import signal
import time

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.camvid import CamVid
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.loading import EpochSampler, Loader, collate, seeded
from lightning_seg.data.transforms.color import ColorJitter
from lightning_seg.errors import UserError


@pytest.mark.parametrize("total", [0, 1, 2, 7, 8, 101])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_sees_every_sample_once_on_any_number_of_processes(total, world_size):
    samplers = [EpochSampler(range(total), False, 0, rank, world_size) for rank in range(world_size)]
    seen = [index for sampler in samplers for _, index in sampler]
    assert sorted(seen) == list(range(total))
    assert sum(len(sampler) for sampler in samplers) == total


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_steps_are_the_same_samples_on_any_number_of_processes(world_size):
    """The union of the processes' k-th parts is the k-th part of one process's order."""
    total = 25
    alone = [index for _, index in EpochSampler(range(total), True, seed=3)]
    samplers = [EpochSampler(range(total), True, 3, rank, world_size) for rank in range(world_size)]
    parts = [[index for _, index in sampler] for sampler in samplers]
    assert {len(part) for part in parts} == {total // world_size} == {len(sampler) for sampler in samplers}
    for step, together in enumerate(zip(*parts, strict=True)):
        assert list(together) == alone[step * world_size : (step + 1) * world_size]


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = EpochSampler(range(50), True, seed)
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        assert {pair[0] for pair in pairs} == {epoch}
        return [pair[1] for pair in pairs]

    assert order(0, 4) == order(0, 4)
    assert order(0, 4) != order(0, 5) and order(0, 4) != order(1, 4)
    assert sorted(order(0, 4)) == list(range(50))


def test_seeded_draws_follow_from_the_numbers_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, 1, 2):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(0, 1, 2):
        assert torch.equal(torch.rand(3), first)
    with seeded(0, 2, 1):
        assert not torch.equal(torch.rand(3), first)
    torch.manual_seed(5)
    with pytest.raises(ValueError), seeded(1):
        raise ValueError
    assert torch.equal(torch.rand(3), expected)


def shapes(**kwargs):
    arguments = dict(batch_size=3, crop_size=(32, 40), image_size=(48, 56), train_images=11, val_images=5)
    return Shapes(**{**arguments, "color": ColorJitter(0.2, 0.2, 0.2, 0.1), **kwargs})


def batches(data, epochs):
    data.setup("fit")
    loader = data.train_dataloader()
    out = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        out += [{key: value.clone() for key, value in batch.items()} for batch in loader]
    return out


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_samples_do_not_depend_on_workers_nor_on_earlier_epochs_nor_on_other_random_draws():
    expected = batches(shapes(num_workers=0), [0, 1])
    torch.rand(17)
    assert_same(expected, batches(shapes(num_workers=2), [0, 1]))  # in workers that outlive the epoch
    assert_same(expected[3:], batches(shapes(num_workers=1), [1]))
    first_of_epoch_0 = expected[0]["image"], expected[0]["index"]
    again = {
        int(i): image
        for batch in expected[3:]
        for i, image in zip(batch["index"], batch["image"], strict=True)
    }
    same = [
        torch.equal(image, again[int(i)])
        for image, i in zip(*first_of_epoch_0, strict=True)
        if int(i) in again
    ]
    assert same and not any(same)  # another epoch, another augmentation


class Recorder(L.LightningModule):
    """Notes which batches it trains on, and can stop in the middle of an epoch."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)
        self.seen, self.validated, self.stop_after = [], [], stop_after

    def training_step(self, batch, batch_idx):
        self.seen.append((self.trainer.current_epoch, batch["index"].tolist(), batch["image"].sum().item()))
        return self.layer(batch["image"]).mean()

    def validation_step(self, batch, batch_idx):
        assert batch["image"].dtype == torch.uint8
        self.validated += batch["index"].tolist()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if len(self.seen) == self.stop_after:
            self.trainer.save_checkpoint(self.folder / "stop.ckpt")
            raise KeyboardInterrupt

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(module, data, folder, ckpt_path=None, **kwargs):
    module.folder = folder
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **kwargs,
    )  # fmt: skip
    try:
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        pass
    return module.seen


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop_after", [2, 3, 4, 8])
def test_a_resumed_run_sees_the_samples_that_were_left(tmp_path, stop_after, workers):
    whole = fit(Recorder(), shapes(), tmp_path)
    assert [epoch for epoch, *_ in whole] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    first = fit(Recorder(stop_after), shapes(num_workers=workers), tmp_path)
    rest = fit(Recorder(), shapes(num_workers=workers), tmp_path, ckpt_path=tmp_path / "stop.ckpt")
    assert first == whole[:stop_after]
    assert rest == whole[stop_after:]


def test_validation_and_overfitting_one_batch_work_with_lightning(tmp_path):
    module = Recorder()
    fit(module, shapes(), tmp_path, num_sanity_val_steps=0)
    assert module.validated == [0, 1, 2, 3, 4] * 3
    module = Recorder()
    fit(module, shapes(), tmp_path, overfit_batches=1)
    assert len({tuple(index) for _, index, _ in module.seen}) == 1


class Broken(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, key):
        raise UserError("The image a.png cannot be read.\nReplace it.")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_error_in_a_worker_keeps_its_message(workers):
    loader = Loader(Broken(), batch_size=2, num_workers=workers, collate_fn=collate)
    with pytest.raises(UserError) as caught:
        next(iter(loader))
    assert str(caught.value) == "The image a.png cannot be read.\nReplace it."


def sample(height, width, index):
    image = torch.full((height, width, 3), 9, dtype=torch.uint8).permute(2, 0, 1)
    return {"image": image, "mask": torch.full((height, width), 3, dtype=torch.uint8), "index": index}


def test_collate_stacks_to_channels_last_without_a_size_where_all_are_equal():
    batch = collate([sample(4, 6, 0), sample(4, 6, 7)])
    assert batch.keys() == {"image", "mask", "index"}
    assert batch["image"].shape == (2, 3, 4, 6) and batch["mask"].shape == (2, 4, 6)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["index"].tolist() == [0, 7]


def test_collate_pads_different_sizes_and_tells_the_true_ones():
    batch = collate([sample(4, 6, 0), sample(5, 3, 1)])
    assert batch["size"].tolist() == [[4, 6], [5, 3]]
    assert batch["image"].shape == (2, 3, 5, 6) and batch["image"].is_contiguous(
        memory_format=torch.channels_last
    )
    for image, mask, (height, width) in zip(
        batch["image"], batch["mask"], batch["size"].tolist(), strict=True
    ):
        assert (mask[:height, :width] == 3).all() and (image[:, :height, :width] == 9).all()
        assert (mask == 255).sum() == 30 - height * width == (image[0] == 0).sum()


class Slow(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, key):
        time.sleep(0.05)
        return sample(4, 4, 0)


@pytest.mark.parametrize(("pause", "low", "high"), [(0.0, 0.8, 1.0), (0.15, 0.1, 0.5)])
def test_the_share_of_time_spent_waiting_is_measured(pause, low, high):
    shares = []
    for _ in range(5):  # on a busy machine a try may wait for the processor instead
        loader = Loader(Slow(), batch_size=1, collate_fn=collate)
        assert loader.waiting == 0
        for _ in loader:
            time.sleep(pause)
        shares.append(loader.waiting)
        if low < shares[-1] <= high:
            return
    raise AssertionError(f"expected a share between {low} and {high}, measured {shares}")


def test_a_label_that_is_no_class_names_its_file(tmp_path):
    """It may be in a file that the check before training did not look at."""
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "val/a.png"), np.zeros((8, 9, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "valannot/a.png"), np.full((8, 9), 12, np.uint8))
    (tmp_path / "val.txt").write_text("val/a.png valannot/a.png")
    data = CamVid(root=str(tmp_path), batch_size=1, crop_size=(8, 8))
    with pytest.raises(UserError, match="classes 0 to 10.*a.png.*label 12"):
        Split(data, "val")[0]


def test_workers_go_on_after_a_signal_to_all_processes_of_the_run():
    """So that the first process can finish its step and save; a dead worker would end it with an error."""
    others = set(multiprocessing.active_children())
    data = shapes(num_workers=2, train_images=36)  # more batches than are made ahead
    data.setup("fit")
    loader = iter(data.train_dataloader())
    seen = [next(loader), next(loader)]  # one of each worker: both have begun
    for worker in set(multiprocessing.active_children()) - others:
        os.kill(worker.pid, signal.SIGTERM)
    seen += [*loader]
    assert len(seen) == len(data.train_dataloader()) == 12
