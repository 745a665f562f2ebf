"""The same numbers on one process and on two that saw unevenly many images, or none."""

import os

import pytest
import torch
import torch.distributed as dist

from lightning_seg.metrics.boundary import BoundaryF1, SurfaceDistances
from lightning_seg.metrics.confusion import ConfusionMatrix, ImageCounts
from lightning_seg.metrics.images import ImageTable
from tests.processes import run_ranks


def data():
    """Predictions and targets (5, 8, 9)."""
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(4, (5, 8, 9), generator=generator).byte()
    targets = torch.randint(4, (5, 8, 9), generator=generator).byte()
    targets[:, :2] = 255
    return predictions, targets


def count_in_processes(folder):
    """Count as one of two processes: every second image, then all or none."""
    predictions, targets = data()
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    for mine in ([range(0, 5, 2), range(1, 5, 2)], [range(5), range(0)]):
        confusion, images = ConfusionMatrix(4), ImageCounts(5, 4)
        tables = [ImageTable(metric, 5, 4) for metric in (BoundaryF1(), SurfaceDistances("skip"))]
        for i in mine[rank]:
            confusion.update(predictions[i : i + 1], targets[i : i + 1])
            for each in (images, *tables):
                each.update(predictions[i : i + 1], targets[i : i + 1], torch.tensor([i]))
        found = [each.compute() for each in (confusion, images, *tables)]
        torch.save(found, f"{folder}/{len(mine[1])}-{rank}.pt")
    dist.destroy_process_group()


def test_one_and_two_processes_give_the_same_numbers(tmp_path):
    run_ranks(2, count_in_processes, tmp_path)

    predictions, targets = data()
    confusion, images = ConfusionMatrix(4), ImageCounts(5, 4)
    tables = [ImageTable(metric, 5, 4) for metric in (BoundaryF1(), SurfaceDistances("skip"))]
    confusion.update(predictions, targets)
    for each in (images, *tables):
        each.update(predictions, targets, torch.arange(5))
    assert confusion.compute().sum() == 5 * 6 * 9
    assert all(each.compute().nansum((1, 2)).all() for each in tables)  # no row is empty
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for file in files:
        found = torch.load(file, weights_only=True)
        for each, value in zip((confusion, images, *tables), found, strict=True):
            assert torch.equal(value.nan_to_num(), each.compute().nan_to_num()), (file.name, each)


@pytest.mark.gpu
def test_counts_on_a_device_equal_those_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    predictions, targets = data()
    results = []
    for device in ("cpu", "cuda"):
        metric = ConfusionMatrix(4).to(device)
        metric.update(predictions.to(device), targets.to(device))
        results.append(metric.compute().cpu())
    assert torch.equal(*results)
