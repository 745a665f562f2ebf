"""Mask R-CNN against torchvision's, and what it promises for any backbone and any objects."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.mask_rcnn import MaskRCNN as TorchvisionMaskRCNN
from torchvision.ops import FrozenBatchNorm2d, box_iou

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.plain import PlainBackbone
from lightning_seg.networks.detection.anchors import Anchors, DataAnchors
from lightning_seg.networks.detection.mask_rcnn import COCO_NUMBERS, MaskRCNN
from lightning_seg.networks.detection.mask_rcnn_c4 import MaskRCNNC4
from lightning_seg.training.finetune.policies import Frozen, FrozenStages, Full

SMALL = {"weights": False, "channels": 16, "hidden": 16, "samples": 32, "proposals": (50, 50)}


def small(backbone="test_resnet", **options):
    torch.manual_seed(0)
    return MaskRCNN(3, backbone, **{**SMALL, **options})


def images(*size):
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def truth(height, width, *boxes):
    """Objects with the given boxes; their masks fill the left half of the box."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1 : (x1 + x2) // 2] = 1
    labels = torch.arange(len(boxes)) % 2 + 1
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4), "labels": labels, "masks": masks}


def stir(network):
    """Make the outputs of a random network differ from place to place, so that there is something to compare."""
    for name, parameter in network.named_parameters():
        if any(layer in name for layer in ("cls_score", "bbox_pred", "cls_logits")):
            nn.init.normal_(parameter, std=0.05)


@pytest.mark.parametrize(("build", "v2"), [(maskrcnn_resnet50_fpn, False), (maskrcnn_resnet50_fpn_v2, True)])
def test_is_torchvisions_network(build, v2, tmp_path):
    """Every tensor of torchvision's file has its place, and the same image gives the same objects.

    Pixels are normalised by one multiplication and addition here, by two divisions there. That rounds differently, and
    random weights make 0.02 pixels of it (tolerance: 0.1); given torchvision's rounding, all is equal to 1e-4.
    """
    torch.manual_seed(0)
    theirs = build(weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=100).eval()
    stir(theirs)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = MaskRCNN(
        4, "resnet50", detector_weights=str(tmp_path / "weights.pth"), v2_heads=v2, min_size=64, max_size=100
    ).eval()
    ours.load_weights()
    assert len(ours.state_dict()) == len(theirs.state_dict())
    total = [sum(t.double().sum() for t in network.state_dict().values()) for network in (theirs, ours)]
    torch.testing.assert_close(*total)
    image = images(1, 3, 75, 130)
    with torch.inference_mode():
        (expected,), (found,) = theirs([image[0] / 255]), ours(image)
        ours.backbone.normalize = lambda x: theirs.transform.normalize(x[0] / 255)[None]
        (same,) = ours(image)
    expected["masks"] = expected["masks"][:, 0]
    assert len(expected["boxes"]) > 10
    for key, value in expected.items():
        torch.testing.assert_close(same[key], value, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["boxes"], expected["boxes"], atol=0.1, rtol=0)
    torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-3, rtol=0)
    assert (found["masks"] - expected["masks"]).abs().mean() < 1e-3 < found["masks"].mean()


def resnet18_of_torchvision(num_classes):
    """As torchvision publishes them: frozen BatchNorm that adds nothing to the variance."""
    torch.manual_seed(0)
    norm = partial(FrozenBatchNorm2d, eps=0.0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm)
    for module in body.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(1e-5, 2)  # some so small that what is added to them matters
            module.weight.mul_(module.running_var.sqrt())
    network = TorchvisionMaskRCNN(body, num_classes, min_size=64, max_size=100).eval()
    stir(network)
    return network


