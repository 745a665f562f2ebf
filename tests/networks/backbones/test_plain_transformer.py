"""Plain vision transformers: their maps are those of timm and of transformers, their settings are timm's."""

import os
from pathlib import Path

import pytest
import timm
import torch

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.linear import Linear

TINY = {"embed_dim": 48, "depth": 4, "num_heads": 3}
WEIGHTS = os.environ.get("LIGHTNING_SEG_TEST_WEIGHTS", "")


def randomized(module):
    """Give every parameter, those that begin with one value included, values of their own."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.mean() + 0.1 * torch.randn_like(parameter))
    return module.eval()


def dinov2_of_transformers(config, state):
    """Return transformers' Dinov2 with timm's weights."""
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    theirs = {"embeddings.mask_token": torch.zeros(1, config["hidden_size"])}
    for key, value in state.items():
        if key.startswith("blocks"):
            _, i, rest = key.split(".", 2)
            rest = rest.replace("attn.proj", "attention.o_proj").replace("ls1.gamma", "layer_scale1.lambda1")
            rest = rest.replace("ls2.gamma", "layer_scale2.lambda1")
            if "qkv" in rest:
                for q, part in zip("qkv", value.chunk(3), strict=True):
                    theirs[f"encoder.layer.{i}.attention.{q}_proj.{rest.split('.')[-1]}"] = part
            else:
                theirs[f"encoder.layer.{i}.{rest}"] = value
        else:
            name = next(name for name in names if key.startswith(name))
            theirs[names[name] + key.removeprefix(name)] = value
    model = transformers.Dinov2Model(transformers.Dinov2Config(patch_size=14, **config)).eval()
    model.load_state_dict(theirs)
    return model


def map_of_dinov2(model, hidden, x, norm):
    tokens = (model.layernorm(hidden) if norm else hidden)[:, 1:]
    return tokens.transpose(1, 2).unflatten(2, (x.shape[-2] // 14, x.shape[-1] // 14))


@torch.no_grad()
@pytest.mark.parametrize("norm", [True, False])
def test_dinov2_gives_the_maps_of_transformers(norm):
    backbone = TimmBackbone(
        "vit_small_patch14_dinov2",
        False,
        backbone_args={**TINY, "img_size": 56},
        out_indices=[1, 3],
        norm=norm,
    )
    randomized(backbone)
    config = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 56}
    state = {key.removeprefix("net.model."): value for key, value in backbone.state_dict().items()}
    state |= {} if norm else {"norm.weight": torch.ones(48), "norm.bias": torch.zeros(48)}
    model = dinov2_of_transformers(config, state)
    x = torch.randn(2, 3, 56, 56)
    hidden = model(x, output_hidden_states=True).hidden_states
    for block, found in zip([1, 3], backbone(x), strict=True):
        expected = map_of_dinov2(model, hidden[block + 1], x, norm)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", [True, False])
def test_dinov3_gives_the_maps_of_transformers_at_any_size_without_its_registers(norm):
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    backbone = TimmBackbone(
        "vit_small_patch16_dinov3", False, backbone_args=TINY, out_indices=[1, 3], norm=norm
    )
    randomized(backbone)
    config = transformers.DINOv3ViTConfig(
        hidden_size=48, intermediate_size=192, num_hidden_layers=4, num_attention_heads=3, patch_size=16,
        num_register_tokens=4, query_bias=False, value_bias=False, key_bias=False,
    )  # fmt: skip
    model = transformers.DINOv3ViTModel(config).eval()
    names = {
        "cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens",
        "patch_embed.proj": "embeddings.patch_embeddings", "norm.": "norm.", "attn.proj": "attention.o_proj",
        "gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1",
        "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj", "blocks.": "model.layer.",
    }  # fmt: skip
    theirs = {"embeddings.mask_token": torch.zeros(1, 1, 48)}
    if not norm:
        theirs |= {"norm.weight": torch.ones(48), "norm.bias": torch.zeros(48)}
    for key, value in backbone.state_dict().items():
        key = key.removeprefix("net.model.")
        for ours, name in names.items():
            key = key.replace(ours, name) if ours != "norm." or key.startswith("norm.") else key
        if "qkv" in key:
            for q, part in zip("qkv", value.chunk(3), strict=True):
                theirs[key.replace("attn.qkv", f"attention.{q}_proj")] = part
        else:
            theirs[key] = value
    model.load_state_dict(theirs)
    x = torch.randn(2, 3, 64, 96)
    hidden = model(x, output_hidden_states=True).hidden_states
    for block, found in zip([1, 3], backbone(x), strict=True):
        tokens = (model.norm(hidden[block + 1]) if norm else hidden[block + 1])[:, 5:]
        torch.testing.assert_close(found, tokens.transpose(1, 2).unflatten(2, (4, 6)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
@pytest.mark.parametrize("norm", [True, False])
def test_maps_are_those_of_timm(name, norm):
    model = randomized(timm.create_model(name, dynamic_img_size=True))
    backbone = TimmBackbone(name, False, out_indices=2, norm=norm).eval()
    backbone.set_weights(model.state_dict())
    x = torch.randn(1, 3, 64, 96)
    expected = model.forward_intermediates(x, indices=2, norm=norm, intermediates_only=True)
    for a, b in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.skipif(not WEIGHTS, reason="LIGHTNING_SEG_TEST_WEIGHTS names no folder with dinov2_small.pth")
@pytest.mark.parametrize("norm", [True, False])
def test_the_real_dinov2_gives_the_maps_of_timm_and_of_transformers(norm):
    file = Path(WEIGHTS, "dinov2_small.pth")
    backbone = TimmBackbone("vit_small_patch14_dinov2", str(file), norm=norm).eval()
    said = backbone.load_weights()
    assert f"{174 if norm else 172} tensors" in said and "resampled" not in said
    state = torch.load(file)
    theirs = timm.create_model("vit_small_patch14_dinov2").eval()
    theirs.load_state_dict(state)
    config = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518}
    model = dinov2_of_transformers(config, state)
    x = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    blocks = [2, 5, 8, 11]
    of_timm = theirs.forward_intermediates(x, indices=blocks, norm=norm, intermediates_only=True)
    hidden = model(x, output_hidden_states=True).hidden_states
    for block, found, same in zip(blocks, backbone(x), of_timm, strict=True):
        assert torch.equal(found, same)
        expected = map_of_dinov2(model, hidden[block + 1], x, norm)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


# Name, arguments, then the words that say what is taken, and the only size of images, if any.
FAMILIES = {
    "vit_small_patch16_224": ("without its final norm", None),
    "vit_small_patch14_reg4_dinov2": ("with its final norm", None),
    "vit_small_patch16_dinov3": ("with its final norm", None),
    "deit3_small_patch16_224": ("without its final norm", None),
    "deit_tiny_distilled_patch16_224": ("without its final norm", None),
    "vit_base_patch16_siglip_224": ("without its final norm", None),
    "vit_base_patch16_clip_224": ("without its final norm", None),
    "naflexvit_base_patch16_siglip": ("without its final norm", None),
    "eva02_tiny_patch14_224": ("which has no final norm", None),
    "samvit_base_patch16": ("without its final neck", None),
    "beit_base_patch16_224": ("which has no final norm", (224, 224)),
    "hiera_tiny_224": ("strides [4, 8, 16, 32]", (224, 224)),
    "test_maxvit": ("strides [2, 4, 8, 16, 32]", (160, 160)),
    "mobilenetv4_conv_small": ("strides [2, 4, 8, 16, 32]", None),
    "efficientvit_b0": ("strides [4, 8, 16, 32]", None),
}


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_families_work_at_the_sizes_that_they_promise(name):
    words, size = FAMILIES[name]
    args = {} if "strides" in words or name.startswith("naflex") else {"depth": 4}  # for speed
    with torch.device("meta"):  # shapes only
        backbone = TimmBackbone(name, weights=False, backbone_args=args)
        assert backbone.image_size == size
        assert words in backbone.describe()
        stride = backbone.strides[-1]
        height, width = size or (3 * stride, 4 * stride)
        maps = backbone(torch.empty(1, 3, height, width))
    expected = [
        (1, c, height // s, width // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected
    staged = [id(p) for _, stage in backbone.stages() for p in stage.parameters()]
    assert sorted(staged) == sorted(id(p) for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("test_vit", {"backbone_args": {"colour": 1}}, "unexpected keyword argument 'colour'"),
        ("test_vit", {"backbone_args": {"embed_dim": 50, "num_heads": 3}}, "divisible by num_heads"),
        ("test_resnet", {"backbone_args": {"img_size": 64}}, "unexpected keyword argument 'img_size'"),
        ("test_vit", {"backbone_args": {"in_chans": 4}}, "in_channels"),
        ("test_vit", {"backbone_args": {"checkpoint_path": "x"}}, "weights: FILE"),
        ("test_vit", {"out_indices": 7}, "1 to 6"),
        ("test_vit", {"out_indices": [0, 6]}, "from 0 to 5"),
        ("test_resnet", {"out_indices": [3, 2]}, "rising list"),
        ("test_resnet", {"norm": True}, "leave it out"),
        ("beit_base_patch16_224", {"norm": True}, "follows the pooling"),
        ("efficientvit_m0", {}, r"strides are \[16, 32, 64\]"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(name, settings, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        TimmBackbone(name, weights=False, **settings)


def test_settings_reach_timm():
    backbone = TimmBackbone(
        "test_vit", False, backbone_args={"drop_path_rate": 0.5, "depth": 3}, out_indices=1
    )
    assert backbone.net.model.blocks[-1].drop_path1.drop_prob == 0.5
    assert backbone.describe() == (
        "test_vit, block 2 of 0 to 2, with its final norm, patches of 16; drop_path_rate 0.5, depth 3"
    )
    assert TimmBackbone("test_resnet", False, out_indices=2).strides == [16, 32]


def test_a_model_for_one_size_fills_up_smaller_images_and_says_what_it_takes():
    args = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
    network = Linear(
        3, TimmBackbone("beit_base_patch16_224", False, backbone_args=args, out_indices=1)
    ).eval()
    assert network(torch.zeros(1, 3, 20, 32, dtype=torch.uint8)).shape == (1, 3, 20, 32)
    with pytest.raises(UserError, match=r"images of 32x32 pixels only.*crop_size=\[32, 32\].*img_size"):
        network(torch.zeros(1, 3, 40, 32, dtype=torch.uint8))


@torch.no_grad()
def test_embeddings_are_resampled_by_the_rule_of_flexivit():
    """A smooth image of twice the size, cut into twice as large patches, has nearly the same tokens."""
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    state = TimmBackbone("test_vit", False).state_dict()
    large = TimmBackbone("test_vit", False, backbone_args={"patch_size": 32, "img_size": 320})
    said = large.set_weights(state)
    assert "patch_embed.proj.weight resampled from (64, 3, 16, 16) to (64, 3, 32, 32)" in said
    key = "net.model.patch_embed.proj.weight"
    assert torch.equal(large.state_dict()[key], resample_patch_embed(state[key], (32, 32)))
    wide = TimmBackbone("test_vit", False, backbone_args={"img_size": [160, 320]})
    assert "pos_embed resampled from (1, 101, 64) to (1, 201, 64)" in wide.set_weights(state)
    key = "net.model.pos_embed"
    assert torch.equal(
        wide.state_dict()[key], resample_abs_pos_embed(state[key], (10, 20), num_prefix_tokens=1)
    )
    with pytest.raises(UserError, match="not those of test_vit"):  # patches of another size are another model
        TimmBackbone("test_vit", False).set_weights(large.state_dict())


@pytest.mark.parametrize(("settings", "layers"), [
    ({}, []), ({"batch_norm": True, "dropout": 0.1}, ["Dropout2d", "BatchNorm2d"]),
    ({"hidden": [8, 6]}, ["Conv2d", "ReLU"] * 2),
])  # fmt: skip
def test_linear_heads_take_the_last_blocks(settings, layers):
    network = Linear(5, "test_vit", False, maps=2, **settings)
    assert "blocks 4, 5 of 0 to 5" in network.backbone.describe()
    assert [type(layer).__name__ for layer in network.decoder] == layers
    assert network(torch.zeros(2, 3, 40, 50, dtype=torch.uint8)).shape == (2, 5, 40, 50)
    with pytest.raises(UserError, match="maps must be 1 to 4"):
        Linear(5, TimmBackbone("test_vit", False), maps=5)
