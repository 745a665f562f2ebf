"""Multi-label segmentation: which of the classes, none, one or several, are at this pixel?"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.class_frequencies import positive_pixels
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import Inferer
from lightning_seg.inference.precision import full_precision
from lightning_seg.inference.predictor import ImageLike, MultiLabelPredictor
from lightning_seg.metrics.images import Values, by_class
from lightning_seg.metrics.mean import WeightedMean
from lightning_seg.metrics.multi_label import (
    LogitHistograms,
    MultiLabelCounts,
    average_precision,
    best_thresholds,
    counts_at,
    decide,
    logits_of,
    probabilities_of,
)
from lightning_seg.metrics.scores import Scores, class_mean, ratio, scores_of_counts
from lightning_seg.networks.base import Network
from lightning_seg.tasks.base import SegmentationTask
from lightning_seg.tasks.batches import logits_of_each, mixed_loss, same_size, share_of
from lightning_seg.training.finetune.policies import Full
from lightning_seg.training.multi_label_losses import BinaryCrossEntropy, MultiLabelLoss, multi_label


class MultiLabelSegmentation(SegmentationTask):
    """Train a network that tells for each class by itself whether it is at a pixel: classes may overlap.

    The first of the data set's classes is the background, which is where none of the others is; it has neither a logit
    nor a score. So with two classes this is binary segmentation with one logit, as `SemanticSegmentation` is with two.

    Batches are dictionaries with ``image`` (B, C, H, W), ``mask`` (B, K, H, W) uint8 (see
    `lightning_seg.data.overlapping`) and, in evaluation, ``index`` (B,) and optionally ``size`` (B, 2). Scores are
    over all pixels of the split that are not void for the class, logged as ``val/miou``, ``val/iou/<class>``,
    ``val/ap/<class>`` (average precision) and so on; means are over the K classes. ``pixel_accuracy`` is the share of
    right decisions of all pixels and classes.

    Args:
        network: Maps images (B, C, H, W), with the values of their files, to logits (B, K, H, W).
        optimizer: Makes the optimizer from the trainable parameters.
        class_names: The classes in label order, the background first; comes from the data module.
        loss: Maps logits (B, K, H, W) and masks (B, K, H, W) to a scalar; `BinaryCrossEntropy` unless given. Losses of
            other libraries are given the truth as float32 (B, K, H, W).
        thresholds: From which probability on a class is there: ``tuned`` finds for each class, at every validation,
            the one with the highest Dice score there, which is kept in the checkpoint; or one number for all classes,
            or one for each.
        lr_scheduler: Makes the scheduler from the optimizer and the total number of optimizer steps.
        finetune: Which parts of the backbone train, and how; all of it unless given.
        auxiliary_weight: Factor on the loss of the network's auxiliary head, where it has one.
        inference: How the logits of evaluation and prediction are computed; of the whole image unless given.
        **options: `no_decay`, `lr_scaling`, `gradient_checkpointing`, `compile` and `pixels`; see `SegmentationTask`.

    Attributes:
        counts_of_classes: Counts (K, 3) of the last finished evaluation: intersection, predicted, true pixels.
        per_image: Counts (N, K, 3) of the last finished test, of each image.
        image_scores: Average precision of the last finished evaluation, and the thresholds it was scored with.
        matrix: Empty; overlapping classes have no confusion matrix.

    Raises:
        UserError: The loss is for classes of which each pixel has one, or a threshold is no probability.

    Examples:
        >>> network = UNet(num_classes=2, backbone="test_resnet", weights=False)  # none for the background
        >>> task = MultiLabelSegmentation(network, torch.optim.AdamW, ("other", "cat", "dog"))
        >>> task.scored_classes, task(torch.zeros(2, 3, 64, 64)).shape
        (('cat', 'dog'), torch.Size([2, 2, 64, 64]))
    """

    network: Network
    overlapping = True
    postprocess = None
    kind_of_counts = MultiLabelCounts
    thresholds: Tensor

    def __init__(
        self,
        network: Network,
        optimizer: Callable[[Iterable], Optimizer],
        class_names: tuple[str, ...],
        loss: nn.Module | None = None,
        thresholds: Literal["tuned"] | float | list[float] = "tuned",
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        finetune: Full | None = None,
        auxiliary_weight: float = 0.4,
        inference: Inferer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, optimizer, class_names, lr_scheduler, finetune, **options)
        classes = len(class_names) - 1
        self.loss = multi_label(loss or BinaryCrossEntropy())
        self._check_weights()
        self.tunes = thresholds == "tuned"
        self.auxiliary_weight = auxiliary_weight
        self.inference = inference
        given = [0.5] * classes if thresholds == "tuned" else thresholds
        given = given if isinstance(given, list) else [given] * classes
        if len(given) != classes or not all(0 < one < 1 for one in map(float, given)):
            raise UserError(
                f"model.thresholds must be 'tuned', a probability above 0 and below 1, or {classes} of them, one for "
                f"each of {', '.join(class_names[1:])}; got {thresholds}."
            )
        logits = torch.tensor(logits_of(np.array(given, float)), dtype=torch.float32)
        self.register_buffer("thresholds", logits, persistent=self.tunes)
        self.histograms = LogitHistograms(classes)
        self.eval_loss = WeightedMean()
        self.matrix = np.zeros((0, 0), int)
        self.counts_of_classes = np.zeros((classes, 3), int)
        self._accuracy = float("nan")

    @property
    def scored_classes(self) -> tuple[str, ...]:
        """Names of the classes that have scores, all but the background."""
        return self.class_names[1:]

    @property
    def result(self) -> Scores:
        """Overlap scores of the last finished evaluation, over all processes."""
        return scores_of_counts(self.counts_of_classes, self._accuracy)

    def setup(self, stage: str) -> None:
        """Compute the weights that the data decides."""
        super().setup(stage)
        if balanced := [p for p in self.loss.modules() if isinstance(p, MultiLabelLoss) and p.balance]:
            self._balance(balanced, stage)

    def predict(self, image: ImageLike) -> np.ndarray:
        """Return where each class is, (K, H, W) bool; the network is in evaluation mode afterwards.

        Args:
            image: A file, a PIL image or an array (H, W, 3); see `lightning_seg.inference.predictor.Predictor`.
        """
        return self.predictor(self._palette)(image)

    def predictor(
        self,
        palette: tuple[tuple[int, int, int], ...],
        inference: Inferer | None = None,
    ) -> MultiLabelPredictor:
        """Return the network with all that its predictions need.

        Args:
            palette: Color of each class, that of the background first.
            inference: The inference strategy; that of the settings unless given.
        """
        look = palette, self.thresholds, inference or self.inference, self.pixels
        return MultiLabelPredictor(self.network, self.class_names, *look)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K, H, W) of images (B, C, H, W), for evaluation: in float32."""
        with full_precision(images.device):
            return self.network(images) if self.inference is None else self.inference(self.network, images)

    def decide(self, logits: Tensor) -> Tensor:
        """Tell from logits (B, K, H, W) which classes are predicted, (B, K, H, W) bool."""
        return decide(logits, self.thresholds)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        logits = self.network(batch["image"])
        if isinstance(logits, tuple):
            first, second = (mixed_loss(self.loss, part, batch) for part in logits[:2])
            loss = first + self.auxiliary_weight * second
        else:
            loss = mixed_loss(self.loss, logits, batch)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["image"]))
        weights = self.loss.weights if isinstance(self.loss, MultiLabelLoss) else None
        return loss * share_of(batch["mask"], weights)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        """Return the logits (K, H, W) of each image of the batch."""
        return logits_of_each(self, batch)

    def _check_weights(self) -> None:
        for part in self.loss.modules():
            weights = part.positive_weights if isinstance(part, MultiLabelLoss) else None
            if weights is not None and len(weights) != len(self.scored_classes):
                raise UserError(
                    f"positive_weights of {type(part).__name__} needs {len(self.scored_classes)} numbers, one for each "
                    f"of {', '.join(self.scored_classes)} (the background has none); got {len(weights)}."
                )

    def _balance(self, losses: list[MultiLabelLoss], stage: str) -> None:
        """Compute the weights from the training split, or make room for those of a checkpoint."""
        if stage != "fit":
            for part in losses:
                part.expect_weights(len(self.scored_classes))
            return
        positive, counted = map(torch.from_numpy, self._once(positive_pixels))
        for part in losses:
            weights = part.set_counts(positive, counted)
            self._report_weights(f"positive_weights/{part.balance}", weights, "pixels with them weigh")

    def _evaluate(self, batch: Batch) -> None:
        if not self.counts(batch):
            return
        for images, masks, index in same_size(batch):
            logits = self(images)
            if logits.shape[-2:] != masks.shape[-2:]:
                # the prediction is fitted to the mask, never the reverse
                logits = F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
            self.histograms.update(logits, masks)
            self.eval_loss.update(self.loss(logits, masks), weight=(masks != IGNORE_INDEX).sum())
            if self.image_counts is not None:
                self.image_counts.update(self.decide(logits), masks, index)

    def _log_scores(self, split: str) -> None:
        # compute() is where processes meet; the keys logged are the same on each of them.
        histograms = self.histograms.compute().cpu().numpy()
        if self.tunes and split == "val":
            self.thresholds.copy_(torch.from_numpy(best_thresholds(histograms)))
        thresholds = self.thresholds.cpu().numpy()
        self.counts_of_classes = counts = counts_at(histograms, thresholds)
        wrong = (counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]).sum()
        self._accuracy = 1 - float(ratio(wrong, histograms.sum()))
        result, precision = self.result, average_precision(histograms)
        self.image_scores = {
            "map": class_mean(precision),
            "ap_per_class": precision,
            "threshold_per_class": probabilities_of(thresholds),
        }
        found: Values = {"loss": float(self.eval_loss.compute()), **result.means(), **self.image_scores}
        found |= {"iou_per_class": result.iou_per_class, "dice_per_class": result.dice_per_class}
        values = by_class(found, split, self.scored_classes)
        self.log(f"{split}/miou", values.pop(f"{split}/miou"), prog_bar=True)
        self.log_dict(values)
        self.histograms.reset()
        self.eval_loss.reset()