def test_weights_of_torchvisions_frozen_batch_norm():
    theirs = resnet18_of_torchvision(3)
    ours = MaskRCNN(3, "resnet18", weights=False, min_size=64, max_size=100).eval()
    ours.set_detector_weights(theirs.state_dict())
    image = images(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs.backbone(theirs.transform([image[0] / 255])[0].tensors)
        found = ours.decode(ours.backbone(ours.backbone.normalize(image)))
    for theirs_level, our_level in zip(expected.values(), found.values(), strict=True):
        torch.testing.assert_close(our_level, theirs_level, rtol=1e-3, atol=1e-3)


def test_of_91_coco_numbers_80_are_classes():
    theirs = resnet18_of_torchvision(91)
    state = theirs.state_dict()
    ours = MaskRCNN(81, "resnet18", weights=False)
    assert "without" not in ours.set_detector_weights(state)
    heads = ours.head.roi_heads
    label, number = 80, 90  # toothbrush
    assert COCO_NUMBERS[label] == number and len(COCO_NUMBERS) == 81
    assert torch.equal(
        heads.box_predictor.cls_score.weight[label], state["roi_heads.box_predictor.cls_score.weight"][number]
    )
    boxes = state["roi_heads.box_predictor.bbox_pred.bias"].view(91, 4)
    assert torch.equal(heads.box_predictor.bbox_pred.bias.view(81, 4)[label], boxes[number])
    masks = state["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    assert torch.equal(heads.mask_predictor.mask_fcn_logits.weight[label], masks[number])
    other = MaskRCNN(3, "resnet18", weights=False)
    before = other.head.roi_heads.box_predictor.cls_score.weight.clone()
    assert "without its last layers: they are for 91 classes instead of 3" in other.set_detector_weights(
        state
    )
    assert torch.equal(other.head.roi_heads.box_predictor.cls_score.weight, before)
    assert torch.equal(other.head.roi_heads.box_head.fc6.weight, state["roi_heads.box_head.fc6.weight"])


def test_weights_of_another_network_are_refused():
    with pytest.raises(UserError, match="not those of torchvision's Mask R-CNN"):
        small().set_detector_weights({"roi_heads.box_predictor.cls_score.bias": torch.zeros(3)})
    with pytest.raises(UserError, match="not those of torchvision's Mask R-CNN"):
        small().set_detector_weights({"fc.weight": torch.zeros(3)})


BACKBONES = ["test_resnet", "vgg11", "tf_efficientnet_lite0", "test_convnext"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_trains_on_any_pyramid_and_images_of_any_size(backbone):
    network = small(backbone).train()
    targets = [truth(50, 71, (10, 10, 40, 40), (30, 5, 60, 49)), truth(50, 71)]
    losses = network(images(2, 3, 50, 71), targets)
    assert set(losses) == {
        "loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"
    }  # fmt: skip
    sum(losses.values()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    network.eval()
    with torch.inference_mode():
        (found,) = network(images(1, 3, 33, 90))
    count = len(found["scores"])
    assert found["boxes"].shape == (count, 4) and found["masks"].shape == (count, 33, 90)
    assert (found["scores"].diff() <= 0).all()


@pytest.mark.parametrize("v2_heads", [False, True])
def test_a_batch_of_empty_images_trains(v2_heads):
    network = small(v2_heads=v2_heads).train()
    losses = network(images(2, 3, 48, 48), [truth(48, 48), truth(48, 48)])
    sum(losses.values()).backward()
    assert losses["loss_mask"] == 0 and losses["loss_box_reg"] == 0 and losses["loss_classifier"] > 0
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def test_learns_one_image():
    options = {"anchors": Anchors((8, 16, 32, 64, 128)), "channels": 32, "hidden": 32, "samples": 64}
    network, policy = small(**options).train(), Full(batch_norm="eval")
    policy.set_mode(network)
    image, target = images(1, 3, 64, 64) // 4, truth(64, 64, (8, 8, 32, 40))
    image[:, :, 8:40, 8:32] += 150
    image[:, 0, 8:40, 8:20] += 40
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.PolynomialLR(optimizer, 100)
    for _ in range(100):
        optimizer.zero_grad()
        loss = sum(network(image, [target]).values())
        loss.backward()
        optimizer.step()
        decay.step()
    network.eval()
    with torch.inference_mode():
        (found,) = network(image)
    assert found["scores"][0] > 0.5 and found["labels"][0] == 1
    assert box_iou(found["boxes"][:1], target["boxes"]) > 0.7
    mask, true = found["masks"][0] > 0.5, target["masks"][0] > 0
    assert (mask & true).sum() / (mask | true).sum() > 0.6


def test_the_first_image_decides_nothing():
    """torchvision guesses the strides from the first image; a small one, mostly padding, misleads it."""
    first, second = small().eval(), small().eval()
    stir(first)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        first(images(1, 3, 40, 40))  # its map of stride 4 is 16x16
        (a,), (b,) = first(images(1, 3, 64, 64)), second(images(1, 3, 64, 64))
    assert len(a["boxes"]) and all(torch.equal(a[key], b[key]) for key in a)


def test_coordinates_are_as_fine_in_bfloat16():
    network = small().eval()
    stir(network)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (found,) = network(images(1, 3, 64, 600))
    assert found["boxes"].dtype == torch.float32
    far = found["boxes"][found["boxes"][:, 0] > 300]
    assert len(far) and (far % 2 != 0).float().mean() > 0.5  # bfloat16 knows no odd numbers beyond 256


def test_small_side_and_its_limit():
    network = small(min_size=64, max_size=96)
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[-2:])))
    with torch.inference_mode():
        network.eval()(images(1, 3, 30, 40))
        network.eval()(images(1, 3, 40, 80))
    network.train()(images(2, 3, 30, 40), [truth(30, 40), truth(30, 40)])
    assert seen == [
        (64, 96),
        (64, 96),
        (32, 64),
    ]  # 64x85 and 48x96, padded to multiples of 32; training as it comes


@pytest.mark.parametrize("policy", [Frozen(), FrozenStages(2, batch_norm="frozen"), Full(batch_norm="eval")])
@pytest.mark.parametrize("build", [MaskRCNN, MaskRCNNC4])
def test_frozen_parts_stay_as_they_are(policy, build):
    torch.manual_seed(0)
    options = SMALL if build is MaskRCNN else {"weights": False, "samples": 32, "proposals": (50, 50)}
    network = build(3, "test_resnet", **options)
    policy.apply(network)
    network.train()
    policy.set_mode(network)
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(policy.parameter_groups(network), 0.01)
    target = truth(64, 64, (10, 10, 40, 40))
    sum(network(images(1, 3, 64, 64), [target]).values()).backward()
    optimizer.step()
    changed = {
        key for key, value in network.backbone.state_dict().items() if not torch.equal(value, before[key])
    }
    statistics = {key for key in before if "running" in key or "num_batches" in key}
    assert not changed & statistics
    frozen = {id(p) for p in network.parameters() if not p.requires_grad}
    assert {k for k, p in network.backbone.named_parameters() if id(p) in frozen}.isdisjoint(changed)
    assert bool(changed) == (not isinstance(policy, Frozen))


def test_c4_has_no_parameter_twice_and_its_last_stage_learns_from_boxes():
    network = MaskRCNNC4(3, "test_resnet", weights=False, samples=32, proposals=(50, 50)).train()
    tensors = [value.data_ptr() for value in network.state_dict().values() if value.ndim]
    assert len(tensors) == len(set(tensors))
    losses = network(images(2, 3, 50, 71), [truth(50, 71, (10, 10, 40, 40)), truth(50, 71)])
    (losses["loss_classifier"] + losses["loss_mask"]).backward()
    assert all(p.grad is not None for p in network.backbone.stages()[-1][1].parameters())
    stir(network)
    with torch.inference_mode():
        (found,) = network.eval()(images(1, 3, 50, 71))
    assert len(found["boxes"]) and found["masks"].shape[1:] == (50, 71)


def best_iou(anchors, boxes):
    """Overlap of every box with the best anchor at its centre."""
    sizes = anchors.cells.flatten(0, 1)
    centred = boxes - (boxes[:, :2] + boxes[:, 2:]).repeat(1, 2) / 2
    return box_iou(centred, sizes).amax(1).mean()


def test_anchors_of_the_data_fit_it_better_and_are_in_the_checkpoint():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 100
    width = 10 + torch.rand(200, 1, generator=generator) * 30
    boxes = torch.cat([corner, corner + torch.cat([width, 2.6 * width], 1)], 1)  # upright, as persons are
    network = small(anchors=DataAnchors())
    before = best_iou(network.anchors, boxes)
    sizes, shapes = network.anchors.fit(boxes)
    assert best_iou(network.anchors, boxes) > before + 0.05
    assert shapes == pytest.approx([2.6] * 3, rel=1e-4)
    assert sizes[:2] == pytest.approx([27, 50], abs=8) and sizes[2:] == [128, 256, 512]
    other = small(anchors=DataAnchors())
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.anchors.cells, network.anchors.cells)
    assert not any("anchor" in key for key in small().state_dict())
    assert network.anchors.fit(torch.zeros(0, 4)) == ([32, 64, 128, 256, 512], [0.5, 1, 2])


def test_a_backbone_without_the_maps_is_refused():
    with pytest.raises(UserError, match="stride 4"):
        MaskRCNN(3, PlainBackbone([torch.nn.Conv2d(3, 8, 1)], [8], torch.nn.MaxPool2d))
