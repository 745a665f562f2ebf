"""Losses of other libraries: given what they want, equal to themselves on the counted pixels, or refused."""

import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F
from torch import nn

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.experiment.class_paths import expand_arguments, expand_settings
from lightning_seg.training.any_loss import AnyLoss, adapted
from lightning_seg.training.losses import CompoundLoss, CrossEntropy, DiceLoss

C = 5


class Polynomial(nn.Module):
    """As papers publish them: it knows the void label by itself and returns a number."""

    def forward(self, logits, masks):
        cost = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")
        right = logits.softmax(1).gather(1, masks.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
        return (cost + (1 - right) * (masks != 255)).sum() / (masks != 255).sum()


def batch(void=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(C, (3, 20, 22), generator=generator, dtype=torch.uint8)
    if void:
        masks[torch.rand(masks.shape, generator=generator) < 0.3] = IGNORE_INDEX
    return torch.randn(3, C, 20, 22, generator=generator, requires_grad=True), masks


IGNORING = {
    "torch": nn.CrossEntropyLoss(ignore_index=255),
    "torch, its own number": nn.CrossEntropyLoss(),
    "torch, smoothed": nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=255),
    "torch, each pixel": nn.BCEWithLogitsLoss(reduction="none"),
    "squares, each pixel": nn.MSELoss(reduction="none"),
    "smp dice": smp.DiceLoss("multiclass", ignore_index=255),
    "smp jaccard, a map a class": smp.JaccardLoss("multilabel", ignore_index=255),
    "smp lovasz": smp.LovaszLoss("multiclass", ignore_index=255),
    "smp focal": smp.FocalLoss("multiclass", ignore_index=255),
    "smp tversky": smp.TverskyLoss("multiclass", ignore_index=255),
    "smp bce": smp.SoftBCEWithLogitsLoss(ignore_index=255),
    "monai masked": monai.losses.MaskedDiceLoss(to_onehot_y=True, softmax=True),
    "monai focal, each pixel": monai.losses.FocalLoss(to_onehot_y=True, reduction="none"),
    "somebody's own": Polynomial(),
}
FORMS = {
    "torch": "class numbers (B, H, W)",
    "torch, each pixel": "one map a class (B, C, H, W)",
    "smp dice": "class numbers (B, H, W)",
    "smp bce": "one map a class (B, C, H, W)",
    "monai masked": "class numbers (B, 1, H, W)",
    "somebody's own": "class numbers (B, H, W)",
}


@pytest.mark.parametrize("name", IGNORING)
def test_what_stands_under_ignored_pixels_changes_nothing(name):
    loss = AnyLoss(IGNORING[name], C)
    assert loss.ignores and loss.form == FORMS.get(name, loss.form)
    assert loss.counts_ignored == ("count in its mean" in loss.describe()) == (name == "smp bce")
    logits, masks = batch()
    value = loss(logits, masks)
    (gradient,) = torch.autograd.grad(value, logits)
    void = (masks == IGNORE_INDEX)[:, None].expand_as(gradient)
    assert value.dtype == torch.float32 and value.ndim == 0 and torch.isfinite(value)
    assert not gradient[void].any() and gradient[~void].any()
    for other in (7.0, float("nan"), float("inf")):
        changed = torch.where(void, other, logits.detach()).requires_grad_()
        again = loss(changed, masks)
        torch.testing.assert_close(again, value)
        torch.testing.assert_close(torch.autograd.grad(again, changed)[0], gradient)


@pytest.mark.parametrize(
    ("loss", "direct"),
    [
        (nn.CrossEntropyLoss(), lambda x, y: F.cross_entropy(x, y.long())),
        (smp.DiceLoss("multiclass"), lambda x, y: smp.DiceLoss("multiclass")(x, y.long())),
        (
            monai.losses.DiceCELoss(to_onehot_y=True, softmax=True),
            lambda x, y: monai.losses.DiceCELoss(to_onehot_y=True, softmax=True)(x, y.long()[:, None]),
        ),
        (nn.BCEWithLogitsLoss(), lambda x, y: F.binary_cross_entropy_with_logits(x, one_hot(y))),
        (
            nn.BCEWithLogitsLoss(reduction="none"),
            lambda x, y: F.binary_cross_entropy_with_logits(x, one_hot(y)),
        ),
    ],
)
def test_without_ignored_pixels_the_value_is_the_librarys(loss, direct):
    logits, masks = batch(void=False)
    torch.testing.assert_close(
        AnyLoss(loss, C)(logits.bfloat16(), masks), direct(logits.bfloat16().float(), masks)
    )


def one_hot(masks):
    return F.one_hot(masks.long(), C).movedim(-1, 1).float()


def test_cross_entropy_of_torch_is_ours():
    logits, masks = batch()
    for ignore in (255, -100):
        loss = AnyLoss(nn.CrossEntropyLoss(ignore_index=ignore), C)
        torch.testing.assert_close(loss(logits, masks), CrossEntropy()(logits, masks))


@pytest.mark.parametrize(
    "loss", [nn.BCEWithLogitsLoss(), monai.losses.DiceLoss(to_onehot_y=True, softmax=True)]
)
def test_a_loss_that_cannot_ignore_says_so_and_stops_at_the_first_ignored_pixel(loss):
    adapter = AnyLoss(loss, C)
    assert not adapter.ignores and "may have no ignored pixels" in adapter.describe()
    adapter(*batch(void=False))
    with pytest.raises(UserError, match=f"{type(loss).__name__} cannot ignore pixels.*ignore_index"):
        adapter(*batch())


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (nn.NLLLoss(), "log-probabilities"),
        (nn.SoftMarginLoss(), "right logits do not cost less"),
        (nn.TripletMarginLoss(), "missing 1 required positional argument"),
        (nn.Linear(3, 3), "works with masks in no form"),
    ],
)
def test_what_is_no_loss_for_logits_and_masks_is_refused_with_reasons(loss, says):
    with pytest.raises(UserError, match=says):
        AnyLoss(loss, C)


def test_trying_a_loss_changes_neither_it_nor_the_random_numbers():
    class Counting(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, logits, masks):
            self.calls += 1
            return super().forward(logits, masks)

    loss, before = Counting(), torch.get_rng_state()
    AnyLoss(loss, C)
    assert loss.calls == 0 and torch.equal(before, torch.get_rng_state())


def test_our_losses_stay_as_they_are_and_sums_adapt_their_parts():
    ours = CrossEntropy()
    assert adapted(ours, C) is ours
    both = adapted(CompoundLoss([DiceLoss(), nn.CrossEntropyLoss()], [1.0, 0.5]), C)
    logits, masks = batch()
    torch.testing.assert_close(both(logits, masks), DiceLoss()(logits, masks) + 0.5 * ours(logits, masks))


def test_ignore_index_is_stated_where_a_class_has_the_argument():
    full = {"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"ignore_index": 255}}
    assert expand_settings({"model": {"loss": "CrossEntropyLoss"}}) == {"model": {"loss": full}}
    given = {
        "class_path": "torch.nn.CrossEntropyLoss",
        "init_args": {"ignore_index": 7, "label_smoothing": 0.1},
    }
    assert expand_settings(given, "model.loss") == given
    (argument,) = expand_arguments(["--model.loss=CrossEntropyLoss"])
    assert argument == "--model.loss={class_path: torch.nn.CrossEntropyLoss, init_args: {ignore_index: 255}}"
    assert expand_settings("DiceLoss", "model.loss") == "lightning_seg.training.losses.DiceLoss"
