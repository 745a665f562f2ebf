"""Losses: ignored pixels change nothing, degenerate crops give a finite zero."""

import pytest
import torch
import torch.nn.functional as F

from lightning_seg.labels import IGNORE_INDEX
from lightning_seg.losses import CrossEntropy


@pytest.fixture(params=[{}, {"label_smoothing": 0.1}, {"class_weights": [1.0, 2.0, 0.5]}], ids=str)
def arguments(request):
    return request.param


@pytest.fixture
def batch():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, requires_grad=True)
    masks = torch.randint(3, (2, 6, 7), dtype=torch.uint8)
    masks[:, 2:4] = IGNORE_INDEX
    return logits, masks


def test_equals_torch(arguments, batch):
    logits, masks = batch
    weights = arguments.get("class_weights")
    expected = F.cross_entropy(
        logits,
        masks.long(),
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=IGNORE_INDEX,
        label_smoothing=arguments.get("label_smoothing", 0.0),
    )
    torch.testing.assert_close(CrossEntropy(**arguments)(logits, masks), expected)


def test_ignored_pixels_change_nothing(arguments, batch):
    logits, masks = batch
    loss = CrossEntropy(**arguments)
    value = loss(logits, masks)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[:, :, 2:4].eq(0).all() and gradient[:, :, :2].ne(0).any()
    changed = logits.detach().clone()
    changed[:, :, 2:4] = 100
    torch.testing.assert_close(loss(changed, masks), value)


def test_nothing_labelled_gives_zero_with_a_gradient(arguments, batch):
    logits, masks = batch
    value = CrossEntropy(**arguments)(logits, torch.full_like(masks, IGNORE_INDEX))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0 and gradient.eq(0).all()
