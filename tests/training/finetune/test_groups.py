"""The optimizer's groups: the published rules, parameter by parameter."""

from functools import partial

import pytest
import torch

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.linear import Linear
from lightning_seg.networks.unet import UNet
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.groups import describe_groups, group_table
from lightning_seg.training.finetune.policies import Frozen, Full, LayerwiseDecay
from lightning_seg.training.schedules import HeadFirst

TINY = {"embed_dim": 48, "depth": 4, "num_heads": 3}
BLOCKS, RATE, DECAY = 4, 2.0, 0.05


def task_of(backbone, policy, **settings):
    network = UNet(3, backbone, decoder_channels=(8, 8, 8, 8, 8)) if settings.pop("unet", False) else None
    network = network or Linear(3, backbone, batch_norm=True)
    return SemanticSegmentation(
        network,
        lambda groups: torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY),
        ("a", "b", "c"),
        finetune=policy,
        **settings,
    )


def optimizer_of(task):
    import lightning as L

    task.trainer = L.Trainer(accelerator="cpu", logger=False, max_steps=100)
    return task.configure_optimizers()["optimizer"]


def found(task):
    """Return the learning rate and the weight decay of every parameter that trains, by its name."""
    groups = optimizer_of(task).param_groups
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    named = {name: of[id(p)] for name, p in task.network.named_parameters() if id(p) in of}
    assert len(named) == sum(len(group["params"]) for group in groups)
    return named


def inner(name):
    """The name of a parameter within timm's model; None outside of the backbone."""
    return name.removeprefix("backbone.net.model.") if name.startswith("backbone.") else None


def beit(name, shape):
    """BEiT's layer-wise decay for segmentation: 0 is the embeddings, 1 to n the blocks, n + 1 all the rest.

    Register tokens, which it does not have, are taken as its class token.
    """
    own, layer = inner(name), BLOCKS + 1
    if own in ("cls_token", "reg_token", "pos_embed") or (own or "").startswith("patch_embed"):
        layer = 0
    elif own and own.startswith("blocks."):
        layer = int(own.split(".")[1]) + 1
    free = len(shape) == 1 or name.endswith(".bias")
    return RATE * 0.65 ** (BLOCKS + 1 - layer), 0.0 if free else DECAY


def dinov3(name, shape):
    """DINOv3's: embeddings and tokens, blocks, rest; no decay on biases, norms and LayerScale."""
    own, power = inner(name), 0
    if own and any(part in own for part in ("pos_embed", "patch_embed", "cls_token", "reg_token")):
        power = BLOCKS + 1
    elif own and own.startswith("blocks."):
        power = BLOCKS - int(own.split(".")[1])
    free = own and (own.endswith("bias") or "norm" in own or "gamma" in own)
    return RATE * 0.65**power, 0.0 if free else DECAY


def eomt(name, shape):
    """EoMT's: the last block at the full rate, embeddings as the first block, the final norm as the head."""
    own = inner(name)
    if own is None or own.startswith("norm."):
        return RATE, DECAY
    block = int(own.split(".")[1]) if own.startswith("blocks.") else 0
    return RATE * 0.65 ** (BLOCKS - 1 - block), DECAY


RULES = {
    "beit": (beit, LayerwiseDecay(0.65), ["norms", "biases", "scales"]),
    "dinov3": (dinov3, LayerwiseDecay(0.65), ["norms", "biases", "scales"]),
    "eomt": (eomt, LayerwiseDecay(0.65, from_last_block=True), []),
}
MODELS = {
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, True),
    "dinov3": ("vit_small_patch16_dinov3", {}, True),
    "beit": ("beit_base_patch16_224", {"img_size": 64}, None),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_has_the_published_rate_and_decay(rule, model):
    name, args, norm = MODELS[model]
    expected, policy, no_decay = RULES[rule]
    backbone = TimmBackbone(name, False, backbone_args=TINY | args, out_indices=1, norm=norm)
    task = task_of(backbone, policy, no_decay=no_decay)
    if rule == "dinov3":  # whose rule is for the backbone alone
        task.network.head.bias = task.network.decoder = None
    shapes = {n: p.shape for n, p in task.network.named_parameters()}
    rates = found(task)
    assert rates.keys() == shapes.keys()
    for parameter, pair in rates.items():
        assert pair == pytest.approx(expected(parameter, shapes[parameter])), parameter


