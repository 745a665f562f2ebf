"""Steps on labels, superpixels and the chain, against scipy and by hand."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import slic

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.postprocess.chain import Chain, most_probable, next_best
from lightning_seg.postprocess.components import KeepLargest, RemoveSmall
from lightning_seg.postprocess.confidence import ConfidenceThreshold, RegionGrowing
from lightning_seg.postprocess.crf import DenseCRF
from lightning_seg.postprocess.morphology import Closing, Dilation, Erosion, FillHoles, Opening
from lightning_seg.postprocess.superpixels import Superpixels

from .problem import problem

EIGHT = np.ones((3, 3))


def sure(labels, classes=None):
    """Make probabilities of labels: the class itself, then class 0, then the others."""
    classes = classes or int(labels.max()) + 1
    scores = 3.0 * (np.arange(classes)[:, None, None] == labels)
    scores[0] += 1
    return (scores / scores.sum(0)).astype(np.float32)


def apply(step, labels, classes=None):
    """Apply a step to labels without an image."""
    kept = labels.copy()
    result = step(labels, sure(labels, classes), np.zeros((*labels.shape, 3), np.uint8))
    assert (labels == kept).all() and result.dtype == np.uint8  # the input is left alone
    return result


def disk(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x**2 + y**2 <= radius**2


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize(
    ("step", "parts"), [(Erosion, "e"), (Dilation, "d"), (Opening, "ed"), (Closing, "de")]
)
def test_morphology_of_a_class_equals_scipy(step, parts, radius):
    labels = (ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 50)), 2) > 0).astype(np.uint8)
    wanted = labels
    for part in parts:
        operation = ndimage.grey_erosion if part == "e" else ndimage.grey_dilation
        wanted = operation(wanted, footprint=disk(radius), mode="nearest")
    assert (apply(step(radius, [1]), labels) == wanted).all()
    assert (wanted != labels).any()


def test_what_a_class_loses_goes_to_the_next_best():
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 2
    probabilities = np.full((3, 9, 9), 0.1, np.float32)
    probabilities[2][labels == 2] = 0.8
    probabilities[0, :, :5], probabilities[1, :, 5:] = 0.2, 0.2
    found = Erosion(1, [2])(labels, probabilities, np.zeros((9, 9, 3), np.uint8))
    assert (found[3:6, 3:6] == 2).all() and (found == 2).sum() == 9
    assert (found[2:7, 2] == 0).all() and (found[2:7, 6] == 1).all()


def test_holes_equal_scipy_and_stop_at_their_largest():
    rng = np.random.default_rng(1)
    labels = (ndimage.gaussian_filter(rng.normal(size=(60, 50)), 1.2) > -0.1).astype(np.uint8)
    wanted = ndimage.binary_fill_holes(labels == 1)
    found = apply(FillHoles(classes=[1]), labels)
    assert ((found == 1) == wanted).all() and (found != labels).any()
    some = apply(FillHoles(largest=6, classes=[1]), labels)
    regions, count = ndimage.label(wanted & (labels == 0))
    for number in range(1, count + 1):
        hole = regions == number
        assert (some[hole] == (1 if hole.sum() <= 6 else 0)).all()


def test_small_components_go_to_what_is_around_them():
    rng = np.random.default_rng(2)
    labels = (ndimage.gaussian_filter(rng.normal(size=(50, 60)), 1) > 0.12).astype(np.uint8)
    found = apply(RemoveSmall(25, [1]), labels)
    regions, count = ndimage.label(labels, EIGHT)
    sizes = np.bincount(regions.ravel())
    assert (found == ((labels == 1) & (sizes[regions] >= 25))).all()
    assert 0 < (sizes[1:] >= 25).sum() < count
    three = np.zeros((12, 12), np.uint8)
    three[:, 6:] = 1
    three[4:6, 5:9] = 2  # one column of it in class 0, three in class 1
    assert (apply(RemoveSmall(9), three)[4:6, 5:9] == 1).all()
    assert (apply(RemoveSmall(8), three) == three).all()


def test_an_island_that_fills_the_image_stays():
    full = np.ones((3, 3), np.uint8)
    assert (apply(RemoveSmall(100), full, 2) == 1).all()


def test_keep_largest():
    labels = np.zeros((20, 20), np.uint8)
    labels[1:4, 1:4], labels[8:16, 8:16], labels[18:, 1:8] = 1, 1, 1
    assert (apply(KeepLargest(1, [1]), labels) == 1).sum() == 64
    chain = Chain([KeepLargest(2, ["object"])], ("rest", "object"))
    assert (chain(sure(labels), np.zeros((20, 20, 3), np.uint8)) == 1).sum() == 64 + 14
    assert (apply(KeepLargest(5, [1]), labels) == labels).all()


def test_doubted_labels_go_to_ignore_or_to_the_second_class():
    probabilities = np.array([[0.5, 0.4, 0.1], [0.3, 0.35, 0.1], [0.2, 0.25, 0.8]], np.float32)[:, None]
    image = np.zeros((1, 3, 3), np.uint8)
    labels = most_probable(probabilities)
    assert labels.tolist() == [[0, 0, 2]]
    found = ConfidenceThreshold(0.45)(labels, probabilities, image)
    assert found.tolist() == [[0, IGNORE_INDEX, 2]]
    assert ConfidenceThreshold(0.45, "second")(labels, probabilities, image).tolist() == [[0, 1, 2]]
    assert ConfidenceThreshold(0.9, "second", [2])(labels, probabilities, image)[0, 2] == 0
    # a pixel without an answer has the best of all classes as its next
    assert next_best(probabilities, found, np.array([[False, True, False]])).tolist() == [0]


def test_regions_grow_from_seeds_to_the_edge():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 12:] = 200  # the edge of the image; the network sees it at 9
    probabilities = np.full((2, 10, 20), 0.5, np.float32)
    probabilities[0, :, :9], probabilities[0, :, 9:] = 0.6, 0.4
    probabilities[0, :, :4], probabilities[0, :, 16:] = 0.95, 0.05
    probabilities[1] = 1 - probabilities[0]
    labels = most_probable(probabilities)
    found = RegionGrowing(0.9)(labels, probabilities, image)
    assert (found[:, :11] == 0).all() and (found[:, 13:] == 1).all()
    assert (RegionGrowing(0.99)(labels, probabilities, image) == labels).all()  # no seed


def test_seeds_stay_and_no_class_comes_that_had_none():
    probabilities, image, _ = problem()
    labels = most_probable(probabilities)
    seeds = probabilities.max(0) >= 0.8
    seeds &= labels != 3
    labels[labels == 3] = IGNORE_INDEX
    found = RegionGrowing(0.8)(labels, probabilities, image)
    assert (found[seeds] == labels[seeds]).all()
    assert set(np.unique(found)) == set(np.unique(labels[seeds]))


@pytest.mark.parametrize("vote", ["mean", "majority"])
def test_superpixels_vote(vote):
    probabilities, image, truth = problem(noise=1)
    found = Superpixels(20, 5, vote)(probabilities, image)
    segments = slic(image, n_segments=round(truth.size / 20), compactness=5, start_label=0)
    for number in np.unique(segments):
        inside = segments == number
        if vote == "mean":
            wanted = probabilities[:, inside].mean(1)
        else:
            wanted = np.bincount(probabilities[:, inside].argmax(0), minlength=4) / inside.sum()
        assert np.abs(found[:, inside] - wanted[:, None]).max() < 1e-5
    assert (found.argmax(0) == truth).mean() > (probabilities.argmax(0) == truth).mean()


def test_chain_hands_over_probabilities_then_labels():
    probabilities, image, _ = problem()
    crf, small, fill = DenseCRF(2), RemoveSmall(30), FillHoles()
    first = crf(probabilities, image)
    wanted = fill(small(first.argmax(0).astype(np.uint8), first, image), first, image)
    assert (Chain([crf, small, fill])(probabilities, image) == wanted).all()
    assert (Chain([])(probabilities, image) == probabilities.argmax(0)).all()
    assert (Chain([crf])(probabilities, image) == first.argmax(0)).all()


def test_what_a_chain_refuses():
    with pytest.raises(UserError, match="would undo what RemoveSmall did .* put DenseCRF before RemoveSmall"):
        Chain([RemoveSmall(), DenseCRF()])
    with pytest.raises(
        UserError, match="RemoveSmall.classes: there is no class 'pool'; there are pole, sign"
    ):
        Chain([RemoveSmall(classes=["pool"])], ["pole", "sign"])
    with pytest.raises(UserError, match="no class 2"):
        Chain([Erosion(classes=[2])], ["pole", "sign"])
    for wrong in (
        lambda: Erosion(0),
        lambda: ConfidenceThreshold(50),
        lambda: RegionGrowing(-1),
        lambda: Superpixels(1),
    ):
        with pytest.raises(UserError, match="must be"):
            wrong()


@pytest.mark.parametrize(
    "step",
    [
        Erosion(2), Dilation(2), Opening(2), Closing(2), FillHoles(), RemoveSmall(), KeepLargest(),
        ConfidenceThreshold(0.6), ConfidenceThreshold(0.6, "second"), RegionGrowing(0.7),
    ],
)  # fmt: skip
def test_pixels_without_an_answer_are_no_obstacle(step):
    probabilities, image, _ = problem()
    labels = most_probable(probabilities)
    labels[5:12, 7:30] = IGNORE_INDEX
    found = step(labels, probabilities, image)
    assert found.shape == labels.shape and set(np.unique(found)) <= {0, 1, 2, 3, IGNORE_INDEX}
