"""Foreign networks: the numbers are theirs, freezing, learning rates and checkpoints are ours."""

import copy
import inspect
import pkgutil

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.networks.adapters import Adapter
from lightning_seg.networks.foreign import IMAGENET, build, complete, normalization
from lightning_seg.training.finetune.policies import Frozen, FrozenStages, Full, LayerwiseDecay

ENCODER = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 5}
# timm's smallest, where the names of its parts do not matter
SMALL = {**ENCODER, "encoder_name": "tu-test_resnet"}


class Paper(nn.Module):
    """A network without a module that is the backbone, and with a head that its logits do not need."""

    def __init__(self, n_channels, n_classes=5):
        super().__init__()
        self.inc, self.down = nn.Conv2d(n_channels, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, n_classes, 2, 2)
        self.other = nn.Linear(4, 2)

    def forward(self, x):
        if x.shape[-1] % 2 or x.shape[-1] < 64:
            raise ValueError("I take even sides from 64 on.")
        return self.up(self.norm(self.down(self.inc(x))))


TINY = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
HUGGING = {
    "Segformer": {**TINY, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
    "UperNet": {
        "backbone_config": {"model_type": "convnext", **TINY, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "hidden_size": 16, "auxiliary_in_channels": 24, "auxiliary_channels": 8, "pool_scales": [1, 2],
    },
    "DPT": {
        **VIT, "backbone_out_indices": [0, 1, 2, 3], "image_size": 64, "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
    },
    "MobileViT": {
        "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "aspp_out_channels": 16,
        "num_attention_heads": 2,
    },
}  # fmt: skip


def hugging(name):
    transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    settings = dict(HUGGING[name], num_labels=5)
    if "backbone_config" in settings:
        settings["backbone_config"] = dict(settings["backbone_config"])
    return getattr(transformers, f"{name}ForSemanticSegmentation")(
        getattr(transformers, f"{name}Config")(**settings)
    )


def torchvisions(name, **options):
    return getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, num_classes=5, **options
    )


FOREIGN = {
    **{name: (lambda name=name: getattr(smp, name)(**SMALL), {}) for name in
       ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
        "Segformer")},
    "deeplabv3_mobilenet": (lambda: torchvisions("deeplabv3_mobilenet_v3_large", aux_loss=True), {}),
    "lraspp": (lambda: torchvisions("lraspp_mobilenet_v3_large"), {}),
    **{f"{name} of transformers": (lambda name=name: hugging(name), {}) for name in HUGGING},
    "paper": (lambda: Paper(3), {"backbone": ["inc", "down"]}),
}  # fmt: skip


@pytest.fixture(params=FOREIGN, scope="module")
def built(request):
    torch.manual_seed(0)
    build, options = FOREIGN[request.param]
    module = build().eval()
    return Adapter(5, copy.deepcopy(module), **options).eval(), module


@pytest.fixture
def adapted(built):
    return copy.deepcopy(built[0]), built[1]


def images(*size):
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_logits_are_those_of_the_module_for_any_size(adapted):
    network, module = adapted
    side = 128
    x = images(2, 3, side, 160 if "to squares" not in network.describe() else side)
    with torch.inference_mode():
        theirs = module(network.backbone.normalize(x))
        theirs = getattr(theirs, "logits", theirs)
        theirs = theirs["out"] if isinstance(theirs, dict) else theirs
        theirs = nn.functional.interpolate(theirs, x.shape[-2:], mode="bilinear")
        torch.testing.assert_close(network(x), theirs)
        torch.testing.assert_close(copy.deepcopy(network)(x), theirs)
        assert network(images(1, 3, 33, 50)).shape == (1, 5, 33, 50)


def test_each_parameter_is_of_the_backbone_or_of_the_rest(adapted):
    network, module = adapted
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in module.parameters())
    assert len(network.state_dict()) == len(module.state_dict())
    staged = [id(p) for _, stage in network.backbone.stages() for p in stage.parameters()]
    assert sorted(staged) == sorted(id(p) for p in network.backbone.parameters()) and len(staged) > 1
    parts = Full().parts(network)
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in module.parameters())


