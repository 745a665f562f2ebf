import numpy as np
import torch
from PIL import Image

from lightning_seg.data.datasets.camvid import CamVid


def test_lists_with_foreign_paths_are_resolved_and_unlabelled_is_not_counted(camvid):
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32))
    assert len(data.samples("train")) == 10 and len(data.samples("val")) == 5
    unlabelled = 0
    for sample in data.samples("train"):
        _, mask = data.read(sample)
        raw = np.asarray(Image.open(sample[1]))
        np.testing.assert_array_equal(mask, np.where(raw == 11, 255, raw))
        unlabelled += (raw == 11).sum()
        assert sample[0].parent.name == "train" and data.name_of(sample) == sample[0].stem
    assert unlabelled > 0


def test_image_and_mask_move_together(camvid):
    """Colors encode the label: after augmentation they still do, away from borders."""
    data = CamVid(str(camvid), batch_size=5, crop_size=(40, 40), hflip=0.5)
    data.setup("validate")
    right, certain = [], []
    for batch in data.train_dataloader():
        label = batch["image"][:, 0].float() / 9
        sure = (label - label.round()).abs() < 0.01
        sure &= (batch["image"][:, 2] == 40) & (batch["mask"] != 255)
        right.append((label.round() == batch["mask"])[sure])
        certain.append(sure)
    # at a border, two labels may look like a third between them
    assert torch.cat(right).float().mean() > 0.96 and torch.cat(certain).float().mean() > 0.3


def test_real_camvid(real_data):
    data = CamVid(str(real_data / "CamVid"), batch_size=4, crop_size=(256, 320), test_split="val")
    data.setup("fit")
    assert len(data.samples("train")) == 367 and len(data.samples("val")) == 101
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 256, 320)
    labels = set(torch.unique(batch["mask"]).tolist())
    assert labels <= {*range(11), 255} and len(labels) > 5
