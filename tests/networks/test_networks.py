"""What every network promises, whatever its architecture and backbone."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.mix_transformer import MixTransformer
from lightning_seg.networks.backbones.plain import PlainBackbone
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.base import train_on_one_image
from lightning_seg.networks.baselines import FullResolution, PatchClassifier
from lightning_seg.networks.deeplab import DeepLabLargeFOV, DeepLabV3, DeepLabV3Plus
from lightning_seg.networks.dpt import DPT
from lightning_seg.networks.fcn import FCN, FCN8s, FCN16s, FCN32s
from lightning_seg.networks.fpn import FPN
from lightning_seg.networks.linknet import LinkNet
from lightning_seg.networks.manet import MAnet
from lightning_seg.networks.pan import PAN
from lightning_seg.networks.pspnet import PSPNet
from lightning_seg.networks.segformer import SegFormer
from lightning_seg.networks.segnet import SegNet, SegNetBasic
from lightning_seg.networks.unet import ClassicUNet, UNet
from lightning_seg.networks.unetplusplus import UNetPlusPlus
from lightning_seg.networks.upernet import UPerNet

SMALL = {"decoder_channels": 16}
SMALL_UNET = {"decoder_channels": (32, 16, 16, 8, 8)}


def vit(**args):
    """Return a plain vision transformer with patches of any size."""
    return TimmBackbone("test_vit", False, backbone_args={"depth": 4, **args})


OWN = {"backbone": None}  # the architecture has an encoder of its own
NETWORKS = {
    "deeplabv3": (DeepLabV3, SMALL),
    "deeplabv3-8": (DeepLabV3, {**SMALL, "output_stride": 8}),
    "deeplabv3plus": (DeepLabV3Plus, SMALL),
    "deeplabv3plus-8": (DeepLabV3Plus, {**SMALL, "output_stride": 8}),
    "unet": (UNet, {}),
    "unet-16": (UNet, {"output_stride": 16}),
    "fcn32s": (FCN32s, {}),
    "fcn16s": (FCN16s, {}),
    "fcn8s": (FCN8s, {}),
    "fcn": (FCN, {}),
    "largefov": (DeepLabLargeFOV, SMALL),
    "pspnet": (PSPNet, SMALL),
    "fpn": (FPN, {"decoder_channels": 16, "head_channels": 32}),
    "upernet": (UPerNet, SMALL),
    "unetplusplus": (UNetPlusPlus, SMALL_UNET),
    "linknet": (LinkNet, {}),
    "manet": (MAnet, SMALL_UNET),
    "pan": (PAN, SMALL),
    "segformer": (SegFormer, SMALL),
    "segformer-mit": (SegFormer, {**SMALL, "backbone": lambda: MixTransformer("mit_b0", weights=False)}),
    "dpt": (DPT, SMALL),
    "unet-vit14": (UNet, {**SMALL_UNET, "backbone": lambda: vit(patch_size=14, img_size=70)}),
    "deeplabv3plus-vit-8": (DeepLabV3Plus, {**SMALL, "output_stride": 8, "backbone": lambda: vit()}),
    "dpt-vit": (DPT, {**SMALL, "backbone": "test_vit"}),
    "segnet": (SegNet, {"layers": (2, 1, 1, 1, 1)}),
    "segnet-basic": (SegNetBasic, {**OWN, "channels": 8}),
    "unet2015": (ClassicUNet, {**OWN, "channels": 4}),
    "full-resolution": (FullResolution, {**OWN, "channels": 8}),
    "patches": (PatchClassifier, {"step": 16}),
}


@cache
def built(name):
    torch.manual_seed(0)
    build, arguments = NETWORKS[name]
    arguments = {"backbone": "test_resnet", "weights": False, **arguments}
    if arguments["backbone"] is None:
        del arguments["backbone"], arguments["weights"]
    elif callable(arguments["backbone"]):
        arguments["backbone"] = arguments["backbone"]()
    return build(5, **arguments)


@pytest.fixture(params=NETWORKS)
def network(request):
    network = deepcopy(built(request.param))  # takes less time than building it again
    torch.manual_seed(1)
    return network


def images(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (97, 129), (33, 17), (8, 100)])
def test_logits_have_the_size_of_the_images(network, size):
    assert network.eval()(images(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("size", [(97, 129), (16, 16)])
def test_trains_on_one_image_and_gradient_reaches_every_parameter(network, size):
    logits = network.train()(images(1, 3, *size))
    assert logits.shape == (1, 5, *size)
    nn.functional.cross_entropy(logits, images(1, *size).long() % 5).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or p.grad.isnan().any()] == []
    assert all(p.grad.any() for p in network.head.parameters())
    assert all(p.grad.any() for p in next(iter(network.backbone.stages()))[1].parameters())


@torch.no_grad()
def test_uint8_and_float_images_agree_and_twice_is_the_same(network):
    network.eval()
    x = images(2, 3, 40, 50)
    logits = network(x)
    torch.testing.assert_close(network(x.float()), logits, rtol=0, atol=0)
    torch.testing.assert_close(network(x), logits, rtol=0, atol=0)
    assert logits.std() > 0


@torch.no_grad()
def test_images_of_a_batch_do_not_mix_in_evaluation(network):
    network.eval()
    x = images(3, 3, 48, 80)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_is_zeros_after_normalisation_on_the_right_and_below(network):
    """An image padded by hand gives, after cropping, the same logits."""
    network.eval().backbone.shift.zero_()  # now black is zero after normalisation too, exactly
    x = images(1, 3, 57, 75)
    height, width = (-(-side // network.stride) * network.stride for side in (57, 75))
    padded = nn.functional.pad(x, (0, width - 75, 0, height - 57))
    torch.testing.assert_close(network(padded)[..., :57, :75], network(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_channels_last_stays_and_changes_nothing(network):
    network.eval()
    x = images(2, 3, 64, 64)
    expected = network(x)
    kept = []
    network.backbone.register_forward_pre_hook(
        lambda _, args: kept.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    network.to(memory_format=torch.channels_last)
    actual = network(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert kept == [True]


def test_parts_are_named_and_hold_every_parameter(network):
    parts = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert parts <= {"backbone", "neck", "decoder", "head"}
    assert "backbone" in parts
    assert parts & {"decoder", "head"}


# PAN and MA-Net take minutes, the patch classifier's loop over rows has a fixed length.
FREE_SIZE = [name for name in NETWORKS if name not in ("pan", "manet", "patches")]
QUICK = ["deeplabv3plus", "segnet-basic"]
OTHERS = [name for name in FREE_SIZE if name not in QUICK]


class Several(nn.ModuleDict):
    """Networks that see the same images."""

    def forward(self, x):
        return {name: network(x) for name, network in self.items()}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(QUICK, id="quick"),
        pytest.param(OTHERS[::2], marks=pytest.mark.slow, id="half of the others"),
        pytest.param(OTHERS[1::2], marks=pytest.mark.slow, id="the other half"),
    ],
)
def test_exports_with_free_height_and_width(names):
    """Slow: tracing with symbolic sizes takes seconds; together less, as what is known of a size is asked again."""
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    networks = Several({name: built(name) for name in names}).eval()
    program = torch.export.export(networks, (images(2, 3, 70, 90),), dynamic_shapes=[free]).module()
    x = images(3, 3, 97, 129)
    with torch.no_grad():
        found = program(x)
        assert list(found) == names
        for name, network in networks.items():
            torch.testing.assert_close(
                found[name], network(x), rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("build", [UNet, DeepLabV3Plus, FCN8s])
def test_backbone_without_a_pyramid_is_refused(build):
    with pytest.raises(UserError, match="resnet50"):
        build(5, backbone=PlainBackbone([nn.Conv2d(3, 8, 1)], [8], nn.MaxPool2d))


def test_one_value_per_channel_trains_with_the_running_statistics():
    norm = nn.Sequential(nn.BatchNorm2d(4, eps=0.5))
    nn.init.normal_(norm[0].weight)
    norm[0].running_mean += 2
    x = torch.randn(1, 4, 1, 1)
    with pytest.raises(ValueError):
        norm(x)
    state = {key: value.clone() for key, value in norm.state_dict().items()}
    expected = (x - 2) / 1.5**0.5 * state["0.weight"].view(1, 4, 1, 1)
    train_on_one_image(norm)
    torch.testing.assert_close(norm(x), expected)
    assert all(torch.equal(value, state[key]) for key, value in norm.state_dict().items())
    norm(torch.randn(2, 4, 1, 1))  # two values: trained as ever
    assert not torch.equal(norm[0].running_mean, state["0.running_mean"])


def test_mix_transformer_has_the_authors_sizes_and_stages_hold_every_parameter_once():
    encoder = MixTransformer("mit_b0", weights=False)
    assert encoder.channels == [32, 64, 160, 256]
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(3.7e6, rel=0.15)  # with a classifier
    staged = [id(p) for _, stage in encoder.stages() for p in stage.parameters()]
    assert sorted(staged) == sorted(id(p) for p in encoder.parameters())


def test_mix_transformer_weights_come_from_a_file_or_say_why_not(tmp_path, monkeypatch):
    encoder = MixTransformer("mit_b0", weights=str(tmp_path / "mit.pth"))
    other = MixTransformer("mit_b0", weights=False)
    torch.save(other.net.state_dict(), tmp_path / "mit.pth")
    encoder.load_weights()
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))
    torch.save({"a": torch.zeros(1)}, tmp_path / "mit.pth")
    with pytest.raises(UserError, match="not those of mit_b0"):
        encoder.load_weights()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="mit_b0.*cannot be downloaded"):
        MixTransformer("mit_b0").load_weights()
    with pytest.raises(UserError, match="mit_b5"):
        MixTransformer("mit_b7")
