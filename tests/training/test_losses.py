"""Losses: what holds for each of them on any batch, and their values against other implementations."""

import math

import lightning as L
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.class_frequencies import balanced_weights, class_frequencies
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.errors import UserError
from lightning_seg.networks.pspnet import PSPNet
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.losses import (
    CompoundLoss,
    CrossEntropy,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    OHEMCrossEntropy,
    TverskyLoss,
)

WEIGHTS = [1.0, 2.0, 0.5]
LOSSES = {
    "cross_entropy": CrossEntropy(),
    "smoothed": CrossEntropy(label_smoothing=0.1),
    "weighted": CrossEntropy(class_weights=WEIGHTS),
    "focal": FocalLoss(),
    "focal_root": FocalLoss(gamma=0.5, class_weights=WEIGHTS),
    "ohem": OHEMCrossEntropy(),
    "ohem_few": OHEMCrossEntropy(threshold=0.1, keep=0.25, class_weights=WEIGHTS),
    "tversky": TverskyLoss(),
    "dice": DiceLoss(),
    "jaccard": JaccardLoss(),
    "lovasz": LovaszLoss(),
    "sum": CompoundLoss([CrossEntropy(), DiceLoss(), LovaszLoss()], [1.0, 0.5, 2.0]),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@st.composite
def batches(draw, labels=(0, 1, 2, IGNORE_INDEX)):
    """Logits of three classes, mild to extreme, and masks of some of the labels."""
    size = draw(st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 1.0, 10.0, 1000.0]))
    logits = scale * torch.randn(size[0], 3, *size[1:], generator=generator)
    some = torch.tensor(draw(st.lists(st.sampled_from(labels), min_size=1, unique=True)), dtype=torch.uint8)
    masks = some[torch.randint(len(some), size, generator=generator)]
    return logits.requires_grad_(), masks


def value_and_gradient(loss, logits, masks):
    value = loss(logits, masks)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@every_loss
@settings(max_examples=25, deadline=None)
@given(batch=batches())
def test_ignored_pixels_and_absent_classes(loss, batch):
    logits, masks = batch
    ignored = (masks == IGNORE_INDEX)[:, None].expand_as(logits)
    value, gradient = value_and_gradient(loss, logits, masks)
    assert value >= 0 and value.isfinite() and value.dtype == torch.float32
    assert gradient.isfinite().all() and gradient[ignored].eq(0).all()

    for broken in (math.nan, math.inf, -math.inf):
        found = value_and_gradient(loss, torch.where(ignored, broken, logits).requires_grad_(), masks)
        assert all(map(torch.equal, found, (value, gradient)))
    one = torch.zeros_like(ignored).index_fill_(1, torch.tensor(0), True) & ignored  # of one class only
    found = value_and_gradient(loss, torch.where(one, math.inf, logits).requires_grad_(), masks)
    assert all(map(torch.equal, found, (value, gradient)))

    noise = torch.where(ignored, 1e4 * torch.randn_like(logits), logits)
    other_value, other_gradient = value_and_gradient(loss, noise, masks)
    assert torch.equal(value, other_value) and torch.equal(gradient, other_gradient)

    nothing = torch.full_like(masks, IGNORE_INDEX)
    value, gradient = value_and_gradient(loss, logits, nothing)
    assert value == 0 and gradient.eq(0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ohem", "tversky", "dice", "jaccard", "lovasz"])
@settings(max_examples=10, deadline=None)
@given(batch=batches())
def test_a_class_that_never_occurs_changes_nothing(name, batch):
    loss = LOSSES[name]
    logits, masks = batch
    more = torch.cat([logits, torch.full_like(logits[:, :1], -1e4)], dim=1)
    torch.testing.assert_close(loss(more, masks), loss(logits, masks))


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"smoothed"}))
@settings(max_examples=5, deadline=None)
@given(masks=batches(labels=(0, 1, 2)).map(lambda batch: batch[1]))
def test_the_truth_itself_has_no_loss(name, masks):
    truth = 100 * F.one_hot(masks.long(), 3).permute(0, 3, 1, 2).float()
    assert 0 <= LOSSES[name](truth, masks) < 1e-5


