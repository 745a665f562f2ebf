"""Scores by image and by object, and of probabilities, against torchmetrics, scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import mean_absolute_error
from torchmetrics.functional.detection import panoptic_quality

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.objects import (
    BySize,
    ObjectCounts,
    PanopticQuality,
    PerImage,
    count_objects,
    panoptic_counts,
)
from lightning_seg.metrics.probability import MeanAbsoluteError

EIGHT = np.ones((3, 3))


def scene(rng, classes=3, size=(24, 31), void=True):
    """Draw a truth of blobs with void, and a prediction that is like it here and there."""
    noise = ndimage.gaussian_filter(rng.normal(size=(classes, *size)), (0, 2, 2))
    other = ndimage.gaussian_filter(rng.normal(size=(classes, *size)), (0, 2, 2))
    truth, labels = noise.argmax(0).astype(np.uint8), (noise + 0.5 * other).argmax(0).astype(np.uint8)
    if void:
        truth[3:9, 5:20] = IGNORE_INDEX
    return labels, truth


def numbered(labels, classes=3):
    """Number the connected components of all classes, by scipy."""
    found, last = np.zeros(labels.shape, np.int64), 0
    for c in range(classes):
        regions, count = ndimage.label(labels == c, EIGHT)
        found[labels == c] = regions[labels == c] + last
        last += count
    return found


def test_panoptic_quality_equals_torchmetrics():
    # torchmetrics leaves a prediction of no class out of the IoU, which the paper does not; here there is none.
    rng = np.random.default_rng(0)
    for stuff in ((), (0, 2)):
        metric = PanopticQuality(stuff)
        rows, predictions, targets = [], [], []
        for _ in range(12):
            labels, truth = scene(rng)
            rows.append(metric.measure(labels, truth, 3))
            predictions.append(np.stack([labels, numbered(labels)], -1))
            targets.append(np.stack([truth, numbered(truth)], -1))
        things = set(range(3)) - set(stuff)
        wanted = panoptic_quality(
            torch.from_numpy(np.stack(predictions)).long(),
            torch.from_numpy(np.stack(targets)).long(),
            things=things,
            stuffs=set(stuff),
            allow_unknown_preds_category=True,
            return_sq_and_rq=True,
            return_per_class=True,
        ).squeeze(0)
        order = [*sorted(things), *stuff]
        found = metric.scores(np.stack(rows))
        for i, name in enumerate(("pq", "sq", "rq")):
            assert found[f"{name}_per_class"][order] == pytest.approx(wanted[:, i].numpy(), abs=1e-6)
            assert found[name] == pytest.approx(float(wanted[:, i].mean()), abs=1e-6)
        assert 0.05 < found["pq"] < 0.95


def test_panoptic_counts_by_hand():
    truth = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1], [255, 255, 255, 2, 2, 2]])
    objects = np.array([[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3], [0, 0, 0, 4, 4, 4]])
    labels = np.array([[0, 0, 0, 0, 1, 255], [0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 0, 0]])
    predicted = np.array([[1, 1, 2, 2, 3, 0], [1, 1, 2, 3, 3, 3], [4, 4, 4, 4, 5, 5]])
    rows = panoptic_counts(labels, predicted, truth, objects, 3)
    # class 0: both pairs, IoU 1 and 3/4; object 5 is false. class 1: 3 of 5, a pixel without an answer is missed.
    assert rows[0] == pytest.approx([1.75, 2, 1, 0]) and rows[1] == pytest.approx([3 / 5, 1, 0, 0])
    # class 2: predicted mostly where nothing is counted, and its one counted pixel is 1/3 of the true object
    assert rows[2].tolist() == [0, 0, 0, 1]
    # half of it there is not "more than half": then it is false
    labels[2, 2] = 1
    predicted[2, 2] = 6
    labels[2, 0], predicted[2, 0] = 1, 6
    assert panoptic_counts(labels, predicted, truth, objects, 3)[2].tolist() == [0, 0, 1, 1]


def test_an_object_on_ignored_pixels_is_no_false_alarm():
    truth = np.full((6, 6), IGNORE_INDEX, np.uint8)
    truth[:, :2] = 0
    labels = np.zeros((6, 6), np.uint8)
    labels[1:4, 3:5] = 1
    assert PanopticQuality().measure(labels, truth, 2)[1].tolist() == [0, 0, 0, 0]
    assert count_objects(labels, 2).tolist() == [1, 1]
    assert ObjectCounts().measure(labels, truth, 2).tolist() == [[1, 1], [0, 0]]


def test_object_counts():
    rng = np.random.default_rng(1)
    for _ in range(10):
        labels, _ = scene(rng, void=False)
        wanted = [ndimage.label(labels == c, EIGHT) for c in range(3)]
        assert count_objects(labels, 4).tolist() == [*(count for _, count in wanted), 0]
        large = [(np.bincount(regions.ravel())[1:] >= 9).sum() for regions, _ in wanted]
        assert count_objects(labels, 3, smallest=9).tolist() == large
    found = ObjectCounts().scores(np.array([[[3, 1], [0, 0]], [[0, 2], [0, 0]], [[5, 5], [4, 0]]], float))
    assert found["count_error_per_class"].tolist() == [4 / 3, 4]
    assert found["count_bias_per_class"].tolist() == [0, 4] and found["count_error"] == pytest.approx(8 / 3)


def test_size_bins():
    truth = np.zeros((40, 60), np.uint8)
    truth[2:6, 2:6] = 1  # 16 pixels
    truth[10:20, 10:20] = 1  # 100
    truth[25:39, 20:60] = 1  # 560
    labels = np.zeros_like(truth)
    labels[2:6, 2:5] = 1  # 12 of the small one
    labels[10:20, 10:25] = 1  # the medium one, and half as much again
    row = BySize((50, 200)).measure(labels, truth, 3)[1]
    assert row.tolist() == [[12, 16, 12, 12], [100, 100, 100, 150], [0, 560, 0, 0]]
    found = BySize((50, 200)).scores(row[None, None])
    assert found["recall_small"] == 0.75 and found["precision_small"] == 1
    assert found["precision_medium"] == pytest.approx(2 / 3) and found["recall_large"] == 0
    assert np.isnan(found["precision_large"])
    # bounds as COCO has them: 32 x 32 is medium
    square = np.zeros((50, 50), np.uint8)
    square[:32, :32] = 1
    assert BySize().measure(square, square, 2)[1].argmax(0).tolist() == [1, 1, 1, 1]


def test_every_pixel_is_in_one_size_bin():
    labels, truth = scene(np.random.default_rng(2))
    sums = BySize((20, 60)).measure(labels, truth, 3).sum(1)
    overlap = PerImage().measure(labels, truth, 3)
    assert (sums == overlap[:, [0, 2, 0, 1]]).all()


def test_scores_over_images():
    rows = np.zeros((3, 2, 3))
    rows[0] = [[5, 5, 10], [0, 0, 0]]  # IoU 1/2, and a class that is in neither
    rows[1] = [[6, 6, 6], [0, 0, 4]]  # 1 and 0
    found = PerImage().scores(rows)  # the third image has nothing that counts
    assert found == {"image_miou": 0.5, "image_miou_median": 0.5, "image_miou_worst_tenth": 0.5}
    assert np.isnan(PerImage().scores(np.zeros((2, 2, 3)))["image_miou"])


@pytest.mark.parametrize("classes", [2, 5])
def test_error_of_probabilities_equals_scikit_learn(classes):
    generator = torch.Generator().manual_seed(0)
    metric, rows, wanted = MeanAbsoluteError(), [], []
    for size in ((6, 9), (12, 5)):
        probabilities = torch.randn(classes, *size, generator=generator).softmax(0)
        truth = torch.randint(classes, size, generator=generator).byte().numpy()
        truth[:2] = IGNORE_INDEX
        counted = truth != IGNORE_INDEX
        rows.append(metric.measure(truth, truth, classes, probabilities))
        one_hot = np.arange(classes)[:, None] == truth[counted]
        given = probabilities.numpy()[:, counted]
        if classes == 2:  # as salient object detection has it: of the foreground alone
            one_hot, given = one_hot[1:], given[1:]
        wanted.append((mean_absolute_error(one_hot.ravel(), given.ravel()), counted.sum()))
    found = metric.scores(np.stack(rows))
    errors, pixels = np.array(wanted).T
    assert found["mae"] == pytest.approx((errors * pixels).sum() / pixels.sum(), abs=1e-6)
    assert found["mae_image"] == pytest.approx(errors.mean(), abs=1e-6)
