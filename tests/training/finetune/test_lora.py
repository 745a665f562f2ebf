"""Low-rank adapters: what trains, what does not, and the change they make."""

import pytest
import timm
import torch
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.linear import Linear
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.lora import LoRA


def make(policy=None, weights=False, backbone="test_vit"):
    torch.manual_seed(0)
    network = Linear(3, backbone, weights=weights)
    return SemanticSegmentation(network, torch.optim.AdamW, ("a", "b", "c"), finetune=policy)


def step(task):
    """Train one step; return the logits before."""
    task.train()
    optimizer = task.optimizer(task.finetune.parameter_groups(task.network), lr=1e-2)
    images = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    logits = task.network(images)
    F.cross_entropy(logits, images[:, 0].long() % 3).backward()
    optimizer.step()
    return logits.detach()


def test_nothing_moves_but_adapters_and_head():
    task = make(LoRA(rank=2))
    plain = make()
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    first = step(task)
    torch.testing.assert_close(first, step(plain), atol=1e-5, rtol=1e-4)  # an adapter begins with no effect
    step(task)  # `down` moves once `up` is not 0
    moved = {n for n, v in task.network.state_dict().items() if not torch.equal(v, before[n])}
    trained = {n for n, _ in task.network.named_parameters() if n.endswith((".up", ".down")) or "head" in n}
    assert moved == trained == {n for n, p in task.network.named_parameters() if p.requires_grad}
    linear = [m for m in plain.network.backbone.modules() if isinstance(m, torch.nn.Linear)]
    assert len(trained) == 2 * len(linear) + 2


def test_weight_is_changed_by_the_formula():
    task = make(LoRA(rank=2, alpha=6, layers="qkv"))
    layer = next(m for n, m in task.network.backbone.named_modules() if n.endswith("qkv"))
    change = layer.parametrizations.weight[0]
    torch.nn.init.normal_(change.up)
    expected = layer.parametrizations.weight.original + 3 * change.up @ change.down
    torch.testing.assert_close(layer.weight, expected)
    untouched = [m for n, m in task.network.backbone.named_modules() if n.endswith("fc1")]
    assert untouched and not any(hasattr(m, "parametrizations") for m in untouched)


def test_pretrained_weights_and_checkpoints_load(tmp_path):
    torch.manual_seed(1)
    classifier = timm.create_model("test_vit", pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "model.pth")
    task = make(LoRA(rank=2), str(tmp_path / "model.pth"))
    plain = make(None, str(tmp_path / "model.pth"))
    adapters = {n: v.clone() for n, v in task.network.state_dict().items() if n.endswith((".up", ".down"))}
    task.network.load_weights()
    plain.network.load_weights()
    state = {
        n.replace("parametrizations.weight.original", "weight"): v
        for n, v in task.network.state_dict().items()
    }
    assert all(torch.equal(v, state[n]) for n, v in plain.network.state_dict().items())
    assert all(torch.equal(v, state[n]) for n, v in adapters.items())
    again = make(LoRA(rank=2))
    again.load_state_dict(task.state_dict())
    assert all(map(torch.equal, again.state_dict().values(), task.state_dict().values()))


def test_parts_say_that_a_small_share_trains():
    task = make(LoRA(rank=1, backbone_lr_mult=0.5))
    parts = task.finetune.parts(task.network)
    inside = [part for part in parts if part.name.startswith("backbone") and part.trainable]
    assert inside and all(part.trainable < 0.1 * part.parameters and part.lr_factor == 0.5 for part in inside)


def test_backbones_without_linear_layers_are_refused():
    with pytest.raises(UserError, match="named 'attn', and the backbone test_resnet has none"):
        make(LoRA(layers="attn"), backbone="test_resnet")
    with pytest.raises(UserError, match="rank of 1"):
        LoRA(rank=0)
