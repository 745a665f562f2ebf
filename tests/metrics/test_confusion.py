"""The confusion matrix and its scores against torchmetrics, scikit-learn and hand-made numbers."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.confusion import ConfusionMatrix, ImageCounts, confusion_counts, predicted_labels
from lightning_seg.metrics.scores import class_errors, class_iou, scores


def random_maps(num_classes=5, shape=(3, 17, 23), ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(num_classes, shape, generator=generator)
    targets = torch.randint(num_classes, shape, generator=generator)
    targets[torch.rand(shape, generator=generator) < ignored] = IGNORE_INDEX
    return predictions.byte(), targets.byte()


@pytest.mark.parametrize("num_classes", [1, 2, 5, 21, 150])
def test_counts_equal_scikit_learn(num_classes):
    predictions, targets = random_maps(num_classes)
    counted = targets != IGNORE_INDEX
    expected = sklearn.metrics.confusion_matrix(
        targets[counted], predictions[counted], labels=range(num_classes)
    )
    assert (confusion_counts(predictions, targets, num_classes).sum(0).numpy() == expected).all()


def test_counts_are_per_image():
    predictions, targets = random_maps()
    together = confusion_counts(predictions, targets, 5)
    alone = [confusion_counts(p[None], t[None], 5)[0] for p, t in zip(predictions, targets, strict=True)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_type_and_memory_layout(dtype):
    predictions, targets = random_maps()
    expected = confusion_counts(predictions, targets, 5)
    assert torch.equal(confusion_counts(predictions.to(dtype), targets.to(dtype), 5), expected)
    transposed = confusion_counts(predictions.mT, targets.mT.contiguous(), 5)
    assert torch.equal(transposed, expected)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_matrix_does_not_depend_on_batch_size(batch, num_classes, seed):
    predictions, targets = random_maps(num_classes, (7, 5, 6), seed=seed)
    whole, parts = ConfusionMatrix(num_classes), ConfusionMatrix(num_classes)
    whole.update(predictions, targets)
    for p, t in zip(predictions.split(batch), targets.split(batch), strict=True):
        parts.update(p, t)
    assert torch.equal(whole.compute(), parts.compute())
    assert whole.compute().sum() == (targets != IGNORE_INDEX).sum()


def test_scores_equal_torchmetrics():
    predictions, targets = random_maps()
    result = scores(confusion_counts(predictions, targets, 5).sum(0).numpy())
    setup = {"num_classes": 5, "ignore_index": IGNORE_INDEX}
    for ours, function in (
        (result.iou_per_class, reference.multiclass_jaccard_index),
        (result.dice_per_class, reference.multiclass_f1_score),
        (result.precision_per_class, reference.multiclass_precision),
        (result.recall_per_class, reference.multiclass_recall),
    ):
        np.testing.assert_allclose(ours, function(predictions, targets, average="none", **setup), rtol=1e-6)
    micro = reference.multiclass_accuracy(predictions, targets, average="micro", **setup)
    weighted = reference.multiclass_jaccard_index(predictions, targets, average="weighted", **setup)
    assert result.pixel_accuracy == pytest.approx(micro.item())
    assert result.fwiou == pytest.approx(weighted.item())


def test_scores_by_hand():
    result = scores(np.array([[3, 1], [2, 4]]))
    assert result.iou_per_class == pytest.approx([3 / 6, 4 / 7])
    assert result.dice_per_class == pytest.approx([6 / 9, 8 / 11])
    assert result.precision_per_class == pytest.approx([3 / 5, 4 / 5])
    assert result.recall_per_class == pytest.approx([3 / 4, 4 / 6])
    assert result.miou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert result.pixel_accuracy == pytest.approx(7 / 10)
    assert result.mean_accuracy == result.recall == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert result.fwiou == pytest.approx((4 * 3 / 6 + 6 * 4 / 7) / 10)


def test_absent_class_is_nan_and_left_out():
    """A class in neither truth nor prediction has no score; one that is only predicted scores 0."""
    matrix = np.array([[5, 0, 1], [0, 0, 0], [0, 0, 0]])
    result = scores(matrix)
    assert np.isnan(result.iou_per_class[1]) and result.iou_per_class[2] == 0
    assert result.miou == pytest.approx((5 / 6 + 0) / 2) and result.classes_present == 2
    assert np.isnan(result.recall_per_class[2]) and result.precision_per_class[2] == 0


def test_nothing_counted_gives_nan_without_a_warning(recwarn):
    result = scores(np.zeros((3, 3)))
    assert np.isnan([result.miou, result.dice, result.pixel_accuracy, result.fwiou]).all()
    assert result.classes_present == 0 and not recwarn.list


def test_image_counts():
    predictions, targets = random_maps(shape=(4, 9, 9))
    metric = ImageCounts(6, 5)
    metric.update(predictions[:3], targets[:3], torch.tensor([5, 0, 2]))
    metric.update(predictions[3:], targets[3:], torch.tensor([1]))
    counts = metric.compute().numpy()
    assert counts.shape == (6, 5, 3) and not counts[[3, 4]].any()
    matrix = confusion_counts(predictions, targets, 5).sum(0).numpy()
    assert (counts.sum(0)[:, 0] == np.diagonal(matrix)).all()
    assert (counts.sum(0)[:, 1] == matrix.sum(0)).all() and (counts.sum(0)[:, 2] == matrix.sum(1)).all()
    assert counts[5, 1, 0] == ((predictions[0] == 1) & (targets[0] == 1)).sum()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 2, 21, 300])
def test_predicted_labels_are_those_of_argmax_ties_included(classes, dtype, channels_last):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(-3, 4, (2, classes, 17, 9), generator=generator).to(dtype)  # many are equal
    expected = torch.from_numpy(logits.float().numpy().argmax(1))  # numpy takes the first
    layout = torch.channels_last if channels_last else torch.contiguous_format
    actual = predicted_labels(logits.contiguous(memory_format=layout))
    values = logits.gather(1, actual.long()[:, None])
    torch.testing.assert_close(values, logits.max(1, keepdim=True)[0], rtol=0, atol=0)
    if logits.is_contiguous() and not channels_last and classes <= 256:
        assert torch.equal(actual.long(), expected)
        assert actual.dtype == torch.uint8


def test_what_is_wrong_of_a_class_is_its_false_negatives_and_positives():
    counts = np.array([[3, 5, 4], [0, 2, 0], [0, 0, 0]])  # intersection, predicted, true
    negatives, positives = class_errors(counts)
    np.testing.assert_allclose(negatives, [1 / 6, 0, np.nan])
    np.testing.assert_allclose(positives, [2 / 6, 1, np.nan])
    np.testing.assert_allclose(class_iou(counts) + negatives + positives, [1, 1, np.nan])
