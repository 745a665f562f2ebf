"""EoMT against transformers' implementation, on copied weights."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.eomt import EoMT
from lightning_seg.networks.eomt_weights import load_published
from lightning_seg.training.mask_loss import MaskLoss, Targets

SIZE, CLASSES, QUERIES = 64, 5, 9
ARGS = {"depth": 4, "embed_dim": 32, "num_heads": 2, "img_size": SIZE, "patch_size": 16}


def network(name="vit_small_patch14_reg4_dinov2", blocks=2, **changes):
    args = {**ARGS, **changes}
    return EoMT(
        CLASSES,
        TimmBackbone(name, False, backbone_args=args, out_indices=1, norm=True),
        queries=QUERIES,
        blocks=blocks,
    )


@pytest.fixture(scope="module")
def pair():
    """transformers' EoMT with random weights, and ours with the same."""
    transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    torch.manual_seed(0)
    config = transformers.EomtConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=16,
        num_blocks=2,
        num_queries=QUERIES,
        num_labels=CLASSES,
        train_num_points=60,
    )
    theirs = transformers.EomtForUniversalSegmentation(config)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = network()
    said = load_published(ours, theirs.state_dict(), "transformers")
    assert said.startswith("EoMT ")
    return theirs, ours


def images():
    return torch.randint(256, (2, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def targets():
    """Segments of two images, of other numbers."""
    generator = torch.Generator().manual_seed(2)
    return [
        Targets(
            (torch.rand(n, SIZE, SIZE, generator=generator) > 0.6).float(),
            torch.randint(CLASSES, (n,), generator=generator),
        )
        for n in (3, 4)
    ]


@pytest.mark.parametrize("masked", [1.0, 0.0])
def test_outputs_are_those_of_transformers(pair, masked):
    theirs, ours = (model.eval() for model in pair)
    theirs.attn_mask_probs.fill_(masked)
    ours.attn_mask_probs.fill_(masked)
    ours.recall()
    with torch.no_grad():
        expected = theirs(ours.backbone.normalize(images()))
        masks, classes = ours.layers(ours.backbone.normalize(images()))[-1]
    assert masks.std() > 0.1
    torch.testing.assert_close(masks, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(classes, expected.class_queries_logits, atol=1e-4, rtol=1e-4)


def test_the_loss_of_all_layers_and_its_gradient_are_those_of_transformers(pair, monkeypatch):
    theirs, ours = (model.train() for model in pair)
    theirs.attn_mask_probs.fill_(1)
    ours.attn_mask_probs.fill_(1)
    ours.recall()
    truth = targets()
    monkeypatch.setattr(  # the same points for both, by their number
        torch,
        "rand",
        lambda *shape, device=None: torch.from_numpy(
            np.random.default_rng(sum(shape)).random(shape).astype(np.float32)
        ),
    )
    loss = sum(one.total for one in MaskLoss(points=60)(ours(images()), truth))
    expected = theirs(
        ours.backbone.normalize(images()),
        mask_labels=[one.masks for one in truth],
        class_labels=[one.classes for one in truth],
    ).loss
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(
        ours.queries_embedding.weight.grad, theirs.query.weight.grad, atol=1e-4, rtol=1e-3
    )


def test_the_authors_layout_loads_and_another_classifier_is_left_out():
    ours, other = network(), network()
    state = ours.state_dict()
    names = {
        "backbone.net.model.": "encoder.backbone.",
        "queries_embedding.": "q.",
        "head.classes.": "class_head.",
        "head.masks.": "mask_head.",
        "decoder.": "upscale.",
    }
    published = {}
    for key, value in state.items():
        for mine, name in names.items():
            key = name + key.removeprefix(mine) if key.startswith(mine) else key
        published[f"network.{key}"] = value
    published["network.encoder.pixel_mean"] = torch.zeros(1, 3, 1, 1)
    load_published(other, {"state_dict": published}, "file")
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    published["network.class_head.weight"] = torch.zeros(9, 32)
    published["network.class_head.bias"] = torch.zeros(9)
    assert "at random: the classifier" in load_published(other, published, "file")
    broken = {**published, "network.q.weight": torch.full_like(published["network.q.weight"], torch.nan)}
    with pytest.raises(UserError, match=r"hold NaN or infinity, the first being queries_embedding.weight"):
        load_published(other, broken, "file")
    del published["network.q.weight"]
    with pytest.raises(UserError, match=r"file does not hold .* queries_embedding.weight is missing"):
        load_published(other, published, "file")


def test_its_size_is_the_published_one():
    """316 M in table 1 of the paper, and to the last parameter that of transformers' EoMT-L for COCO panoptic."""
    transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    args = {"img_size": 640, "patch_size": 16}
    with torch.device("meta"):
        backbone = TimmBackbone(
            "vit_large_patch14_reg4_dinov2", False, backbone_args=args, out_indices=1, norm=True
        )
        ours = EoMT(133, backbone, queries=200)
        theirs = transformers.EomtForUniversalSegmentation(transformers.EomtConfig(num_labels=133))
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1] and counts[0] // 10**6 == 316


@pytest.mark.parametrize(
    ("steps", "starts", "ends"),
    [  # of the authors' settings for COCO panoptic: EoMT-L in 12 epochs, EoMT-S in 24
        (88692, (14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910)),
        (177384, (29564, 73910, 118256), (59128, 103474, 147820)),
    ],
)
def test_masking_ends_in_one_block_after_the_other_as_published(steps, starts, ends):
    ours = network(blocks=len(starts)) if len(starts) < 4 else network(blocks=4, depth=5)
    for step in (0, 20000, 30000, 45000, 60000, 100000, 120000):
        ours.anneal(step / steps)
        done = [min(1, max(0, (step - a) / (b - a))) for a, b in zip(starts, ends, strict=True)]
        np.testing.assert_allclose(ours.attn_mask_probs, (1 - np.array(done)) ** 0.9, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_network_is_compiled_anew_only_when_masking_ends_in_a_block():
    """Slow because torch traces the network three times."""
    ours, counter = network().train(), CompileCounter()
    ours.compile(backend=counter)
    for progress, times in ((0.0, 1), (0.2, 1), (0.25, 1), (0.34, 2), (0.75, 2), (1.0, 3)):
        ours.anneal(progress)
        ours(images())
        assert counter.frame_count == times


def test_it_is_exported_for_any_number_of_images_of_any_size():
    ours = network(blocks=1).eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)  # an error if one of them were fixed
    program = torch.export.export(ours, (images(),), dynamic_shapes=(free,)).module()
    others = torch.cat([images()[..., :40, :]] * 2)
    with torch.no_grad():
        torch.testing.assert_close(program(others), ours(others), rtol=1e-4, atol=1e-4)


def test_a_finished_network_masks_nothing():
    ours = network(blocks=3)
    assert len(ours.eval().layers(ours.backbone.normalize(images()))) == 4
    ours.anneal(1.0)
    again = network(blocks=3)
    again.load_state_dict(ours.state_dict())
    again.eval()
    assert (
        len(again.layers(again.backbone.normalize(images()))) == 1
    )  # none is masked, so none is predicted before


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "vit_tiny_patch16_224", "deit3_small_patch16_224"]
)
def test_images_of_any_size_are_answered_at_their_size(name):
    args = {"depth": 3, "embed_dim": 32, "num_heads": 2}
    ours = EoMT(
        CLASSES,
        TimmBackbone(name, False, backbone_args=args, out_indices=1, norm=True),
        queries=QUERIES,
        blocks=2,
    ).eval()
    with torch.no_grad():
        logits = ours(torch.zeros(1, 3, 40, 57))
    assert logits.shape == (1, CLASSES, 40, 57) and torch.isfinite(logits).all()
    assert ours.train()(torch.zeros(1, 3, 40, 57))[0].masks.shape == (1, QUERIES, 12, 16)


@pytest.mark.parametrize(
    ("backbone", "blocks", "message"),
    [
        (lambda: TimmBackbone("resnet18", False), 2, "plain vision transformers"),
        (lambda: TimmBackbone("vit_tiny_patch16_224", False, out_indices=1, norm=False), 2, "norm: true"),
        (lambda: TimmBackbone("vit_tiny_patch16_224", False, out_indices=1), 12, "blocks must be 1 to 11"),
        (lambda: TimmBackbone("samvit_base_patch16", False, out_indices=1), 2, "grid of patches"),
    ],
)
def test_what_cannot_have_queries_is_refused(backbone, blocks, message):
    with torch.device("meta"):
        made = backbone()
    with pytest.raises(UserError, match=message):
        EoMT(CLASSES, made, blocks=blocks)


def test_features_are_not_kept_and_that_is_said():
    ours = network()
    ours.cache_features(0)
    with pytest.raises(UserError, match="EoMT cannot keep features"):
        ours.cache_features(1)
