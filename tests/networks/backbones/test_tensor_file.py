"""Files of weights: loaded exactly, or refused with the network untouched; nothing else ever gets in."""

import argparse
import pickle
import random
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.mix_transformer import MixTransformer
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.detection.mask_rcnn import MaskRCNN
from lightning_seg.networks.fcn import ConvolutionalVGG

SMALL = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"]
LARGE = ["resnet18", "resnet34", "vgg11_bn", "tf_efficientnet_lite0"]


@cache
def published(name):
    """A whole timm model's state dict, every tensor random; a VGG's large classifier is left away."""
    generator = torch.Generator().manual_seed(len(name))
    with torch.device("meta"):
        shapes = timm.create_model(name).state_dict()
    return {
        key: torch.randint(9, value.shape, generator=generator)
        if not value.is_floating_point()
        else torch.rand(value.shape, generator=generator)
        for key, value in shapes.items()
        if "pre_logits" not in key
    }


@cache
def empty(name):
    return TimmBackbone(name, weights=False)


def sentinel(backbone):
    """Fill a network with a number that no file has, and return what it then holds."""
    state = backbone.state_dict()
    for value in state.values():
        value.fill_(77)
    return {key: value.clone() for key, value in state.items()}


def flat(key):
    return key.removeprefix("net.").removeprefix("model.").replace(".", "_")


def holds(backbone, source):
    """Whether every tensor of a backbone is that of a publisher's state dict, a missing counter as it was."""
    theirs = {key.replace(".", "_"): value for key, value in source.items()}
    for key, value in backbone.state_dict().items():
        if flat(key) not in theirs:
            if not key.endswith("num_batches_tracked") or value != 77:
                return False
        elif not torch.equal(value, theirs[flat(key)].to(value.dtype)):
            return False
    return True


WRAPPERS = "model_state_dict state_dict model net teacher student params state_dict_ema ema weights".split()
PREFIXES = (
    "module. _orig_mod. model. encoder. backbone. module.encoder_q. net. network.backbone. student.".split()
)


