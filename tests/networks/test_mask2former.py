"""Mask2Former on a backbone of ours against transformers' whole model, on copied weights."""

import numpy as np
import pytest
import torch

from lightning_seg.errors import UserError
from lightning_seg.inference.export.check import noise
from lightning_seg.inference.export.write import write
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.mask2former import Mask2Former
from lightning_seg.training.mask_loss import MaskLoss, Targets

transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

CLASSES = 4
SETTINGS = {"queries": 7, "channels": 32, "encoder_layers": 1, "decoder_layers": 3, "heads": 4, "hidden": 16}


@pytest.fixture(scope="module")
def pair():
    """transformers' Mask2Former on its ResNet-18 with random weights; ours on timm's with the same decoders."""
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        hidden_sizes=[64, 128, 256, 512],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        num_queries=7,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_layers=1,
        decoder_layers=4,
        num_attention_heads=4,
        dim_feedforward=16,
        encoder_feedforward_dim=8,
        num_labels=CLASSES,
        train_num_points=50,
    )
    theirs = transformers.Mask2FormerForUniversalSegmentation(config)
    for name, parameter in theirs.named_parameters():
        if "encoder.em" not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    ours = Mask2Former(CLASSES, "resnet18", False, **SETTINGS)
    ours.set_published(theirs.state_dict(), "transformers")
    return theirs, ours


class Given(torch.nn.Module):
    """A backbone that gives these maps, whatever the image."""

    def __init__(self, maps):
        super().__init__()
        self.feature_maps = tuple(maps)

    def forward(self, x):
        return self


def both(pair, training):
    theirs, ours = (model.train(training) for model in pair)
    torch.manual_seed(1)
    x = torch.randn(2, 3, 64, 96)
    maps = [
        torch.randn(2, c, 64 // s, 96 // s) for c, s in zip((64, 128, 256, 512), (4, 8, 16, 32), strict=True)
    ]
    theirs.model.pixel_level_module.encoder = Given(maps)
    ours.backbone.forward = lambda _: maps
    return theirs, ours, x


def test_queries_of_every_layer_are_those_of_transformers(pair):
    theirs, ours, x = both(pair, training=False)
    with torch.no_grad():
        expected = theirs(x, output_auxiliary_logits=True)
        layers = ours.layers(x)
    assert len(layers) == len(expected.auxiliary_logits) + 1 == 4
    others = [
        *((one["masks_queries_logits"], one["class_queries_logits"]) for one in expected.auxiliary_logits),
        (expected.masks_queries_logits, expected.class_queries_logits),
    ]
    for layer, (masks, classes) in zip(layers, others, strict=True):
        torch.testing.assert_close(layer.masks, masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(layer.classes, classes, atol=1e-4, rtol=1e-4)


def test_the_loss_of_all_layers_is_that_of_transformers(pair, monkeypatch):
    theirs, ours, x = both(pair, training=True)
    generator = torch.Generator().manual_seed(2)
    truth = [
        Targets(
            (torch.rand(n, 64, 96, generator=generator) > 0.6).float(),
            torch.randint(CLASSES, (n,), generator=generator),
        )
        for n in (2, 4)
    ]
    monkeypatch.setattr(
        torch,
        "rand",
        lambda *shape, device=None: torch.from_numpy(
            np.random.default_rng(sum(shape)).random(shape).astype(np.float32)
        ),
    )
    loss = sum(one.total for one in MaskLoss(points=50)(ours.layers(x), truth))
    expected = theirs(x, mask_labels=[t.masks for t in truth], class_labels=[t.classes for t in truth]).loss
    torch.testing.assert_close(loss, expected.squeeze(), atol=1e-4, rtol=1e-5)


def test_another_classifier_is_left_out_and_other_decoders_are_refused(pair):
    state = pair[0].state_dict()
    other = Mask2Former(9, "resnet18", False, **SETTINGS)
    assert "at random: the classifier" in other.set_published(state, "file")
    with pytest.raises(
        UserError, match=r"file does not hold the decoders .*queries_embedder.weight is \(7, 32\)"
    ):
        Mask2Former(CLASSES, "resnet18", False, **{**SETTINGS, "queries": 8}).set_published(state, "file")
    name = "model.transformer_module.queries_embedder.weight"
    with pytest.raises(
        UserError, match=r"hold NaN or infinity, the first being decoder.queries.queries_embed"
    ):
        other.set_published({**state, name: state[name] * torch.nan}, "file")


def test_its_size_is_the_published_one():
    """44 M parameters with ResNet-50 and 100 queries, table 1 of the paper."""
    with torch.device("meta"):
        ours = Mask2Former(133, TimmBackbone("resnet50", False))
    assert round(sum(p.numel() for p in ours.parameters()) / 1e6) == 44


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224"])
def test_it_answers_images_of_any_size_on_pyramids_and_plain_transformers(backbone):
    args = {"depth": 4, "embed_dim": 32, "num_heads": 2} if backbone.startswith("vit") else None
    ours = Mask2Former(CLASSES, TimmBackbone(backbone, False, backbone_args=args), **SETTINGS).eval()
    with torch.no_grad():
        assert ours(torch.zeros(1, 3, 40, 70)).shape == (1, CLASSES, 40, 70)
    layers = ours.train()(torch.zeros(2, 3, 40, 70))
    assert len(layers) == 4 and layers[-1].masks.shape == (2, 7, 16, 24)


def test_what_it_cannot_be_made_of_is_refused():
    with pytest.raises(UserError, match="multiple of 32"):
        Mask2Former(CLASSES, "resnet18", False, channels=40)
    with pytest.raises(UserError, match="strides 4, 8, 16 and 32"):
        Mask2Former(CLASSES, TimmBackbone("resnet18", False, output_stride=16))


@pytest.mark.slow
def test_it_is_exported_for_images_of_one_size(tmp_path):
    """Slow because translating deformable attention to ONNX takes long."""
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    torch.manual_seed(0)
    settings = {**SETTINGS, "decoder_layers": 1}
    network, size = Mask2Former(CLASSES, TimmBackbone("resnet10t", False), **settings).eval(), (64, 96)
    images = noise(size=size)
    _, checks = write(network, tmp_path / "m.onnx", "onnx", False, torch.uint8, {}, images, size=size)
    assert [one.shape for one in checks] == [(1, 3, 64, 96), (3, 3, 64, 96)]
    assert all(one.good and one.difference < 1e-4 * one.largest for one in checks)
