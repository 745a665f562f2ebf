"""Fine-tuning policies: what is frozen does not move, statistics included, whatever is called."""

import pytest
import torch

from lightning_seg.errors import UserError
from lightning_seg.finetune import Frozen, FrozenStages, Full, batch_norms
from lightning_seg.networks.unet import UNet
from lightning_seg.tasks.semantic import SemanticSegmentation

POLICIES = [
    Full(),
    Full(backbone_lr=0.1, batch_norm="eval"),
    Full(batch_norm="frozen"),
    Frozen(),
    FrozenStages(2),
]


def make(policy):
    torch.manual_seed(0)
    network = UNet(3, "test_resnet", weights=False, decoder_channels=(32, 16, 16, 8, 8))
    for norm in batch_norms(network.backbone):
        torch.nn.init.ones_(
            norm.weight
        )  # timm begins with 0 in places, through which nothing learns if frozen
    return SemanticSegmentation(
        network, lambda groups: torch.optim.SGD(groups, lr=1e-4), ("a", "b", "c"), finetune=policy
    )


def train_a_little(task):
    task.train()
    task.eval()
    task.train()  # what Lightning does around each validation
    optimizer = task.optimizer(task.finetune.parameter_groups(task.network))
    for _ in range(2):
        optimizer.zero_grad()
        task.network(torch.randint(255, (2, 3, 64, 64), dtype=torch.uint8)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{type(p).__name__}-{p.batch_norm}")
def test_frozen_parts_are_bit_identical_and_the_others_move(policy):
    task = make(policy)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    train_a_little(task)
    moved = {
        name for name, value in task.network.state_dict().items() if not torch.equal(value, before[name])
    }
    stages = task.network.backbone.stages()
    frozen = policy.frozen_stages(len(stages))
    held = {id(t) for _, s in stages[:frozen] for t in (*s.parameters(), *s.buffers())}
    if policy.batch_norm != "train":
        held |= {id(t) for norm in batch_norms(task.network.backbone) for t in norm.buffers()}
    if policy.batch_norm == "frozen":
        held |= {id(t) for norm in batch_norms(task.network.backbone) for t in norm.parameters()}
    tensors = {**dict(task.network.named_parameters()), **dict(task.network.named_buffers())}
    still = {name for name in before if id(tensors[name]) in held}
    assert not moved & still
    assert moved == set(before) - still  # everything else, decoder and head included


def test_only_trainable_parameters_reach_the_optimizer():
    for policy in POLICIES:
        task = make(policy)
        given = {id(p) for group in policy.parameter_groups(task.network) for p in group["params"]}
        assert given == {id(p) for p in task.network.parameters() if p.requires_grad}


def test_backbone_has_its_own_learning_rate():
    task = make(Full(backbone_lr=0.1))
    optimizer = task.configure_optimizers()["optimizer"]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in task.network.backbone.parameters()} == {1e-4 * 0.1}
    assert {rates[id(p)] for p in task.network.head.parameters()} == {1e-4}


def test_frozen_backbone_builds_no_graph():
    task = make(Frozen()).train()
    features = task.network.backbone(torch.rand(1, 3, 64, 64))
    assert not any(f.requires_grad for f in features)


@pytest.mark.parametrize("make_policy", [lambda: Full(backbone_lr=0), lambda: make(FrozenStages(99))])
def test_what_makes_no_sense_is_refused(make_policy):
    with pytest.raises(UserError):
        make_policy()
