"""Scores of probabilities rather than labels."""

import numpy as np
import torch
from torch import Tensor

from lightning_seg.metrics.images import ImageMetric, Values
from lightning_seg.metrics.scores import class_mean, ratio


class MeanAbsoluteError(ImageMetric):
    """Mean absolute difference of probability and truth, over all counted pixels and all classes.

    With two classes it is that of the foreground's probability map, the MAE of salient object detection: Perazzi et
    al., "Saliency filters", CVPR 2012. Ending in ``_image`` it is the mean over images instead.

    Examples:
        >>> metric, truth = MeanAbsoluteError(), np.array([[0, 1]], np.uint8)
        >>> row = metric.measure(truth, truth, 2, probabilities=torch.tensor([[[0.9, 0.2]], [[0.1, 0.8]]]))
        >>> round(float(metric.scores(row[None])["mae"]), 3)
        0.15
    """

    wants_probabilities = True

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """(2,): sum of the differences, averaged over classes, and counted pixels."""
        return (2,)

    def measure(
        self, labels: np.ndarray, truth: np.ndarray, num_classes: int, probabilities: Tensor | None = None
    ) -> np.ndarray:
        """Sum up the differences."""
        assert probabilities is not None
        classes = torch.from_numpy(truth.astype(np.int64)).clamp(max=num_classes - 1).to(probabilities.device)
        right = (
            probabilities.gather(0, classes[None])[0].cpu().numpy()[truth < num_classes].astype(np.float64)
        )
        # The true class lacks 1 - p, and the others have it too much.
        return np.array([(1 - right).sum() * 2 / num_classes, right.size])

    def scores(self, rows: np.ndarray) -> Values:
        """Return the error over the split, and its mean over images."""
        images = ratio(rows[:, 0], rows[:, 1])
        return {"mae": float(ratio(*rows.sum(0))), "mae_image": class_mean(images)}
