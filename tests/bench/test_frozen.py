"""What the benchmark of freezing compares."""

import pytest
import torch

from lightning_seg.bench.frozen import ALL, bytes_of_training, steps, table, under_policies
from lightning_seg.bench.network_profile import Conditions
from lightning_seg.networks.unet import UNet
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.policies import FrozenStages

CONDITIONS = Conditions(size=(64, 64), batch_size=2)


@pytest.fixture(scope="module")
def tasks():
    """The experiment's own policy, which freezes something, plays no part."""
    network = UNet(3, "test_resnet", weights=False, decoder_channels=(16, 8, 8, 8, 8))
    model = SemanticSegmentation(network, torch.optim.AdamW, ("a", "b", "c"), finetune=FrozenStages(3))
    return under_policies(model, torch.device("cpu"))


def test_less_and_less_trains(tasks):
    counts = [sum(p.numel() for p in task.parameters() if p.requires_grad) for task in tasks.values()]
    assert len(counts) == 8 and counts[0] == sum(p.numel() for p in tasks[ALL].parameters())
    assert (
        counts[:6] == sorted(counts[:6], reverse=True)
        and len(set(counts[:6])) == 6
        and counts[5] == counts[6] == counts[7]
    )


def test_memory_falls_with_what_is_frozen(tasks):
    sizes = [bytes_of_training(task, CONDITIONS) for task in tasks.values()]
    assert sizes[:6] == sorted(sizes[:6], reverse=True) and len(set(sizes[:6])) == 6
    weights = 4 * sum(p.numel() for p in tasks[ALL].parameters())
    assert sizes[0] > 4 * weights  # weights, gradients, two moments, and what backward needs


def test_a_step_trains_and_the_table_has_the_ratios(tasks):
    before = tasks[ALL].network.head[0].weight.clone()
    assert steps(tasks[ALL], CONDITIONS, 1)() > 0
    assert not torch.equal(before, tasks[ALL].network.head[0].weight)
    text = table({ALL: [0.2, 0.4], "less": [0.1, 0.1]}, {ALL: 2e6, "less": 5e5}, 1)
    assert "0.25x" in text and "0.33x" in text  # memory; the median speed of pairs is (2 + 4) / 2
