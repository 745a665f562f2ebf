"""Metrics of torchmetrics: equal to themselves on all images at once, on any number of processes, or marked."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torchmetrics
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score
from torchmetrics import classification, segmentation

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.metrics.torch_metric import TorchMetric
from tests.processes import run_ranks

C = 4
GENERATOR = torch.Generator().manual_seed(0)
TRUTH = torch.randint(4, (5, 8, 9), generator=GENERATOR).byte()
PROBABILITIES = (
    torch.randn(5, 4, 8, 9, generator=GENERATOR) + torch.nn.functional.one_hot(TRUTH.long(), 4).movedim(-1, 1)
).softmax(1)
TRUTH[:, :2] = 255
LABELS = PROBABILITIES.argmax(1).byte()


def measured(metric, truth=TRUTH, batch=2):
    adapter = TorchMetric(metric, C)
    adapter.start(torch.device("cpu"))
    for i in range(0, len(truth), batch):
        adapter.update(PROBABILITIES[i : i + batch], LABELS[i : i + batch], truth[i : i + batch])
    return adapter, adapter.scores()


@pytest.mark.parametrize(
    ("metric", "form"),
    [
        (classification.MulticlassJaccardIndex(C, ignore_index=255), "labels"),
        (classification.MulticlassF1Score(C, average=None, ignore_index=255), "labels"),
        (classification.MulticlassAUROC(C, ignore_index=255), "probabilities"),
        (classification.MulticlassCalibrationError(C, ignore_index=255), "probabilities"),
        (torchmetrics.JaccardIndex(task="multiclass", num_classes=C, ignore_index=255), "labels"),
        (classification.MulticlassAccuracy(C, top_k=2, ignore_index=255), "probabilities"),
    ],
)
def test_values_are_those_of_all_images_at_once(metric, form):
    adapter, found = measured(metric.clone())
    assert (adapter.form, adapter.ignores, adapter.depends_on) == (form, True, [])
    metric.update(PROBABILITIES if form == "probabilities" else LABELS.long(), TRUTH.long())
    ((name, value),) = found.items()
    assert name.startswith(type(metric).__name__)
    np.testing.assert_allclose(value, metric.compute().numpy(), rtol=1e-5)


def test_kappa_is_that_of_scikit_learn():
    _, found = measured(classification.MulticlassCohenKappa(C, ignore_index=255))
    counted = TRUTH != IGNORE_INDEX
    expected = cohen_kappa_score(TRUTH[counted], LABELS[counted])
    assert found == {"MulticlassCohenKappa": pytest.approx(expected, abs=1e-6)}


@pytest.mark.parametrize(("input_format", "form"), [("index", "labels"), ("one-hot", "one map a class")])
def test_the_input_format_of_a_metric_is_followed(input_format, form):
    truth = TRUTH.clone()
    truth[truth == IGNORE_INDEX] = 0
    adapter, found = measured(segmentation.MeanIoU(C, input_format=input_format), truth)
    assert adapter.form == form and not adapter.ignores
    direct = segmentation.MeanIoU(C, input_format="index")
    direct.update(LABELS.long(), truth.long())
    assert found["MeanIoU"] == pytest.approx(float(direct.compute()))


def test_a_metric_that_cannot_ignore_gets_no_score_where_pixels_are_ignored(capsys):
    _, found = measured(segmentation.MeanIoU(C, input_format="index"))
    assert np.isnan(found["MeanIoU"])
    assert "MeanIoU has no ignore_index, and 5 images have ignored pixels" in capsys.readouterr().out


class MeanOfBatches(torchmetrics.Metric):
    """Averages batches, and processes."""

    def __init__(self):
        super().__init__()
        self.add_state("value", torch.tensor(0.0), dist_reduce_fx="mean")
        self.add_state("batches", torch.tensor(0.0), dist_reduce_fx="mean")

    def update(self, preds, target):
        if preds.is_floating_point():
            raise ValueError("labels only")
        self.value += (preds == target).float().mean() ** 2
        self.batches += 1

    def compute(self):
        return self.value / self.batches + self.batches


def test_what_depends_on_batches_and_processes_is_marked():
    adapter = TorchMetric(MeanOfBatches(), C)
    assert adapter.depends_on == ["batch", "processes"]
    assert adapter.protocol()["depends_on"] == ["batch", "processes"]
    assert adapter.describe() == (
        "MeanOfBatches is given labels, one image at a time; no score where any pixel is ignored;"
        " its value is that of batches of one image; its value changes with the number of processes"
    )


@pytest.mark.parametrize(
    "metric", [MeanOfBatches(), classification.MultilabelExactMatch(C, ignore_index=255)]
)
def test_a_metric_to_which_ignored_pixels_are_right_or_wrong_does_not_ignore_them(metric):
    """Its value does not change with the prediction under them, and yet with their number."""
    assert not TorchMetric(metric, C).ignores


def test_the_protocol_holds_the_settings():
    adapter = TorchMetric(classification.MulticlassFBetaScore(beta=2.0, num_classes=C, ignore_index=255), C)
    written = adapter.protocol()
    assert written["class"] == "torchmetrics.classification.f_beta.MulticlassFBetaScore"
    assert written["settings"]["beta"] == 2.0 and written["settings"]["ignore_index"] == 255
    assert written["given"] == "labels, one image at a time" and written["ignores_void"]


@pytest.mark.parametrize("metric", [classification.MulticlassConfusionMatrix(C), torchmetrics.WordErrorRate() if hasattr(torchmetrics, "WordErrorRate") else torchmetrics.PearsonCorrCoef()])  # fmt: skip
def test_a_metric_of_something_else_is_refused_with_reasons(metric):
    with pytest.raises(UserError, match=f"model.metrics: {type(metric).__name__} takes nothing"):
        TorchMetric(metric, C)


@pytest.mark.parametrize("kind", [classification.MulticlassF1Score, classification.MultilabelF1Score])
def test_another_number_of_classes_is_refused(kind):
    with pytest.raises(UserError, match="has num_(classes|labels) 7, the data 4 classes"):
        TorchMetric(kind(7), C)


def test_binary_metrics_are_for_two_classes_and_get_the_probability_of_the_second():
    """Some, such as BinaryAUROC, would take any class numbers without a word."""
    for metric in (classification.BinaryAccuracy(), classification.BinaryAUROC()):
        with pytest.raises(UserError, match=f"{type(metric).__name__} is for 2 classes, the data has 4"):
            TorchMetric(metric, C)
    adapter = TorchMetric(classification.BinaryAUROC(ignore_index=255), 2)
    adapter.start(torch.device("cpu"))
    two, truth = PROBABILITIES[:, :2] / PROBABILITIES[:, :2].sum(1, keepdim=True), TRUTH.clone()
    truth[truth > 1] = 255
    adapter.update(two, two.argmax(1).byte(), truth)
    counted = truth < 255
    assert adapter.scores()["BinaryAUROC"] == pytest.approx(
        roc_auc_score(truth[counted], two[:, 1][counted]), abs=1e-6
    )


def test_metrics_of_labels_apart_get_one_map_a_class_and_ignore_void_in_each():
    assert TorchMetric(classification.MultilabelF1Score(C), C).form == "one map a class"
    metric = classification.MultilabelAveragePrecision(C, ignore_index=255, average="none")
    adapter, found = measured(metric)
    assert adapter.form == "probabilities, truth one map a class" and adapter.ignores
    counted = TRUTH != IGNORE_INDEX
    expected = [average_precision_score(TRUTH[counted] == c, PROBABILITIES[:, c][counted]) for c in range(C)]
    np.testing.assert_allclose(found["MultilabelAveragePrecision_per_class"], expected, rtol=1e-5)


def test_a_best_value_comes_with_its_threshold():
    metric = classification.MulticlassRecallAtFixedPrecision(
        C, min_precision=0.5, thresholds=20, ignore_index=255
    )
    adapter, found = measured(metric.clone())
    metric.update(PROBABILITIES, TRUTH.long())
    best, threshold = metric.compute()
    np.testing.assert_allclose(found["MulticlassRecallAtFixedPrecision_per_class"], best)
    np.testing.assert_allclose(found["MulticlassRecallAtFixedPrecision_threshold_per_class"], threshold)


def metrics_of_all():
    return [
        classification.MulticlassCohenKappa(C, ignore_index=255),
        classification.MulticlassCalibrationError(C, ignore_index=255),
        classification.MulticlassAUROC(C, average=None, thresholds=None, ignore_index=255),
    ]


def measure_in_processes(folder):
    rank = int(os.environ["RANK"])
    mine, found = [[0, 2, 3, 4], [1]][rank], {}
    dist.init_process_group("gloo")
    for metric in metrics_of_all():
        adapter = TorchMetric(metric, C)
        adapter.start(torch.device("cpu"))
        adapter.update(PROBABILITIES[mine], LABELS[mine], TRUTH[mine])
        found |= adapter.scores()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_one_and_two_processes_give_the_same_numbers(tmp_path):
    run_ranks(2, measure_in_processes, tmp_path)
    expected = {}
    for metric in metrics_of_all():
        expected |= measured(metric)[1]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5)