class Variant:
    """A random way in which somebody may have saved, mangled or cut a state dict.

    Attributes:
        tree: What is saved.
        wanted: The tensors that have to be in the network; None where the file has to be refused.
    """

    def __init__(self, state, own, rng):
        self.rng, self.own = rng, own
        self.original, self.wanted = state, dict(state)
        self.used = sorted(k for k in state if k.replace(".", "_") in own and "num_batches" not in k)
        self.done = []
        self.ambiguous = False  # it holds a second network that fits
        state = dict(state)
        for change in rng.sample(self.CHANGES, rng.choice([0, 0, 1, 1, 2])):
            state = change(self, state)
            self.done.append(change.__name__)
        prefix = "".join(rng.sample(PREFIXES, rng.choice([0, 1, 1, 2, 3])))
        state = {prefix + key: value for key, value in state.items()}
        if rng.random() < 0.4:
            state |= {f"decoder.block{i}.weight": torch.rand(3) for i in range(rng.randint(1, 4))}
        if rng.random() < 0.2:
            state |= {"criterion.center": torch.rand(1, 4)}
        self.flat_state = state
        self.tree = state
        for _ in range(rng.choice([0, 1, 1, 2])):
            beside = {
                "epoch": 3,
                "args": "--lr 1",
                "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}, "lr": [1]},
            }
            self.tree = {rng.choice(WRAPPERS): self.tree} | rng.choice([{}, beside])
        if rng.random() < 0.15:
            self.tree = self.with_second_network()

    def refuse(self):
        self.wanted = None

    def with_second_network(self):
        other = {k: v + 1 if v.is_floating_point() else v for k, v in self.flat_state.items()}
        same = self.rng.random() < 0.3
        self.ambiguous = not same
        return {"a": self.tree, "b": {"c": dict(self.flat_state) if same else other}}

    def drop_used(self, state):
        self.refuse()
        dropped = self.rng.sample(self.used, self.rng.randint(1, 5))
        return {k: v for k, v in state.items() if k not in dropped}

    def drop_batch_norm_statistics(self, state):
        kind = self.rng.choice(["running_mean", "running_var", "bias"])
        if any(kind in key for key in self.used):
            self.refuse()
        return {k: v for k, v in state.items() if kind not in k}

    def drop_unused(self, state):
        return {k: v for k, v in state.items() if k.replace(".", "_") in self.own or k not in self.original}

    def drop_counters(self, state):
        self.wanted = self.wanted and {k: v for k, v in self.wanted.items() if "num_batches" not in k}
        return {k: v for k, v in state.items() if "num_batches" not in k}

    def misspell(self, state):
        self.refuse()
        key = self.rng.choice(self.used)
        return {(k + "x" if k == key else k): v for k, v in state.items()}

    def deeper(self, state):
        self.refuse()
        key = self.rng.choice([k for k in self.used if k.count(".") > 1])
        parts = key.split(".")
        parts[-2] += "9"
        return {**state, ".".join(parts): state.get(key, torch.ones(1))}

    def another_shape(self, state):
        self.refuse()
        key = self.rng.choice([k for k in self.used if k in state])
        value = state[key]
        changed = self.rng.choice([value[:-1], value[None], torch.cat([value, value]), value.flatten()[:1]])
        if changed.shape == value.shape:
            changed = value[..., None]
        return {**state, key: changed}

    def half_precision(self, state):
        rounded = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        self.wanted = self.wanted and {k: rounded.get(k, v) for k, v in self.wanted.items()}
        return rounded

    def integers(self, state):
        self.refuse()
        return {k: (v * 100).to(torch.int8) if k == self.used[-1] else v for k, v in state.items()}

    def not_a_number(self, state):
        self.refuse()
        key = self.rng.choice([k for k in self.used if k in state])
        return {**state, key: torch.full_like(state[key], self.rng.choice([float("nan"), float("inf")]))}

    CHANGES = (
        drop_used, drop_batch_norm_statistics, drop_unused, drop_unused, drop_counters, misspell, deeper,
        another_shape, half_precision, integers, not_a_number,
    )  # fmt: skip