@every_loss
def test_half_precision(loss):
    """Under autocast, and for bfloat16 logits, the loss is that of the same numbers in float32."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 3, 1)
    images, masks = torch.randn(2, 3, 32, 32), torch.randint(3, (2, 32, 32), dtype=torch.uint8)
    masks[:, :5] = IGNORE_INDEX
    with torch.autocast("cpu", torch.bfloat16):
        logits = conv(images)
        value = loss(logits, masks)
    assert logits.dtype == torch.bfloat16 and value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), masks))
    value.backward()
    assert conv.weight.grad.isfinite().all() and conv.weight.grad.ne(0).all()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 7)
    masks = torch.randint(3, (2, 6, 7), dtype=torch.uint8)
    masks[:, 2:4] = IGNORE_INDEX
    return logits, masks


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_equals_torch(smoothing, weights, batch):
    logits, masks = batch
    tensor = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(
        logits, masks.long(), weight=tensor, ignore_index=IGNORE_INDEX, label_smoothing=smoothing
    )
    torch.testing.assert_close(CrossEntropy(smoothing, weights)(logits, masks), expected)


def test_focal_equals_torchvision(batch):
    """Two classes with logits 0 and z are the sigmoid of z."""
    logits, masks = batch
    z, masks = logits[:, :1], masks.clamp(max=1)
    expected = sigmoid_focal_loss(z[:, 0], masks.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(FocalLoss()(torch.cat([torch.zeros_like(z), z], 1), masks), expected)


def test_focal_without_focus_is_cross_entropy(batch):
    torch.testing.assert_close(FocalLoss(0, WEIGHTS)(*batch), CrossEntropy(0, WEIGHTS)(*batch))


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        (DiceLoss(), smp.losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX)),
        (JaccardLoss(), smp.losses.JaccardLoss("multiclass", ignore_index=IGNORE_INDEX)),
        (TverskyLoss(0.3, 0.7), smp.losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, ignore_index=255)),
        (LovaszLoss(), smp.losses.LovaszLoss("multiclass", ignore_index=IGNORE_INDEX)),
    ],
    ids=["dice", "jaccard", "tversky", "lovasz"],
)
def test_region_losses_equal_smp_where_all_classes_occur(loss, theirs, batch):
    logits, masks = batch
    logits.requires_grad_()
    value, gradient = value_and_gradient(loss, logits, masks)
    expected, expected_gradient = value_and_gradient(theirs, logits, masks.long())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize(
    ("loss", "score"), [(DiceLoss(), f1_score), (JaccardLoss(), jaccard_score), (LovaszLoss(), jaccard_score)]
)
def test_hard_predictions_score_like_the_metric(loss, score, batch):
    """Where the network is sure, right or wrong, a region loss is one minus the metric of its name."""
    masks = batch[1].where(batch[1] != 2, 0)  # class 2 is predicted, but never true
    predictions = batch[0].argmax(1)
    sure = 1000 * F.one_hot(predictions, 3).permute(0, 3, 1, 2).float()
    counted = masks != IGNORE_INDEX
    metric = score(masks[counted], predictions[counted], labels=[0, 1], average="macro")
    assert loss(sure, masks).item() == pytest.approx(1 - metric, rel=1e-5)


@pytest.mark.parametrize(("threshold", "keep"), [(0.7, 0.1), (0.05, 0.5), (0.05, 0.9), (1.0, 0.0)])
def test_ohem_averages_the_hardest(threshold, keep, batch):
    logits, masks = batch
    losses = F.cross_entropy(logits, masks.long(), reduction="none", ignore_index=IGNORE_INDEX)
    hardest = np.sort(losses[masks != IGNORE_INDEX].numpy())[::-1]
    count = max((hardest > -math.log(threshold)).sum(), round(keep * masks.numel()))
    expected = hardest[:count].mean()
    assert OHEMCrossEntropy(threshold, keep)(logits, masks).item() == pytest.approx(expected, rel=1e-5)


def test_sum(batch):
    total = CompoundLoss([CrossEntropy(), DiceLoss()], [2.0, 0.5])(*batch)
    torch.testing.assert_close(total, 2 * CrossEntropy()(*batch) + 0.5 * DiceLoss()(*batch))
    with pytest.raises(UserError, match="one weight for each"):
        CompoundLoss([CrossEntropy(), DiceLoss()], [1.0])


def test_balanced_weights_by_hand():
    pixels, around = np.array([60, 30, 0, 10]), np.array([100, 50, 0, 50])
    labels = np.repeat(np.arange(4), pixels)
    inverse = balanced_weights("inverse", pixels, around)
    balanced = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(inverse, [balanced[0], balanced[1], 1, balanced[2]])
    root = balanced_weights("inverse_sqrt", pixels, around)
    assert root[3] / root[0] == pytest.approx(6**0.5)
    assert root[labels].mean() == pytest.approx(1) == pytest.approx(inverse[labels].mean())
    # the frequencies are 0.6, 0.6 and 0.2
    np.testing.assert_allclose(balanced_weights("median_frequency", pixels, around), [1, 1, 1, 3])


def shapes(**arguments):
    return Shapes(
        batch_size=2, crop_size=(32, 32), image_size=(32, 40), train_images=4, val_images=2, test_images=2,
        num_workers=0, **arguments,
    )  # fmt: skip


def test_frequencies_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = shapes()
    pixels, around = class_frequencies(data)
    masks = [data.read(sample)[1] for sample in data.samples("train")]
    assert pixels.tolist() == [sum(int((mask == c).sum()) for mask in masks) for c in range(6)]
    assert around.tolist() == [sum(mask.size for mask in masks if (mask == c).any()) for c in range(6)]

    monkeypatch.setattr(data, "read", None)  # a second look would fail
    np.testing.assert_array_equal(class_frequencies(data), [pixels, around])
    data.class_names = (*data.class_names[:-1], "another")
    with pytest.raises(TypeError):
        class_frequencies(data)


def test_camvid_has_the_published_median_frequency_weights(real_data):
    """SegNet's published weights; those of the classes whose labels it changed later differ by up to a fifth."""
    from lightning_seg.data.io import read_mask

    lines = (real_data / "CamVid/train.txt").read_text().split()[1::2]
    masks = [read_mask(real_data / "CamVid" / "/".join(line.split("/")[-2:])) for line in lines]
    counts = np.array([np.bincount(mask.ravel(), minlength=12) for mask in masks])
    around = (counts.sum(1, keepdims=True) * (counts > 0)).sum(0)
    weights = balanced_weights("median_frequency", counts.sum(0), around)
    assert weights[11] == pytest.approx(1.0974, abs=5e-5)
    assert weights[[0, 1, 3, 4, 5]] == pytest.approx([0.2595, 0.1826, 0.1417, 0.9051, 0.3826], rel=0.05)


