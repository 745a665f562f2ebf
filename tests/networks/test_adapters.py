"""Foreign networks: the numbers are theirs, freezing, learning rates and checkpoints are ours."""

import copy
from types import SimpleNamespace

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.networks.adapters import Adapter
from lightning_seg.training.finetune.policies import Frozen, FrozenStages, Full, LayerwiseDecay

ENCODER = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 5}


class Hugging(nn.Module):
    """Returns logits of a quarter of the size in an object, as networks of transformers do."""

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.decode_head = nn.Conv2d(4, 5, 1)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.decode_head(self.model.encoder(pixel_values)), loss=None)


class Paper(nn.Module):
    """A network without a module that is the backbone."""

    def __init__(self, classes=5):
        super().__init__()
        self.inc, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, classes, 2, 2)

    def forward(self, x):
        return self.up(self.norm(self.down(self.inc(x))))


def torchvisions(name, **options):
    return getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, num_classes=5, **options
    )


FOREIGN = {
    **{name: (lambda name=name: getattr(smp, name)(**ENCODER), {"stride": 128 if name == "PAN" else 32}) for name in
       ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
        "Segformer")},
    "deeplabv3_mobilenet": (lambda: torchvisions("deeplabv3_mobilenet_v3_large", aux_loss=True), {}),
    "lraspp": (lambda: torchvisions("lraspp_mobilenet_v3_large"), {}),
    "hugging": (Hugging, {}),
    "paper": (Paper, {"backbone": ["inc", "down"]}),
}  # fmt: skip


@pytest.fixture(params=FOREIGN)
def adapted(request):
    torch.manual_seed(0)
    build, options = FOREIGN[request.param]
    module = build()
    return Adapter(5, copy.deepcopy(module), **options), module


def images(*size):
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_logits_are_those_of_the_module_for_any_size(adapted):
    network, module = adapted
    network.eval(), module.eval()
    side = max(64, network.stride)
    x = images(2, 3, side, 2 * side)
    with torch.inference_mode():
        theirs = module(network.backbone.normalize(x))
        theirs = theirs["out"] if isinstance(theirs, dict) else getattr(theirs, "logits", theirs)
        theirs = nn.functional.interpolate(theirs, (side, 2 * side), mode="bilinear")
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
    names = [name for name, _ in network.backbone.stages()]
    assert names == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    rates = [part.lr_factor for part in LayerwiseDecay(0.5).parts(network)]
    assert rates == [0.5**6, 0.5**5, 0.5**4, 0.5**3, 0.25, 0.5, 1]
    policy = FrozenStages(3, batch_norm="eval")
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
    assert Adapter(5, Paper(), "inc").load_weights() == "as Paper was made"


def test_what_cannot_be_adapted_is_refused_with_the_names_to_choose():
    with pytest.raises(
        UserError, match="no part of a usual name.* are inc, down, norm, up. A list names several"
    ):
        Adapter(5, Paper())
    with pytest.raises(UserError, match="no part 'encoder'.* are inc"):
        Adapter(5, Paper(), "encoder")
    with pytest.raises(UserError, match="item of a Sequential"):
        Adapter(5, Hugging(), "model.encoder.0")
    with pytest.raises(
        UserError, match=r"Paper must return logits \(B, 7, h, w\).* returned \(1, 5, 64, 32\)"
    ):
        Adapter(7, Paper(), "inc")(images(1, 3, 20, 20))
    with pytest.raises(UserError, match="cannot cache"):
        Frozen(cache_gb=1).begin(Adapter(5, Paper(), "inc"))
