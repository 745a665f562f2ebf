"""Boundary scores against MONAI, against scipy, and against their definitions pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.metrics.boundary import (
    BoundaryF1,
    BoundaryIoU,
    SurfaceDistances,
    Trimap,
    border,
    distances,
    outlines,
)

KINDS = ("blobs", "empty", "full", "one pixel", "touching the border", "thin")


def mask(rng, kind, height, width):
    """Draw a mask (H, W) bool."""
    found = np.zeros((height, width), bool)
    if kind == "blobs":
        found = ndimage.gaussian_filter(rng.normal(size=(height, width)), 2) > rng.normal(0, 0.1)
    elif kind == "full":
        found[:] = True
    elif kind == "one pixel":
        found[rng.integers(height), rng.integers(width)] = True
    elif kind == "touching the border":
        found[: rng.integers(1, height), : rng.integers(1, width)] = True
        found = np.rot90(found, 2 * rng.integers(2))
    elif kind == "thin":
        found[rng.integers(height), :] = True
        found[:, rng.integers(width)] = True
    return found


def pairs(count=200):
    """Draw pairs of masks: every kind with every other, in changing sizes."""
    rng = np.random.default_rng(8)
    for i in range(count):
        size = rng.integers(8, 40, 2)
        yield tuple(mask(rng, kind, *size) for kind in (KINDS[i % 6], KINDS[i // 6 % 6]))


def contour(m):
    return m & ~ndimage.binary_erosion(m)


def row_of(metric, predicted, true):
    """Measure class 1 of two masks."""
    return metric.measure(predicted.astype(np.uint8), true.astype(np.uint8), 2)[1]


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_surface_distances_equal_those_of_monai_on_200_pairs():
    metrics = pytest.importorskip("monai.metrics")
    measured = 0
    for predicted, true in pairs():
        case, hausdorff, hd95, assd = row_of(SurfaceDistances(), predicted, true)
        if not (predicted.any() and true.any()):
            wanted = 2 if true.any() else 3 if predicted.any() else 0
            diagonal = math.hypot(*true.shape) if wanted else 0
            assert (case, hausdorff, hd95, assd) == (wanted, diagonal, diagonal, diagonal)
            continue
        measured += 1
        a, b = (torch.from_numpy(m.copy())[None, None] for m in (predicted, true))
        kwargs = {"include_background": True}
        assert case == 1
        assert hausdorff == pytest.approx(float(metrics.compute_hausdorff_distance(a, b, **kwargs)), abs=1e-4)
        assert hd95 == pytest.approx(
            float(metrics.compute_hausdorff_distance(a, b, percentile=95, **kwargs)), abs=1e-4
        )
        symmetric = metrics.compute_average_surface_distance(a, b, symmetric=True, **kwargs)
        assert assd == pytest.approx(float(symmetric), abs=1e-4)
    assert measured == 136


def test_boundary_iou_equals_erosion_step_by_step_on_200_pairs():
    def strip(m, pixels):  # as the authors do it: the image in a frame of zeros, eroded by 3x3 so many times
        framed = np.pad(m, 1)
        square = np.ones((3, 3))
        return m & ~ndimage.binary_erosion(framed, square, iterations=pixels, border_value=0)[1:-1, 1:-1]

    for width in (0.02, 0.06):
        for predicted, true in pairs():
            pixels = max(1, round(width * math.hypot(*true.shape)))
            a, b = strip(predicted, pixels), strip(true, pixels)
            wanted = (a & b).sum(), a.sum(), b.sum()
            assert tuple(row_of(BoundaryIoU(width), predicted, true)) == wanted


@pytest.mark.parametrize("metric", [BoundaryF1(0.03), BoundaryF1(pixels=5)])
def test_boundary_f1_equals_all_distances_between_pixels_on_200_pairs(metric):
    for predicted, true in pairs():
        reach = 5 if metric.pixels else 0.03 * math.hypot(*true.shape)
        points = [np.argwhere(contour(m)) for m in (predicted, true)]
        wanted = [0, len(points[0]), 0, len(points[1])]
        if len(points[0]) and len(points[1]):
            near = cdist(*points) <= reach
            wanted = [near.any(1).sum(), len(points[0]), near.any(0).sum(), len(points[1])]
        assert row_of(metric, predicted, true).tolist() == wanted


def test_all_classes_at_once_equal_each_class_alone():
    rng = np.random.default_rng(0)
    labels, truth = (rng.integers(0, 4, (9, 8)).repeat(4, 0).repeat(4, 1).astype(np.uint8) for _ in range(2))
    truth[:7, :9] = IGNORE_INDEX
    inside = truth != IGNORE_INDEX
    for metric in (BoundaryIoU(), BoundaryF1(), SurfaceDistances()):
        rows = metric.measure(labels, truth, 5)
        assert not rows[4].any()
        for c in range(4):
            alone = row_of(metric, (labels == c) & inside, (truth == c) & inside)
            assert rows[c].tolist() == alone.tolist(), (type(metric).__name__, c)


def test_what_is_predicted_on_ignored_pixels_changes_nothing():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, (5, 6)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    truth[10:20, 5:30] = IGNORE_INDEX
    labels = rng.integers(0, 3, truth.shape).astype(np.uint8)
    other = np.where(truth == IGNORE_INDEX, rng.integers(0, 3, truth.shape), labels).astype(np.uint8)
    assert (labels != other).any()
    for metric in (BoundaryIoU(), BoundaryF1(), SurfaceDistances(), Trimap()):
        assert (metric.measure(labels, truth, 3) == metric.measure(other, truth, 3)).all()


def test_a_perfect_prediction_scores_one_and_no_distance():
    truth = np.random.default_rng(2).integers(0, 3, (6, 6)).repeat(7, 0).repeat(7, 1).astype(np.uint8)
    found = {}
    for metric in (BoundaryIoU(), BoundaryF1(), SurfaceDistances(), Trimap((1, 3))):
        found |= metric.scores(metric.measure(truth, truth, 4)[None])
    assert found["boundary_iou_2pct"] == found["boundary_f1_0.75pct"] == found["trimap_miou_3px"] == 1
    assert found["hausdorff"] == found["hd95"] == found["assd"] == 0 == found["surface_misses"]
    assert np.isnan(found["boundary_f1_0.75pct_per_class"][3]) and np.isnan(found["hd95_per_class"][3])


def test_missing_everything_is_never_better_and_is_counted():
    truth = np.zeros((30, 40), np.uint8)
    truth[10:20, 10:20] = 1
    poor = np.zeros_like(truth)
    poor[28:, 38:] = 1  # an object, in the farthest corner
    missed = np.zeros_like(truth)
    for policy, better in (("diagonal", False), ("skip", True)):
        metric = SurfaceDistances(policy)
        good_and_poor = np.stack([metric.measure(truth, truth, 2), metric.measure(poor, truth, 2)])
        good_and_missed = np.stack([metric.measure(truth, truth, 2), metric.measure(missed, truth, 2)])
        first, second = metric.scores(good_and_poor), metric.scores(good_and_missed)
        for name in ("hausdorff", "hd95", "assd"):  # `skip` is what makes a miss look better
            assert (second[name] < first[name]) == better
        assert second["surface_misses"] == 1 and second["surface_false_alarms"] == 0
        assert first["surface_misses"] == 0
    alarms = SurfaceDistances().scores(SurfaceDistances().measure(poor, missed, 2)[None])
    assert alarms["surface_false_alarms_per_class"].tolist() == [0, 1] and alarms["surface_misses"] == 0
    nothing = SurfaceDistances("skip").scores(SurfaceDistances("skip").measure(missed, truth, 2)[None])
    assert np.isnan(nothing["hd95_per_class"][1]) and nothing["surface_misses"] == 1


def test_f1_of_split_and_of_images():
    metric = BoundaryF1()
    # one image with precision 1 and recall 1/2, one whose prediction has no outline
    rows = np.array([[[4.0, 4, 5, 10]], [[0, 0, 0, 10]]])
    found = metric.scores(rows)
    assert found["boundary_f1_0.75pct"] == pytest.approx(2 * 1 * 0.25 / 1.25)
    assert found["boundary_f1_0.75pct_image"] == pytest.approx((2 * 0.5 / 1.5 + 0) / 2)
    assert np.isnan(metric.scores(np.zeros((2, 1, 4)))["boundary_f1_0.75pct"])


def test_trimap_counts_the_pixels_near_true_outlines():
    truth = np.zeros((9, 12), np.uint8)
    truth[:, 6:] = 1
    labels = np.zeros_like(truth)
    labels[:, 8:] = 1  # two columns late
    metric = Trimap((1, 2, 40))
    rows = metric.measure(labels, truth, 2)
    assert rows.shape == metric.shape(2) == (3, 2, 3)
    assert rows[0].tolist() == [[9, 18, 9], [0, 0, 9]]  # one column on either side
    assert rows[1].tolist() == [[18, 36, 18], [0, 0, 18]]
    assert rows[2].sum(0)[2] == truth.size
    found = metric.scores(rows[None])
    assert found["trimap_miou_1px"] == pytest.approx(0.25) and found["trimap_miou_40px"] > 0.6
    flat = np.zeros_like(truth)
    assert not metric.measure(flat, flat, 2).any()  # no outline, no band


def test_distances_are_exact():
    rng = np.random.default_rng(3)
    everywhere = np.ones((211, 307), bool)
    for density in (0.001, 0.1):
        m = rng.random(everywhere.shape) < density
        assert (distances(m, everywhere) == ndimage.distance_transform_edt(~m).ravel()).all()
    assert np.isinf(distances(~everywhere, everywhere)).all()


def test_border_and_outlines():
    labels = np.zeros((4, 5), np.uint8)
    assert border(labels).sum() == 14 and not border(labels, image_edge=False).any()
    truth = np.full((4, 5), IGNORE_INDEX, np.uint8)
    assert [c for c, *_ in outlines(labels, truth, 3)] == []


def test_wrong_tolerance():
    with pytest.raises(UserError, match="positive tolerance; got 0"):
        BoundaryF1(0)
