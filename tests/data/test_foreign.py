"""Data modules and loaders of other people: the same samples as theirs, once each, on any number of processes."""

import random

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from lightning_seg.data.foreign import ForeignData
from lightning_seg.errors import UserError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Items(Dataset):
    """Made-up images and masks, in one of the forms that people give them."""

    def __init__(self, count, form="pair", augment=False):
        generator = np.random.default_rng(count)
        self.images = generator.integers(0, 256, (count, 12, 16, 3), np.uint8)
        self.masks = generator.integers(0, 3, (count, 12, 16))
        self.form, self.augment = form, augment

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = torch.from_numpy(self.images[i]).permute(2, 0, 1)
        mask = torch.from_numpy(self.masks[i])
        if self.augment:  # with all three generators
            image = image.clone()
            image[0, 0, 0], image[0, 0, 1] = random.randrange(256), np.random.randint(256)
            image[0, 0, 2] = torch.randint(256, ()).byte()
        if self.form == "normalized":
            return (image / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), mask
        if self.form == "dictionary":
            return {"pixel_values": self.images[i], "labels": mask[None].float(), "name": "x"}
        return (image.float() / 255 if self.form == "real" else image), torch.where(mask == 2, -100, mask)


class Module(L.LightningDataModule):
    classes = ("ground", "tree", "sky")

    def __init__(self, form="pair", batch_size=4, workers=0, augment=False):
        super().__init__()
        self.form, self.batch_size, self.workers, self.augment = form, batch_size, workers, augment

    def setup(self, stage):
        self.train, self.val = Items(10, self.form, self.augment), Items(5, self.form)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, num_workers=self.workers)

    def val_dataloader(self):
        return DataLoader(self.val, 2)


def adapted(module, **options):
    data = ForeignData(module, **{"ignore_index": -100, "class_names": ["a", "b", "c"], **options})
    for split in ("train", "val"):
        data.samples(split)
    data.seed = 3
    return data


@pytest.mark.parametrize(
    ("form", "options"),
    [("pair", {}), ("real", {}), ("normalized", {"mean": MEAN, "std": STD}), ("dictionary", {})],
)
def test_images_and_masks_are_those_of_the_items(form, options):
    data = adapted(Module(form), **options)
    batches = [*data.val_dataloader()]
    items = Items(5)
    assert torch.equal(torch.cat([b["index"] for b in batches]), torch.arange(5))
    images = torch.cat([b["image"] for b in batches])
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.from_numpy(items.images).permute(0, 3, 1, 2))
    masks = torch.cat([b["mask"] for b in batches])
    void = 255 if form in ("pair", "real") else 2
    assert torch.equal(masks.long(), torch.from_numpy(np.where(items.masks == 2, void, items.masks)))
    assert (data.batch_size, data.eval_batch_size, data.crop_size) == (4, 2, (12, 16))


def test_samples_follow_from_seed_epoch_and_position_alone():
    def epoch(workers, number):
        loader = adapted(Module(workers=workers, augment=True)).train_dataloader()
        loader.sampler.set_epoch(number)
        return torch.cat([batch["image"] for batch in loader])

    first = epoch(0, 0)
    random.random(), np.random.rand(), torch.rand(1)
    assert torch.equal(epoch(0, 0), first) and torch.equal(epoch(1, 0), first)
    assert not torch.equal(epoch(0, 1), first) and len(first) == 8


def test_classes_come_from_the_module_or_beside_it_and_a_function_may_make_loaders():
    assert ForeignData(Module()).class_names == ("ground", "tree", "sky")
    data = adapted(lambda: (DataLoader(Items(4), 2), DataLoader(Items(3))))
    assert len(data.samples("val")) == 3 and data.palette[1] != data.palette[2]
    with pytest.raises(UserError, match="does not say its classes: state class_names"):
        ForeignData(lambda: ())


def test_a_loader_with_its_own_ways_is_used_as_it_is_and_said(monkeypatch):
    said = []
    monkeypatch.setattr("lightning_seg.data.foreign.rank_zero_info", said.append)
    sampler = WeightedRandomSampler([1.0] * 4, 6)
    data = adapted(lambda: (DataLoader(Items(4), 2, sampler=sampler), DataLoader(Items(3))))
    loader = data.train_dataloader()
    batches = [*loader]
    assert len(said) == 1 and "has a sampler of its own: its order is not that of the seed" in said[0]
    assert len(loader) == len(batches) == 3 and batches[0]["image"].shape == (2, 3, 12, 16)
    assert set(batches[0]["mask"].unique().tolist()) <= {0, 1, 255}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        (lambda: (DataLoader(Items(4)),), {}, "must give loaders for training and validation"),
        (lambda: (DataLoader(Stream()), DataLoader(Items(3))), {}, "is a stream, without a length"),
        (lambda: (DataLoader(Items(4)), [1, 2]), {}, "gives a list for val, not one DataLoader"),
        (Module("normalized"), {}, "values from -.*not 0..1. If it is normalized, state mean and std"),
        (Module(), {"ignore_index": 255}, "has label -100.*state ignore_index: -100"),
        (
            lambda: (DataLoader([(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 300))]),) * 2,
            {},
            "has label 300",
        ),
        (lambda: (DataLoader(torch.zeros(3, 2)), DataLoader(Items(3))), {}, "must be a pair .* it is Tensor"),
    ],
)
def test_what_cannot_be_adapted_is_refused_and_says_what_to_do(module, options, says):
    with pytest.raises(UserError, match=says):
        adapted(module, **options)


def test_a_label_without_a_class_is_refused():
    with pytest.raises(UserError, match="the classes 0 to 1, and item 0 the label 2. State all class_names"):
        next(iter(adapted(Module("dictionary"), class_names=["a", "b"]).val_dataloader()))