def test_a_frozen_backbone_stays_bit_identical_and_the_rest_trains(adapted):
    network, _ = adapted
    policy = Frozen()
    policy.apply(network)
    optimizer = torch.optim.SGD(policy.parameter_groups(network), lr=0.1)
    before = copy.deepcopy(network.state_dict())
    network.train()
    policy.set_mode(network)
    found = network(images(2, 3, 64, 64))
    logits, *auxiliary = found if isinstance(found, tuple) else (found,)
    sum(nn.functional.cross_entropy(x, images(2, 64, 64).long() % 5) for x in (logits, *auxiliary)).backward()
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith("backbone.") for key in changed)


def test_auxiliary_logits_of_torchvision_are_for_training():
    network = Adapter(5, torchvisions("deeplabv3_mobilenet_v3_large", aux_loss=True))
    assert [x.shape for x in network.train()(images(2, 3, 40, 50))] == [(2, 5, 40, 50)] * 2
    assert network.eval()(images(2, 3, 40, 50)).shape == (2, 5, 40, 50)


def test_policies_know_the_stages_of_a_foreign_backbone():
    network = Adapter(5, smp.Unet(**ENCODER))
    assert [name for name, _ in network.backbone.stages()] == [
        "conv1",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]
    rates = [part.lr_factor for part in LayerwiseDecay(0.5).parts(network)]
    assert rates == [0.5**5, 0.5**4, 0.5**3, 0.25, 0.5, 1]
    policy = FrozenStages(2, batch_norm="eval")
    policy.apply(network)
    assert (
        not network.decoder.encoder.conv1.weight.requires_grad
        and network.decoder.encoder.layer2[0].conv1.weight.requires_grad
    )
    network.train()
    policy.set_mode(network)
    assert not network.decoder.encoder.layer4[0].bn1.training and network.decoder.decoder.training


def test_weights_of_the_whole_module_come_from_a_file_under_its_own_names(tmp_path):
    trained = smp.Unet(**ENCODER)
    file = tmp_path / "unet.pth"
    torch.save({"state_dict": {f"model.{k}": v for k, v in trained.state_dict().items()}}, file)
    network = Adapter(5, smp.Unet(**ENCODER), weights=str(file))
    assert "#state_dict, prefix model. stripped" in network.load_weights()
    torch.testing.assert_close(network.eval()(images(1, 3, 64, 64)),
                               trained.eval()(network.backbone.normalize(images(1, 3, 64, 64))))  # fmt: skip
    torch.save(smp.FPN(**ENCODER).state_dict(), file)
    with pytest.raises(UserError, match="are missing"):
        network.load_weights()
    torch.save({**trained.state_dict(), "encoder.layer5.weight": torch.ones(1)}, file)
    with pytest.raises(UserError, match="no place for, the first being encoder.layer5.weight"):
        network.load_weights()
    assert Adapter(5, Paper(3)).load_weights() == "as Paper was made"