def test_twelve_blocks_at_08_give_the_first_the_rate_of_the_paper():
    task = task_of(TimmBackbone("deit_tiny_patch16_224", False, out_indices=1), LayerwiseDecay(0.8))
    rates = {n: rate / RATE for n, (rate, _) in found(task).items()}
    assert rates["backbone.net.model.blocks.0.attn.qkv.weight"] == pytest.approx(0.8**12)
    assert rates["backbone.net.model.blocks.11.attn.qkv.weight"] == pytest.approx(0.8)
    assert rates["backbone.net.model.pos_embed"] == pytest.approx(0.8**13)


def test_each_kind_is_spared_alone():
    def spared(*kinds):
        task = task_of(TimmBackbone("vit_small_patch14_reg4_dinov2", False, backbone_args=TINY | {"img_size": 56}),
                       Full(), no_decay=kinds)  # fmt: skip
        return {
            n.split(".")[-2] + "." + n.split(".")[-1] for n, (_, decay) in found(task).items() if decay == 0
        }

    assert spared() == set()
    assert spared("tokens") == {"model.cls_token", "model.reg_token"}
    assert spared("positions") == {"model.pos_embed"}
    assert spared("scales") == {"ls1.gamma", "ls2.gamma"}
    assert spared("norms") == {
        f"{n}.{w}" for n in ("norm1", "norm2", "norm", "0") for w in ("weight", "bias")
    }
    assert "fc1.bias" in spared("biases") and "fc1.weight" not in spared("biases")


def test_a_frozen_backbone_trains_its_pyramid_and_the_table_says_all():
    task = task_of(TimmBackbone("test_vit", False, backbone_args={"depth": 4}), Frozen(), unet=True)
    assert {name.split(".")[0] for name in found(task)} == {"neck", "decoder", "head"}
    backbone = TimmBackbone("test_vit", False, backbone_args={"depth": 4})
    task = task_of(backbone, LayerwiseDecay(0.5), unet=True, no_decay=["norms", "biases"])
    optimizer = optimizer_of(task)
    groups = describe_groups(optimizer, task.network)
    assert sum(group.parameters for group in groups) == sum(p.numel() for p in task.network.parameters())
    assert [group.parts for group in groups][:2] == [["backbone.embeddings"]] * 2
    assert groups[-1].parts == ["neck", "decoder", "head"]
    lines = group_table(groups).splitlines()
    assert lines[0].split() == "optimizer's groups parameters learning rate weight decay".split()
    assert len(lines) == 1 + 2 * 6
    assert lines[-1].split()[-2:] == ["2", "0"]


def test_blocks_are_counted_from_the_last_only_where_there_are_any():
    with pytest.raises(UserError, match="from_last_block"):
        task_of("test_resnet", LayerwiseDecay(from_last_block=True))


def test_head_first_is_the_schedule_of_eomt():
    """Rates of both kinds of groups at every step, by the published formula."""
    first, second, steps, power = 5, 10, 50, 0.9
    task = task_of(TimmBackbone("test_vit", False, out_indices=1), LayerwiseDecay(0.5))
    optimizer = optimizer_of(task)
    base = [(group["lr"], group["backbone"]) for group in optimizer.param_groups]
    assert {inside for _, inside in base} == {True, False}
    schedule = HeadFirst(optimizer, steps, power, first / steps, second / steps)
    for step in range(steps):
        for group, (rate, inside) in zip(optimizer.param_groups, base, strict=True):
            begin, rising = (first, second) if inside else (0, first)
            if step < begin + rising:
                expected = rate * max(0, step - begin) / rising
            else:
                expected = rate * (1 - (step - begin - rising) / (steps - begin - rising)) ** power
            assert group["lr"] == pytest.approx(expected)
        optimizer.step()
        schedule.step()
    with pytest.raises(UserError, match="shares of the training"):
        HeadFirst(optimizer, steps, head_warmup=0.6, backbone_warmup=0.4)


@pytest.mark.parametrize(
    ("optimizer", "given", "fused"),
    [
        (torch.optim.AdamW, {}, True),
        (torch.optim.Adam, {}, True),
        (torch.optim.AdamW, {"foreach": True}, None),
        (torch.optim.AdamW, {"fused": False}, False),
        (torch.optim.SGD, {}, None),
    ],
)
def test_every_group_of_adam_is_updated_in_one_pass_unless_the_settings_say_otherwise(
    optimizer, given, fused
):
    """The optimizer reads each group's own setting: one made before must not have left it there."""
    network = UNet(3, "test_resnet", decoder_channels=(8, 8, 8, 8, 8))
    task = SemanticSegmentation(
        network, partial(optimizer, lr=RATE, **given), ("a", "b", "c"), finetune=Full()
    )
    groups = optimizer_of(task).param_groups
    assert [group["fused"] for group in groups] == [fused] * len(groups) and len(groups) == 2
