import json

import numpy as np
import pytest

from lightning_seg.metrics.scores import scores
from lightning_seg.studies.cross_validation import summarise

NAMES = ["membrane", "cell", "nothing"]


@pytest.fixture
def matrices(tmp_path):
    """Three folds of two images each, with their run directories; the last class occurs nowhere."""
    rng = np.random.default_rng(0)
    found = []
    for fold in range(3):
        images = rng.integers(1, 1000, (2, 3, 3))
        images[:, 1] *= 4  # most pixels are cell
        images[:, 2] = images[:, :, 2] = 0
        run = tmp_path / str(fold)
        run.mkdir()
        parts = [np.diagonal(images, axis1=1, axis2=2), images.sum(1), images.sum(2)]
        np.savez(run / "test_images.npz", counts=np.stack(parts, -1), names=np.array(["a", "b"]))
        (run / "test.json").write_text(json.dumps({"protocol": {"classes": NAMES, "images": 2}}))
        found.append((run, images.sum(0)))
    return found


def numbers(text, row):
    line = next(line for line in text.splitlines() if line.startswith(row))
    return [float(word) for word in line.removeprefix(row).split() if word not in "±"]


def test_summary_agrees_with_the_scores_of_the_matrices(matrices):
    text = summarise([run for run, _ in matrices])
    whole = scores(sum(matrix for _, matrix in matrices))
    folds = [scores(matrix) for _, matrix in matrices]
    for row, name in (("mean IoU", "miou"), ("mean Dice", "dice"), ("pixel accuracy", "pixel_accuracy")):
        values = [getattr(fold, name) for fold in folds]
        expected = [*values, np.mean(values), np.std(values, ddof=1), getattr(whole, name)]
        np.testing.assert_allclose(numbers(text, row)[:-1], expected, atol=6e-5)
    assert numbers(text, "IoU cell")[5] == pytest.approx(whole.iou_per_class[1], abs=6e-5)
    assert "IoU nothing" in text and "–" in text and "nan" not in text
    assert "3 folds, 6 images" in text


def test_summary_tells_what_a_constant_prediction_scores(matrices):
    text = summarise([run for run, _ in matrices])
    truth = sum(matrix for _, matrix in matrices).sum(1)
    share = truth[1] / truth.sum()
    constant = scores(np.array([[0, truth[0], 0], [0, truth[1], 0], [0, 0, 0]]))
    assert constant.miou == share / 2  # membrane is never found, the last class does not count
    assert numbers(text, "mean IoU")[-1] == pytest.approx(share / 2, abs=6e-5)
    assert numbers(text, "mean Dice")[-1] == pytest.approx(constant.dice, abs=6e-5)
    assert numbers(text, "pixel accuracy")[-1] == pytest.approx(share, abs=6e-5)
    assert numbers(text, "IoU membrane")[-1] == 0
    assert "always 'cell'" in text
