"""The overfitting monitor: what it measures, and what it makes of curves whose meaning is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_seg.callbacks.overfitting import History, OverfittingMonitor, curves, judge
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.loading import collate
from lightning_seg.networks.linear import Linear
from lightning_seg.tasks.semantic import SemanticSegmentation


def history(train_loss, val_loss, train_miou, val_miou):
    columns = [np.array(c, float) for c in (train_loss, val_loss, train_miou, val_miou)]
    return History(100.0 * np.arange(1, len(train_loss) + 1), *columns, columns[2] - columns[3])


FALLING, LEARNED, SEEN = [1.0, 0.7, 0.5, 0.4, 0.3, 0.25], np.linspace(0.3, 0.9, 6), [0.3, 0.5] + 4 * [0.55]
CURVES = {
    "overfitting": history(FALLING, [1.1, 0.8, 0.7, 0.75, 0.8, 0.9], LEARNED, SEEN),
    "underfitting": history(FALLING, [1.1, 0.8, 0.6, 0.5, 0.4, 0.3], LEARNED / 2, LEARNED / 2 - 0.03),
    # both have come to rest, with the gap that every network has
    "neither: rest": history([1, 0.5] + 4 * [0.4], [1, 0.6] + 4 * [0.5], [0.3, 0.6] + 4 * [0.7], SEEN),
    # the validation loss rises a little, or at one validation only
    "neither: little": history(FALLING, [1.1, 0.8, 0.7, 0.72, 0.73, 0.74], LEARNED, SEEN),
    "neither: once": history(FALLING, [1.1, 0.8, 0.7, 0.71, 0.7, 0.9], LEARNED, SEEN),
    # too sure of itself, but no worse for it: the mIoU of both rises alike
    "neither: sure": history(FALLING, [1.1, 0.8, 0.7, 0.75, 0.8, 0.9], LEARNED, LEARNED - 0.06),
    # a learning rate too high: both losses rise
    "neither: diverging": history(
        [1, 0.5, 0.4, 0.6, 0.8, 0.9],
        [1, 0.6, 0.5, 0.7, 0.9, 1],
        [0.3, 0.6] + 4 * [0.7],
        [0.3, 0.6] + 4 * [0.5],
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_called_by_their_name(name):
    assert judge(CURVES[name]).split()[0].strip(":") == name.split(":")[0]


def test_verdict_gives_its_figures():
    text = judge(CURVES["overfitting"])
    assert "from step 300 on the validation loss went from 0.700 to 0.900" in text
    assert "0.500 to 0.250" in text and "gap of 0.350 that was -0.010" in text
    assert judge(history([1] * 3, [1] * 3, [0] * 3, [0] * 3)).startswith("not judged: 3 validations")


def test_history_keeps_the_steps_that_have_all_scores(tmp_path):
    names = ("step", "val/loss", "val/miou", "gap/train_loss", "gap/train_miou", "gap/miou")
    rows = [dict.fromkeys(names, "") | {"step": "4", "train/loss": "1.5"}]
    for step, loss in (("9", "0.5"), ("19", "nan"), ("29", "0.25")):
        rows.append(dict.fromkeys(names, "") | {"step": step, "val/loss": loss, "val/miou": "0.75"})
        rows.append(dict.fromkeys(names, "0.5") | {"step": step, "val/loss": "", "val/miou": ""})
    read = History.read(rows)
    assert read.step.tolist() == [9, 29] and read.val_loss.tolist() == [0.5, 0.25]
    curves(rows).savefig(tmp_path / "curves.png")
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 5  # there is something to see


@pytest.mark.parametrize("share", [0.4, 9])
def test_training_images_are_scored_as_if_they_were_validated(share):
    """The same loss and matrix as the task's own validation of these images gives."""
    torch.manual_seed(0)
    data = Shapes(
        (40, 48), train_images=7, val_images=10, batch_size=2, crop_size=(32, 32), eval_batch_size=3
    )
    network = Linear(data.num_classes, "test_resnet", weights=False)
    task = SemanticSegmentation(network, torch.optim.SGD, data.class_names).eval()
    loss, matrix = OverfittingMonitor(share)._score(Trainer(data), task)

    split = Split(data, "train")
    chosen = [0, 2, 4, 6] if share == 0.4 else range(7)  # evenly spread; never more than there are
    with torch.inference_mode():
        for i in chosen:
            task._evaluate(collate([split[i]]))
    assert np.array_equal(matrix, task.confusion.compute().numpy()) and matrix.sum() == len(chosen) * 40 * 48
    assert loss == pytest.approx(float(task.eval_loss.compute()), rel=1e-5)


class Trainer:
    """What the monitor asks of a trainer of one process on a CPU."""

    global_rank, world_size = 0, 1

    def __init__(self, data):
        self.datamodule = data
        self.strategy = self.precision_plugin = self

    def batch_to_device(self, batch):
        return batch

    def forward_context(self):
        return torch.autocast("cpu", enabled=False)
