"""Policies of few parameters: what moves, what does not, peft's numbers, and what merging leaves of LoRA."""

import copy
import hashlib
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.inference.export.exportable import exportable
from lightning_seg.networks.backbones.low_rank import merge, merged
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.linear import Linear
from lightning_seg.networks.unet import UNet
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.added import (
    Adapters,
    BitFit,
    DecoderNorms,
    NormsOnly,
    ProbeThenFinetune,
    VisualPrompts,
    is_bias,
)
from lightning_seg.training.finetune.lora import DoRA, LoRA
from lightning_seg.training.finetune.parts import batch_norms
from lightning_seg.training.finetune.policies import FrozenStages

IMAGES = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
BEIT = partial(
    TimmBackbone,
    "beit_base_patch16_224",
    backbone_args={"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2},
)
# Name: the policy, the backbone, and the ends of the names that move within it.
POLICIES = {
    "bitfit": (BitFit, "test_vit", ("bias",)),
    "bitfit-conv": (BitFit, "test_resnet", ("bias",)),
    "bitfit-beit": (BitFit, BEIT, (".bias", ".q_bias", ".v_bias")),
    "norms": (NormsOnly, "test_vit", ()),
    "norms-conv": (NormsOnly, "test_resnet", ()),
    "adapters": (lambda: Adapters(4), "test_vit", ("down.weight", "down.bias", "up.weight", "up.bias")),
    "prompts": (lambda: VisualPrompts(3), "test_vit", ("added_prompts",)),
    "lora-conv": (lambda: LoRA(2), "test_resnet", (".up", ".down")),
    "dora": (lambda: DoRA(2), "test_vit", (".up", ".down", ".magnitude")),
    "dora-conv": (lambda: DoRA(2), "test_resnet", (".up", ".down", ".magnitude")),
}  # fmt: skip


def make(policy=None, backbone="test_vit", weights=False):
    torch.manual_seed(0)
    made = backbone if isinstance(backbone, str) else backbone(weights=weights)
    network = Linear(3, made, **({"weights": weights} if isinstance(backbone, str) else {}))
    for norm in batch_norms(network.backbone):
        nn.init.ones_(norm.weight)  # timm begins with 0 in places, through which nothing learns
    return SemanticSegmentation(network, torch.optim.AdamW, ("a", "b", "c"), finetune=policy)


def train(task, steps=2):
    """Train some steps as the trainer would."""
    task.train()
    optimizer = task.optimizer(task.finetune.parameter_groups(task.network), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(task.network(IMAGES), IMAGES[:, 0].long() % 3).backward()
        optimizer.step()
    return task.eval()


def sha(tensors):
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in tensors.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_only_what_is_named_moves_and_the_rest_is_bit_identical(name):
    policy, backbone, ends = POLICIES[name]
    task = make(policy(), backbone)
    before = sha(task.network.state_dict())
    after = sha(train(task, 3).network.state_dict())
    moved = {key for key in before if before[key] != after[key]}
    trained = {key for key, p in task.network.named_parameters() if p.requires_grad}
    assert moved == trained
    inside = {key for key in moved if key.startswith("backbone.")}
    norms = (nn.LayerNorm, nn.BatchNorm2d)
    expected = {
        key
        for place, part in task.network.named_modules()
        for key in (f"{place}.{own}" for own, _ in part.named_parameters(recurse=False))
        if key.startswith("backbone.") and (key.endswith(ends) if ends else isinstance(part, norms))
    }
    assert inside == expected and inside and moved - inside


@pytest.mark.parametrize("name", ["adapters", "lora-conv", "dora", "dora-conv"])
def test_it_changes_nothing_at_first_and_then_something(name):
    policy, backbone, _ = POLICIES[name]
    plain, task = make(None, backbone).eval(), make(policy(), backbone).eval()
    torch.testing.assert_close(task.network(IMAGES), plain.network(IMAGES), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(train(task).network(IMAGES), plain.network(IMAGES), atol=1e-3)


@pytest.mark.parametrize("name", POLICIES)
def test_pretrained_weights_load_beside_additions_and_so_do_checkpoints(name, tmp_path):
    policy, backbone, _ = POLICIES[name]
    source = make(None, backbone).network.backbone
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    torch.save(source.state_dict(), tmp_path / "model.pth")
    task = make(policy(), backbone, str(tmp_path / "model.pth"))
    task.network.load_weights()
    if name != "prompts":  # which change the features from the start
        x = task.network.backbone.normalize(IMAGES)
        for ours, theirs in zip(task.network.backbone.eval()(x), source.eval()(x), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    again = make(policy(), backbone)
    again.load_state_dict(train(task).state_dict())
    assert torch.equal(again.eval().network(IMAGES), task.network(IMAGES))


def test_prompts_are_tokens_that_every_block_sees_and_then_drops():
    task = make(VisualPrompts(3)).eval()
    block = next(
        m
        for m in task.network.backbone.modules()
        if "added_prompts" in dict(m.named_parameters(recurse=False))
    )
    tokens = torch.rand(2, 5, block.norm1.normalized_shape[0])
    plain = copy.deepcopy(block)
    plain._forward_hooks.clear()
    plain._forward_pre_hooks.clear()
    with_prompts = torch.cat([tokens, block.added_prompts.expand(2, -1, -1)], 1)
    torch.testing.assert_close(block(tokens), plain(with_prompts)[:, :5])
    assert not torch.allclose(block(tokens), plain(tokens))


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("policy", [LoRA, DoRA])
def test_the_numbers_are_those_of_peft(kind, policy):
    """The layer after a few steps of gradient descent, where peft has started from the same matrices."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    layer = nn.Linear(6, 5) if kind == "linear" else nn.Conv2d(6, 5, 1)
    x = torch.rand(4, 6) if kind == "linear" else torch.rand(4, 6, 3, 3)
    dora = policy is DoRA
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["layer"], use_dora=dora, lora_dropout=0)
    theirs = peft.get_peft_model(nn.ModuleDict({"layer": copy.deepcopy(layer)}), config).base_model.model[
        "layer"
    ]
    from lightning_seg.networks.backbones.low_rank import add_low_rank

    add_low_rank(layer, 2, 6 / 2, dora)
    layer.requires_grad_(False)
    change = layer.parametrizations.weight[0].requires_grad_(True)
    change.down.data = theirs.lora_A["default"].weight.detach().flatten(1).clone()
    target = torch.rand_like(layer(x))
    for module in (layer, theirs):
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5)
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(module(x), target).backward()
            optimizer.step()
    torch.testing.assert_close(layer(x), theirs(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(change.up, theirs.lora_B["default"].weight.flatten(1), atol=1e-6, rtol=1e-5)
    theirs.merge()
    torch.testing.assert_close(layer.weight, theirs.base_layer.weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("policy", [LoRA, DoRA])
@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_merged_equals_unmerged(policy, backbone):
    task = train(make(policy(2), backbone))
    logits = task.network(IMAGES)
    state = merged(task.network.state_dict())
    plain = make(None, backbone).eval()
    plain.network.load_state_dict(state)  # by the names of a network without changes
    torch.testing.assert_close(plain.network(IMAGES), logits, atol=1e-6, rtol=1e-6)
    exported = exportable(task.network)
    assert not any("parametrizations" in key for key in exported.state_dict())
    torch.testing.assert_close(exported(IMAGES), logits, atol=1e-6, rtol=1e-6)
    assert any(
        "parametrizations" in key for key in task.network.state_dict()
    )  # the network itself is as it was
    assert merge(task.network) > 0 and merge(task.network) == 0
    torch.testing.assert_close(task.network(IMAGES), logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("target", [None, lambda: LoRA(3), lambda: DoRA(1)])
def test_weights_of_a_run_with_lora_are_merged(target, tmp_path):
    task = train(make(LoRA(2)))
    torch.save({"state_dict": task.state_dict()}, tmp_path / "best.ckpt")
    new = make(target and target(), weights=f"run:{tmp_path / 'best.ckpt'}")
    new.network.load_weights()
    ours, theirs = (made.network.eval()(IMAGES) for made in (new, task))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_weights_of_a_run_with_adapters_need_adapters(tmp_path):
    task = train(make(Adapters(4)))
    torch.save({"state_dict": task.state_dict()}, tmp_path / "best.ckpt")
    weights = f"run:{tmp_path / 'best.ckpt'}"
    with pytest.raises(UserError, match="does not hold the weights of this backbone"):
        make(None, weights=weights).network.load_weights()
    new = make(Adapters(4), weights=weights)
    new.network.load_weights()
    assert torch.equal(new.eval().network(IMAGES), task.network(IMAGES))


def test_the_probe_comes_first_and_then_everything():
    task = make(ProbeThenFinetune(0.5, 0.1), "test_resnet")
    policy, network = task.finetune, task.network
    assert policy.advance(network, 0, 0.0) and not any(p.requires_grad for p in network.backbone.parameters())
    assert not policy.advance(network, 0, 0.49)
    assert policy.advance(network, 0, 0.5) and all(p.requires_grad for p in network.backbone.parameters())
    parts = policy.parts(network)
    assert {part.start for part in parts if part.name.startswith("backbone")} == {0.5}


def test_biases_are_vectors_by_name():
    made = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "norm": nn.LayerNorm(4)})
    made["attention"].relative_position_bias_table = nn.Parameter(torch.zeros(3, 2))
    made["attention"].position_bias = nn.Parameter(torch.zeros(3, 2))
    assert [name for name, p in made.named_parameters() if is_bias(name, p)] == [
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "norm.bias",
    ]


def test_the_first_blocks_of_a_plain_transformer_are_its_first_stages():
    task = make(FrozenStages(3))  # the embeddings and two blocks
    still = {name for name, p in task.network.backbone.named_parameters() if not p.requires_grad}
    assert still and all("blocks.2" not in name for name in still)
    assert any("blocks.1" in name for name in still) and any("pos_embed" in name for name in still)


@pytest.mark.parametrize(
    ("policy", "backbone", "says"),
    [
        (
            lambda: Adapters(4),
            "test_resnet",
            "needs transformer blocks, and the backbone test_resnet has none",
        ),
        (lambda: VisualPrompts(2), "test_resnet", "needs transformer blocks"),
        (lambda: Adapters(0), "test_vit", "width of 1 or more"),
        (lambda: VisualPrompts(0), "test_vit", "1 or more prompts"),
        (lambda: NormsOnly(batch_norm="frozen"), "test_vit", "must be eval or train"),
        (lambda: LoRA(layers="nothing"), "test_vit", "named 'nothing'"),
        (
            lambda: LoRA(alpha=0),
            "test_vit",
            "LoRA needs an alpha above 0, such as 16, or nothing changes; got 0",
        ),
        (lambda: LoRA(rank=10000), "test_vit", r"LoRA\(rank=10000\): the layers .* ranks up to 64"),
        (lambda: DoRA(rank=257, layers="fc1"), "test_vit", r"DoRA\(rank=257\).*such as 8"),
        (
            lambda: ProbeThenFinetune(1.5),
            "test_vit",
            "ProbeThenFinetune needs its probe as a fraction .* got 1.5",
        ),
        (lambda: ProbeThenFinetune(-1), "test_vit", "ProbeThenFinetune needs its probe .* got -1"),
    ],
)
def test_what_a_policy_cannot_do_is_refused(policy, backbone, says):
    with pytest.raises(UserError, match=says):
        make(policy(), backbone)


@pytest.mark.parametrize("mode", ["eval", "frozen", "train"])
def test_the_decoders_batch_norm_stands_still_beside_any_policy(mode):
    torch.manual_seed(0)
    network = UNet(3, "test_resnet", weights=False, decoder_channels=(16, 8, 8, 8, 8))
    policy = DecoderNorms(FrozenStages(3, 0.5), mode)
    task = SemanticSegmentation(network, torch.optim.AdamW, ("a", "b", "c"), finetune=policy)
    before = sha(network.state_dict())
    train(task)
    moved = {key for key, value in sha(network.state_dict()).items() if value != before[key]}
    norms = {
        f"decoder.{name}" for name, m in network.decoder.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    statistics = {f"{name}.running_mean" for name in norms}
    affine = {f"{name}.weight" for name in norms}
    assert norms and moved >= statistics if mode == "train" else not moved & statistics
    assert not moved & affine if mode == "frozen" else moved >= affine
    rates = {g["lr_factor"] for g in policy.parameter_groups(network)}
    assert rates == {0.5, 1.0} and policy.frozen_stages(5) == 3
    assert {p.batch_norm for p in policy.parts(network) if p.name == "decoder"} == {mode}
    with pytest.raises(UserError, match="DecoderNorms is about BatchNorm, and Linear has none"):
        make(DecoderNorms())
