"""The weighted mean, and the loss of an evaluation, which does not depend on the batches."""

import torch

from lightning_seg.metrics.mean import WeightedMean


def test_weights_count():
    metric = WeightedMean()
    for value, weight in ((1.0, 3), (5.0, 1), (7.0, 0)):
        metric.update(torch.tensor(value), torch.tensor(weight))
    assert float(metric.compute()) == 2.0
    metric.reset()
    metric.update(torch.tensor(4.0), torch.tensor(9))
    assert float(metric.compute()) == 4.0
