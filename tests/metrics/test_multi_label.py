"""Scores of overlapping classes against scikit-learn, on one process and on two."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import average_precision_score, f1_score, hamming_loss, jaccard_score

from lightning_seg.metrics.confusion import ConfusionMatrix, predicted_labels
from lightning_seg.metrics.multi_label import (
    STEPS,
    LogitHistograms,
    MultiLabelCounts,
    average_precision,
    best_thresholds,
    counts_at,
    decide,
    logits_of,
    probabilities_of,
)
from lightning_seg.metrics.scores import class_dice, class_iou, scores_of_counts
from lightning_seg.training.losses import CrossEntropy
from lightning_seg.training.multi_label_losses import BinaryCrossEntropy
from tests.processes import run_ranks

THRESHOLDS = torch.tensor([0.0, -1.5, 2.25])


def data():
    """Logits and masks (5, 3, 8, 9) that have to do with one another; a fifth is void, class by class."""
    generator = torch.Generator().manual_seed(0)
    truth = (
        torch.rand(5, 3, 8, 9, generator=generator) < torch.tensor([0.5, 0.2, 0.03])[:, None, None]
    ).byte()
    logits = 3 * torch.randn(5, 3, 8, 9, generator=generator) + 2 * truth
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    return logits, truth


def counted(k):
    logits, masks = (part[:, k].flatten().numpy() for part in data())
    return logits[masks != 255], masks[masks != 255]


def found(batches):
    logits, masks = data()
    histograms, images = LogitHistograms(3), MultiLabelCounts(5, 3)
    for batch in batches:
        index = torch.tensor(batch)
        histograms.update(logits[index], masks[index])
        images.update(decide(logits[index], THRESHOLDS), masks[index], index)
    return histograms.compute(), images.compute()


def test_scores_equal_those_of_scikit_learn():
    histograms, images = (part.numpy() for part in found([[0, 1], [2, 3, 4]]))
    counts = counts_at(histograms, THRESHOLDS.numpy())
    assert np.array_equal(counts, images.sum(0))
    right = every = 0
    for k, threshold in enumerate(THRESHOLDS.tolist()):
        logits, truth = counted(k)
        assert class_iou(counts)[k] == pytest.approx(jaccard_score(truth, logits >= threshold), abs=1e-12)
        assert class_dice(counts)[k] == pytest.approx(f1_score(truth, logits >= threshold), abs=1e-12)
        exact = average_precision_score(truth, np.floor(logits * STEPS))
        assert average_precision(histograms)[k] == pytest.approx(exact, abs=1e-12)
        assert exact == pytest.approx(average_precision_score(truth, logits), abs=1e-3)
        right += (1 - hamming_loss(truth, logits >= threshold)) * len(truth)
        every += len(truth)
    accuracy = 1 - (counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]).sum() / histograms.sum()
    assert accuracy == pytest.approx(right / every)
    assert scores_of_counts(counts, accuracy).miou == pytest.approx(class_iou(counts).mean())


def test_one_logit_counts_and_costs_what_two_do():
    """Of two classes one logit stands for the difference of two: `MultiLabelSegmentation`, `SemanticSegmentation`."""
    one, masks = (part[:, :1] for part in data())
    other = torch.randn(one.shape, generator=torch.Generator().manual_seed(1))
    two = torch.cat([other, other + one], 1)
    matrix, histograms = ConfusionMatrix(2), LogitHistograms(1)
    matrix.update(predicted_labels(two), masks[:, 0])
    histograms.update(one, masks)
    (_, missed), (wrong, right) = matrix.compute().T.tolist()
    assert counts_at(histograms.compute().numpy(), np.zeros(1)).tolist() == [
        [right, right + wrong, right + missed]
    ]
    assert BinaryCrossEntropy()(one, masks) == pytest.approx(
        CrossEntropy()(two, masks[:, 0]).item(), rel=1e-5
    )


def test_tuned_thresholds_have_the_highest_dice_of_all():
    histograms = found([[0, 1, 2, 3, 4]])[0].numpy()
    thresholds = best_thresholds(histograms)
    reached = class_dice(counts_at(histograms, thresholds))
    for k, threshold in enumerate(thresholds):
        logits, truth = counted(k)
        every = [f1_score(truth, logits >= value) for value in np.unique(np.floor(logits * STEPS) / STEPS)]
        assert reached[k] == pytest.approx(max(every), abs=1e-12)
        assert f1_score(truth, logits >= threshold) == pytest.approx(reached[k], abs=1e-12)


def test_a_threshold_lies_in_the_middle_of_a_gap_and_is_a_half_for_a_class_that_never_occurs():
    histograms = LogitHistograms(2)
    logits = torch.tensor([[-5.0, -3.0, 9.0, 11.0], [-5.0, -3.0, 9.0, 11.0]]).view(1, 2, 1, 4)
    histograms.update(logits, torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]).byte().view(1, 2, 1, 4))
    assert best_thresholds(histograms.compute().numpy()) == pytest.approx([3, 0], abs=2 / STEPS)
    assert np.isnan(average_precision(histograms.compute().numpy())).tolist() == [False, True]


def test_logits_beyond_all_steps_are_counted_in_the_last_one():
    histograms = LogitHistograms(1)
    logits = torch.tensor([-1e9, -40.0, 40.0, torch.inf]).view(1, 1, 2, 2)
    histograms.update(logits, torch.tensor([0, 0, 1, 1]).byte().view(1, 1, 2, 2))
    assert counts_at(histograms.compute().numpy(), np.zeros(1)).tolist() == [[2, 2, 2]]


def test_probabilities_and_logits_are_one_anothers_inverse():
    assert probabilities_of(logits_of(np.array([0.5, 0.01, 0.99]))) == pytest.approx(
        [0.5, 0.01, 0.99], rel=1e-3
    )


def count_in_processes(folder):
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    for mine in ([[[0, 2], [4]], [[1, 3]]], [[[0, 1, 2, 3, 4]], []]):
        torch.save(found(mine[rank]), f"{folder}/{len(mine[1])}-{rank}.pt")
    dist.destroy_process_group()


def test_one_and_two_processes_give_the_same_counts(tmp_path):
    run_ranks(2, count_in_processes, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for file in files:
        for one, two in zip(torch.load(file, weights_only=True), found([[0, 1, 2, 3, 4]]), strict=True):
            assert torch.equal(one, two)