def test_feature_maps_are_the_last_of_each_stride_of_the_backbone(adapted):
    network, module = adapted
    maps = network.feature_maps(images(1, 3, 128, 96))
    logits = maps.pop("logits")
    assert logits.shape[1] == 5 and len(maps) == len(network.backbone.strides)
    for (name, map_), stride in zip(maps.items(), network.backbone.strides, strict=True):
        assert name == f"backbone, stride {stride}"
        padded = network._pad(torch.empty(1, 3, 128, 96)).shape[-2:]
        assert map_.shape[2:] == tuple(length // stride for length in padded)


def test_tokens_are_seen_as_maps():
    network = Adapter(5, hugging("DPT"))
    block = network.feature_maps(images(1, 3, 64, 96))["backbone, stride 16"]
    assert block.shape == (1, 32, 6, 6)  # it takes squares only
    assert [name for name, _ in network.backbone.stages()][1:] == [f"encoder.layer.{i}" for i in range(4)]


def test_sizes_that_a_module_refuses_are_padded_and_what_its_logits_do_not_need_stays():
    network = Adapter(5, Paper(3), backbone=["inc", "down"])
    said = network.describe()
    assert "padded to multiples of 2, at least 64" in said and "other.weight and 1 more have no part" in said
    assert network(images(2, 3, 20, 31)).shape == (2, 5, 20, 31)
    assert [n for n, p in network.named_parameters() if not p.requires_grad] == [
        "decoder.other.weight",
        "decoder.other.bias",
    ]
    assert Adapter(5, Paper(3), stride=4).stride == 4
    assert (
        network.stride,
        Adapter(5, smp.Unet(**ENCODER)).stride,
        Adapter(5, smp.FPN(**ENCODER)).stride,
    ) == (2, 1, 32)


def test_normalization_is_that_of_the_encoder_and_said(monkeypatch):
    stated = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_range": [0, 1], "input_space": "RGB"}
    monkeypatch.setattr(smp.encoders, "get_preprocessing_params", lambda name, pretrained: stated)
    unet = "segmentation_models_pytorch.Unet"
    arguments = {"encoder_name": "resnet18", "encoder_weights": "imagenet"}
    assert normalization(unet, arguments) == ((0.5,) * 3, (0.25,) * 3)
    assert normalization(unet, {**arguments, "encoder_weights": None}) == IMAGENET
    stated["input_range"] = [0, 255]
    with pytest.raises(UserError, match="not RGB images of 0..1. State mean and std"):
        normalization(unet, arguments)
    network = Adapter(5, Paper(3), mean=(0, 0, 0), std=(1, 1, 1))
    assert "none is known in Paper; images less (0, 0, 0) by (1, 1, 1)" in network.describe()
    torch.testing.assert_close(network.backbone.normalize(images(1, 3, 8, 8)), images(1, 3, 8, 8) / 255)


def test_without_a_backbone_everything_trains_and_policies_about_it_are_refused():
    network = Adapter(5, Paper(3))
    Full().apply(network)
    assert [part.name for part in Full().parts(network)] == ["decoder"]
    for policy in (Frozen(), Full(backbone_lr_mult=0.1), Full(batch_norm="eval"), LayerwiseDecay(0.5)):
        with pytest.raises(
            UserError, match=f"{type(policy).__name__} is about the backbone.*model.network.backbone"
        ):
            policy.apply(network)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("segmentation_models_pytorch.FPN", {"encoder_name": "resnet18", "encoder_weights": None}),
        ("torchvision.models.segmentation.lraspp_mobilenet_v3_large", {"weights_backbone": None}),
        ("monai.networks.nets.UNet", {"spatial_dims": 2, "in_channels": 3, "channels": [4, 8], "strides": [2]}),
        (f"{__name__}.Paper", {}),
        ("transformers.SegformerForSemanticSegmentation", {"config": HUGGING["Segformer"]}),
        ("transformers.SegformerForSemanticSegmentation",
         {"config": {"class_path": "transformers.SegformerConfig", "init_args": HUGGING["Segformer"]}}),
    ],
)  # fmt: skip
def test_a_class_path_is_built_for_the_number_of_classes(path, arguments):
    if path.startswith("transformers"):
        pytest.importorskip("transformers", reason="the extra transformers is not installed")
    network = Adapter(7, path, complete(path, arguments))
    assert network.eval()(images(1, 3, 64, 64)).shape == (1, 7, 64, 64)
    for name in ("num_classes", "classes", "n_classes", "out_channels"):
        if name in inspect.signature(pkgutil.resolve_name(path)).parameters:
            with pytest.raises(UserError, match=f"has {name} 3, the data 7 classes"):
                Adapter(7, path, {**arguments, name: 3})


def test_arguments_are_checked_by_name_and_their_defaults_recorded():
    path = "segmentation_models_pytorch.FPN"
    assert (
        complete(path, {"encoder_name": "resnet18"}).items()
        >= {"encoder_name": "resnet18", "encoder_depth": 5}.items()
    )
    assert "classes" not in complete(path, {})
    path = "torchvision.models.segmentation.LRASPP"
    with pytest.raises(UserError, match="has no argument 'low_chanels'. Did you mean low_channels"):
        complete(path, {"low_chanels": 3})
    with pytest.raises(
        UserError, match="needs backbone, low_channels, high_channels; say so under init_args"
    ):
        build(path, {}, 5)


def test_what_cannot_be_adapted_is_refused_with_the_names_to_choose():
    with pytest.raises(UserError, match="no part 'encoder'.* are inc, down, norm, up, other"):
        Adapter(5, Paper(3), backbone="encoder")
    with pytest.raises(UserError, match="item of a Sequential"):
        Adapter(5, nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1)), backbone="0")
    with pytest.raises(
        UserError, match=r"Paper must return logits \(B, 7, h, w\).* returned \(1, 5, 130, 134\)"
    ):
        Adapter(7, Paper(3))
    with pytest.raises(
        UserError, match="images of none of the sizes that were tried.\n  384x384: RuntimeError"
    ):
        Adapter(5, nn.Linear(4, 5))
    with pytest.raises(UserError, match="Adapter cannot keep features"):
        Frozen(cache_gb=1).begin(Adapter(5, Paper(3)))