def make_model(data):
    network = PSPNet(6, "test_resnet", weights=False, output_stride=16, decoder_channels=16, auxiliary=True)
    loss = CompoundLoss([CrossEntropy(class_weights="inverse_sqrt"), DiceLoss()])
    return SemanticSegmentation(network, torch.optim.SGD, data.class_names, loss)


def test_class_weights_come_from_the_data_and_stay_with_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    quiet |= {"enable_checkpointing": False, "enable_model_summary": False}
    data = shapes()
    model = make_model(data)
    trainer = L.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, **quiet)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    weights = model.loss.losses[0].class_weights
    expected = balanced_weights("inverse_sqrt", *class_frequencies(data))
    torch.testing.assert_close(weights, torch.tensor(expected).float())

    monkeypatch.setattr("lightning_seg.tasks.semantic.class_frequencies", None)  # testing must not count
    again = make_model(data)
    arguments = {"ckpt_path": tmp_path / "model.ckpt", "verbose": False, "weights_only": True}
    L.Trainer(**quiet).test(again, shapes(), **arguments)
    torch.testing.assert_close(again.loss.losses[0].class_weights, weights)


def test_the_auxiliary_head_adds_its_share():
    data = shapes()
    model = make_model(data)
    model.loss = CompoundLoss([CrossEntropy(), DiceLoss()])
    batch = next(iter(data.train_dataloader()))
    model.network.decoder.eval()  # dropout would differ from call to call
    model.network.auxiliary.eval()
    model.log = lambda *args, **kwargs: None
    parts = [model.loss(logits, batch["mask"]) for logits in model.network(batch["image"])]
    for weight in (0.4, 2.0):
        model.auxiliary_weight = weight
        torch.testing.assert_close(model.training_step(batch, 0), parts[0] + weight * parts[1])


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(UserError, match="label_smoothing"):
        CrossEntropy(label_smoothing=smoothing)
