"""Losses of overlapping classes: independent references, and what void pixels may not change."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from lightning_seg.errors import UserError
from lightning_seg.training.losses import CompoundLoss, CrossEntropy
from lightning_seg.training.multi_label_losses import (
    BinaryCrossEntropy,
    BinaryDiceLoss,
    BinaryFocalLoss,
    multi_label,
)

LOSSES = {
    "cross-entropy": BinaryCrossEntropy(),
    "weighted": BinaryCrossEntropy([4.0, 1.0, 0.5]),
    "focal": BinaryFocalLoss(1.5),
    "dice": BinaryDiceLoss(),
    "compound": CompoundLoss([BinaryCrossEntropy(), BinaryDiceLoss()], [1.0, 0.5]),
    "torch": multi_label(nn.BCEWithLogitsLoss(reduction="none")),
}


def batch():
    torch.manual_seed(0)
    return torch.randn(2, 3, 5, 7), torch.randint(2, (2, 3, 5, 7), dtype=torch.uint8)


def test_without_void_they_are_those_of_libraries():
    logits, masks = batch()
    truth = masks.float()
    expected = F.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(LOSSES["cross-entropy"](logits, masks), expected)
    torch.testing.assert_close(LOSSES["torch"](logits, masks), expected)
    torch.testing.assert_close(
        LOSSES["focal"](logits, masks),
        sigmoid_focal_loss(logits, truth, alpha=-1, gamma=1.5, reduction="mean"),
    )
    weights = torch.tensor([4.0, 1.0, 0.5])[:, None, None]
    summed = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weights, reduction="sum")
    torch.testing.assert_close(
        LOSSES["weighted"](logits, masks), summed / torch.where(truth > 0, weights, 1.0).sum()
    )
    p = logits.sigmoid()
    soft = 1 - 2 * (p * truth).sum((0, 2, 3)) / (p + truth).sum((0, 2, 3))
    torch.testing.assert_close(LOSSES["dice"](logits, masks), soft.mean())


@pytest.mark.parametrize("name", LOSSES)
def test_void_of_a_class_changes_neither_value_nor_gradient(name):
    logits, masks = batch()
    masks[:, 1, 2:] = 255  # of one class only
    results = []
    for other in (0.0, 50.0, torch.nan, torch.inf):
        changed = logits.clone()
        changed[:, 1, 2:] = other
        changed.requires_grad_()
        loss = LOSSES[name](changed, masks)
        loss.backward()
        results.append((loss.detach(), changed.grad))
    for loss, gradient in results:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])
        assert gradient[:, 1, 2:].abs().sum() == 0 and gradient[:, 0, 2:].abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_nothing_but_void_costs_nothing(name):
    logits, masks = batch()
    loss = LOSSES[name](logits.requires_grad_(), torch.full_like(masks, 255))
    loss.backward()
    assert loss == 0 and logits.grad.abs().sum() == 0


def test_weights_from_the_data_balance_both_sides():
    loss = BinaryCrossEntropy("inverse")
    assert loss.set_counts(torch.tensor([6, 50, 0]), torch.tensor([1000, 100, 10])) == pytest.approx(
        [994 / 6, 1, 1]
    )
    root = BinaryCrossEntropy("inverse_sqrt").set_counts(torch.tensor([10]), torch.tensor([1000]))
    assert root == pytest.approx([99**0.5])


def test_losses_of_exclusive_classes_are_refused():
    for loss in (CrossEntropy(), nn.CrossEntropyLoss(), CompoundLoss([BinaryDiceLoss(), CrossEntropy()])):
        with pytest.raises(UserError, match="of which each pixel has one"):
            multi_label(loss)
    with pytest.raises(UserError, match="median_frequency"):
        BinaryCrossEntropy("median_frequency")


def test_a_loss_that_cannot_leave_out_pixels_is_refused_only_where_some_are_void():
    logits, masks = batch()
    loss = multi_label(nn.BCEWithLogitsLoss())
    assert loss(logits, masks) == pytest.approx(float(LOSSES["cross-entropy"](logits, masks)))
    masks[0, 0, 0, 0] = 255
    with pytest.raises(UserError, match="reduction: none"):
        loss(logits, masks)