def write(variant, folder, rng):
    """Save a variant in a random format, sometimes cut short or with a flipped bit; return the file."""
    kind = rng.choice(["pth", "pth", "legacy", "safetensors"])
    path = folder / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        variant.ambiguous = False  # such a file has no dictionaries inside
        save_file({key: value.contiguous().clone() for key, value in variant.flat_state.items()}, path)
    else:
        torch.save(variant.tree, path, _use_new_zipfile_serialization=kind == "pth")
    size = path.stat().st_size
    if rng.random() < 0.2:
        path.write_bytes(path.read_bytes()[: int(size * rng.random())])
        variant.refuse()
    elif kind == "pth" and rng.random() < 0.1:
        content = bytearray(path.read_bytes())
        content[size // 2] ^= 1 << rng.randrange(8)  # in the middle there are only tensors
        path.write_bytes(content)
        variant.refuse()
    return path


@pytest.mark.parametrize("seed", range(6))
def test_random_files_are_loaded_exactly_or_refused(seed, tmp_path):
    """6 times 40 random variants of four small and of four usual architectures."""
    rng = random.Random(seed)
    outcomes = []
    for number in range(40):
        name = rng.choice(SMALL if number % 4 else LARGE)
        backbone = empty(name)
        before = sentinel(backbone)
        variant = Variant(published(name), set(map(flat, before)), rng)
        try:
            if number % 4:
                file = write(variant, tmp_path, rng)
                backbone.weights = str(file)
                said = backbone.load_weights()
            else:
                said = backbone.set_weights(variant.tree)
        except UserError as error:
            assert variant.wanted is None or variant.ambiguous, (name, variant.done, str(error))
            assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
            assert "\x1b" not in str(error) and "weights_only" not in str(error)
            outcomes.append("refused")
        else:
            assert variant.wanted is not None and not variant.ambiguous, (name, variant.done, said)
            assert holds(backbone, variant.wanted), (name, variant.done, said)
            outcomes.append("loaded")
    assert min(outcomes.count("refused"), outcomes.count("loaded")) >= 8


def resnet18(**changes):
    return {**published("resnet18"), **changes}


def load(weights, name="resnet18"):
    """Load weights into a fresh backbone; return it and what it said."""
    backbone = TimmBackbone(name, str(weights))
    return backbone, backbone.load_weights()


def refused(weights, name, match):
    backbone = empty(name)
    before, backbone.weights = sentinel(backbone), str(weights)
    with pytest.raises(UserError, match=match) as error:
        backbone.load_weights()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    return str(error.value)


def save(tree, path):
    torch.save(tree, path)
    return path


def test_two_networks_in_a_file_are_told_apart_by_name(tmp_path):
    """As MoCo saves a network and its moving average, and timm a network and its average."""
    query, key = resnet18(), {name: value + 1 for name, value in resnet18().items()}
    state = {f"module.encoder_q.{name}": value for name, value in query.items()}
    state |= {f"module.encoder_k.{name}": value for name, value in key.items()} | {
        "module.queue": torch.rand(2, 8)
    }
    file = save({"state_dict": state, "epoch": 1}, tmp_path / "moco.pth")
    error = refused(file, "resnet18", "2 different sets of tensors that fit resnet18")
    assert (
        "state_dict.module.encoder_q, state_dict.module.encoder_k" in error
        and f"{file}#state_dict.mod" in error
    )
    for name, wanted in {"encoder_q": query, "module.encoder_k": key}.items():
        backbone, said = load(f"{file}#{name}")
        assert holds(backbone, wanted)
        assert (
            f"prefix module.encoder_{name[-1]}. stripped; left out: module.encoder_" in said
            and "queue (1)" in said
        )
    refused(f"{file}#encoder_v", "resnet18", "no tensors under 'encoder_v'. Names there: state_dict,")

    file = save({"state_dict": query, "state_dict_ema": key}, tmp_path / "a#b.pth")
    refused(file, "resnet18", "state_dict, state_dict_ema")
    assert holds(load(f"{file}#state_dict_ema")[0], key)


@pytest.mark.parametrize("seed", range(3))
def test_names_with_several_prefixes_lose_each_its_own_or_are_refused(seed, tmp_path):
    rng = random.Random(seed)
    name = rng.choice(SMALL)
    prefixes = [
        "module.",
        "_orig_mod.",
        "model.",
        "encoder.",
        "backbone.",
        "module.encoder_q.",
        "",
        "module.model.",
    ]
    chosen = rng.sample(prefixes, 3)
    state = {rng.choice(chosen) + key: value for key, value in published(name).items()}
    file = save({"state_dict": state | {"decoder.a": torch.ones(1)}}, tmp_path / "mixed.pth")
    backbone, said = load(file, name)
    assert holds(backbone, published(name)), (name, chosen, said)
    assert "stripped from the names that have them" in said and "decoder (1)" in said
    key = next(key for key in state if key.endswith("weight") and "head" not in key)
    bare = next(key.removeprefix(p) for p in sorted(chosen, key=len, reverse=True) if key.startswith(p))
    twice = next(p + bare for p in chosen if p + bare not in state)  # which of the two is meant?
    refused(save(state | {twice: state[key] + 1}, file), name, "are missing")
    refused(save({k: v for k, v in state.items() if k != key}, file), name, "are missing")


def test_halves_of_two_networks_are_not_joined(tmp_path):
    state = {
        ("student." if i % 2 else "teacher.") + key: value
        for i, (key, value) in enumerate(resnet18().items())
    }
    refused(save(state, tmp_path / "halves.pth"), "resnet18", "are missing")
    deeper = {("module." if i % 2 else "") + k: v for i, (k, v) in enumerate(published("resnet34").items())}
    refused(save(deeper, tmp_path / "deeper.pth"), "resnet18", "are missing")


def test_a_deeper_network_does_not_lose_its_layers(tmp_path):
    file = save(published("resnet34"), tmp_path / "resnet34.pth")
    refused(file, "resnet18", "no place for, the first being layer1.2.conv1.weight")
    file = save(resnet18(), tmp_path / "resnet18.pth")
    refused(file, "resnet34", "are missing, the first being net.layer1.2.conv1.weight")


def test_what_was_left_out_is_named(tmp_path):
    state = {f"encoder.{key}": value for key, value in resnet18().items()}
    file = save(
        {"net": state | {"decoder.a.weight": torch.ones(1), "head.b": torch.ones(1)}}, tmp_path / "unet.pt"
    )
    backbone, said = load(file)
    assert (
        said
        == f"backbone 120 tensors of {file}#net, prefix encoder. stripped; left out: fc (2), decoder (1), head (1)"
    )
    assert holds(backbone, resnet18())
    assert "left out: norm (2), head (2)" in load(save(published("test_vit"), file), "test_vit")[1]
    half = {key: value.half() for key, value in published("test_vit").items()}
    assert ", from float16;" in load(save(half, file), "test_vit")[1]


def test_position_embeddings_of_another_image_size_are_resampled_and_named(tmp_path):
    state = published("test_vit")
    grid = torch.rand(1, 1 + 7 * 7, state["pos_embed"].shape[2])
    _, said = load(save({**state, "pos_embed": grid}, tmp_path / "vit.pth"), "test_vit")
    assert "net.model.pos_embed resampled from (1, 50, 64) to (1, 101, 64)" in said
    other = {**state, "patch_embed.proj.weight": torch.rand(64, 3, 8, 8)}
    refused(save(other, tmp_path / "vit.pth"), "test_vit", "patch_embed.proj.weight is .* 16, 16.* here")


@pytest.mark.parametrize("norm", ["weight", "bias", "running_mean", "running_var"])
def test_batch_norm_is_never_left_at_its_start(tmp_path, norm):
    state = {key: value for key, value in resnet18().items() if key != f"layer4.1.bn2.{norm}"}
    refused(save(state, tmp_path / "x.pth"), "resnet18", f"first being net.layer4.1.bn2.{norm}")
    no_counters = {key: value for key, value in resnet18().items() if "num_batches" not in key}
    assert "without 20 counters of batches" in load(save(no_counters, tmp_path / "x.pth"))[1]


class Trap:
    def __reduce__(self):
        return (Path("trap").touch, ())


def test_files_of_other_kinds_are_one_error_without_unsafe_advice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pth"
    contents = (
        b"",
        b"epoch,loss\n1,2\n",
        b"PK\x03\x04" + 40 * b"x",
        pickle.dumps(Trap(), 2),
        pickle.dumps([1, 2], 2),
    )
    for content in contents:
        file.write_bytes(content)
        error = refused(
            file, "test_resnet", "damaged, incomplete or of another kind|Python objects|no named tensors"
        )
        assert "weights_only" not in error and "\x1b" not in error and "\n" not in error
    save({"state_dict": torch.nn.Linear(2, 2)}, file)
    assert "torch.save(model.state_dict(), FILE)" in refused(
        file, "test_resnet", "torch.nn.modules.linear.Linear"
    )
    np.savez(file.with_suffix(".npz"), a=np.ones(3))
    refused(file.with_suffix(".npz"), "test_resnet", "NumPy arrays, which are not read")
    (tmp_path / "x.safetensors").write_bytes(b"not one")
    refused(tmp_path / "x.safetensors", "test_resnet", "x.safetensors, but it is damaged")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    refused(file, "test_resnet", "damaged, incomplete or of another kind")
    for empty_tree in (
        {},
        {"state_dict": {}},
        {"epoch": 3},
        [torch.ones(2)],
        torch.ones(3),
        {0: torch.ones(1)},
    ):
        refused(save(empty_tree, file), "test_resnet", "no named tensors")
    assert not (tmp_path / "trap").exists()


def test_settings_of_a_training_script_beside_the_weights_do_no_harm(tmp_path):
    """DINO, MAE and timm save their command line, an argparse.Namespace."""
    tree = {"model": published("test_resnet"), "args": argparse.Namespace(lr=1, dtype=torch.float32)}
    assert holds(load(save(tree, tmp_path / "dino.pth"), "test_resnet")[0], published("test_resnet"))


def test_weights_of_torchvision_and_dino_need_no_renaming():
    for name, theirs in {
        "resnet18": torchvision.models.resnet18,
        "vgg11_bn": torchvision.models.vgg11_bn,
    }.items():
        with torch.device("meta"):
            state = theirs().state_dict()
        state = {k: torch.rand(v.shape) if v.is_floating_point() else v.to("cpu") if not v.is_meta else torch.tensor(1)
                 for k, v in state.items() if not k.startswith("classifier")}  # fmt: skip
        backbone = TimmBackbone(name, weights=False)
        backbone.set_weights({"model": state})
        assert holds(backbone, state)


def test_convolutional_vgg_needs_its_fully_connected_layers():
    with torch.device("meta"):
        backbone = ConvolutionalVGG("vgg11", weights=False)
    with pytest.raises(UserError, match="4 of 20 tensors are missing, the first being fc1.weight"):
        backbone.set_weights({k: v for k, v in published("vgg11").items() if "features" in k})


def test_mix_transformer_takes_the_encoder_of_smps_networks(tmp_path):
    other = MixTransformer("mit_b0", weights=False)
    state = {f"encoder.{key}": value for key, value in other.net.state_dict().items()}
    file = save({"state_dict": state | {"segmentation_head.0.bias": torch.ones(2)}}, tmp_path / "smp.ckpt")
    encoder = MixTransformer("mit_b0", weights=str(file))
    assert "prefix encoder. stripped; left out: segmentation_head (1)" in encoder.load_weights()
    assert all(map(torch.equal, encoder.state_dict().values(), other.state_dict().values()))


def detector(weights=None):
    return MaskRCNN(3, "test_resnet", False, str(weights) if weights else None, channels=8, hidden=16)


def test_detector_weights_are_all_or_nothing(tmp_path):
    theirs = detector()
    names = {"backbone.net.": "backbone.body.", "decoder.": "backbone.fpn.", "head.": ""}
    state = {}
    for key, value in theirs.state_dict().items():
        ours = next(name for name in names if key.startswith(name))
        state[names[ours] + key.removeprefix(ours)] = value
    file = save(
        {"epoch": 1, "model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "d.pth"
    )
    network = detector(file)
    assert network.load_weights().startswith(
        f"detector {len(state)} tensors of {file}#model, prefix module. stripped"
    )
    assert all(map(torch.equal, network.state_dict().values(), theirs.state_dict().values()))
    first = "roi_heads.box_head.fc6.weight"
    for wrong in (
        {}, {"a": torch.ones(1)}, {key: value for key, value in state.items() if key != first},
        {**state, first: state[first][:-1]}, {**state, "backbone.body.layer1.7.conv1.weight": torch.ones(1)},
        {**state, "roi_heads.mask_head.9.weight": torch.ones(1)},
        {key: value for key, value in state.items() if "running_mean" not in key},
        {**state, "roi_heads.box_predictor.cls_score.bias": torch.tensor(1.0)},
    ):  # fmt: skip
        network = detector(save(wrong, file))
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(UserError, match="d.pth.* not those of torchvision's Mask R-CNN"):
            network.load_weights()
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_file_is_what_it_holds_not_what_its_name_says(tmp_path):
    torch.save(resnet18(), tmp_path / "a.safetensors")
    save_file(resnet18(), tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        assert holds(load(tmp_path / name)[0], resnet18())
