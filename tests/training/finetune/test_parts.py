"""The table of what trains, and what is said of parts that never do."""

import torch

from lightning_seg import Frozen, FrozenStages, Full, GradualUnfreeze, UNet
from lightning_seg.training.finetune.parts import Part, never_reached, random_forever, waiting_again


def part(name, start):
    return Part(name, parameters=1, trainable=1, lr_factor=1.0, batch_norm=None, start=start)


def test_stages_that_are_reached_after_the_last_epoch_are_named():
    parts = [part("a", 40), part("b", 2), part("c", 0), part("d", 0.9)]
    assert never_reached(parts, 2) == "a, b would train from epoch 2 on, but the last is 1: the first is 0"
    assert never_reached(parts, 3) == "a would train from epoch 40 on, but the last is 2: the first is 0"
    assert never_reached(parts, 41) == never_reached(parts, -1) == never_reached(parts[2:], 1) == ""


def test_stages_that_trained_before_the_checkpoint_and_wait_again_are_named():
    stages = [(name, torch.nn.Linear(1, 1)) for name in "abc"]
    optimizer = torch.optim.AdamW([p for _, stage in stages for p in stage.parameters()])
    stages[0][1].requires_grad_(False)
    for _, stage in stages:
        if stage.weight.requires_grad:
            stage(torch.ones(1)).sum().backward()
    optimizer.step()
    assert waiting_again(stages, optimizer) == []  # the first has never trained
    stages[1][1].requires_grad_(False)
    assert waiting_again(stages, optimizer) == ["b"]


def test_a_backbone_that_begins_at_random_and_never_trains_is_told():
    network = UNet(2, "test_resnet", weights=False)
    for policy, told in (
        (Frozen(), "backbone.stage0 to backbone.stage4 begin"),
        (FrozenStages(1), "stage0 begins"),
    ):
        policy.apply(network)
        assert told in random_forever(policy.parts(network), network.load_weights())
        assert not random_forever(policy.parts(network), "backbone 12 of 12 tensors of weights.pth")
        network.requires_grad_(True)
    for policy in (Full(), GradualUnfreeze([0.1, 0.2, 0.3, 0.4, 0.5])):
        policy.apply(network)
        policy.advance(network, 0, 0.0)
        assert not random_forever(policy.parts(network), "random")
