"""Semantic segmentation: which class is this pixel?"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.class_frequencies import class_frequencies
from lightning_seg.data.pixels import RGB
from lightning_seg.data.transforms.batch import Batch, Item
from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import Inferer
from lightning_seg.inference.precision import full_precision
from lightning_seg.inference.predictor import ImageLike, Predictor
from lightning_seg.metrics.confusion import ConfusionMatrix, predicted_labels
from lightning_seg.metrics.images import ImageMetric, ImageTables, Values, by_class
from lightning_seg.metrics.mean import WeightedMean
from lightning_seg.metrics.scores import scores
from lightning_seg.metrics.torch_metric import TorchMetric
from lightning_seg.networks.base import Network
from lightning_seg.postprocess.chain import Chain, Step
from lightning_seg.tasks.base import SegmentationTask, number_of_images
from lightning_seg.tasks.batches import logits_of_each, mixed_loss, same_size, share_of
from lightning_seg.training.any_loss import AnyLoss, adapted
from lightning_seg.training.finetune.policies import Full
from lightning_seg.training.losses import CrossEntropy, PixelLoss, balanced_losses, check_class_weights


class SemanticSegmentation(SegmentationTask):
    """Train a network on masks and score it by one confusion matrix.

    Batches are dictionaries with ``image`` (B, C, H, W), ``mask`` (B, H, W) uint8 and, in evaluation, ``index``
    (B,) and optionally ``size`` (B, 2). Scores are those of `lightning_seg.metrics.scores.Scores`, over all pixels
    of the split, logged as ``val/miou``, ``val/iou/<class>`` and so on.

    Args:
        network: Maps images (B, C, H, W), with the values of their files, to logits (B, classes, H, W).
        optimizer: Makes the optimizer from the trainable parameters.
        class_names: The classes in label order; comes from the data module.
        loss: Maps logits (B, C, H, W) and masks (B, H, W) to a scalar; cross-entropy unless given. That of another
            library is tried first, see `lightning_seg.training.any_loss`.
        lr_scheduler: Makes the scheduler from the optimizer and the total number of optimizer steps; it is
            stepped after every optimizer step. Without one the learning rate is constant.
        finetune: Which parts of the backbone train, and how; all of it unless given.
        auxiliary_weight: Factor on the loss of each auxiliary head of the network, where it has any.
        inference: How the logits of evaluation and prediction are computed; of the whole image unless given.
        postprocess: What is done to the predictions of test and predict, one step after the other; validation, which
            chooses the checkpoint, scores the network alone.
        metrics: Scores beyond overlap, computed in the test: this package's, and any of torchmetrics.
        val_metrics: Compute them in every validation too.
        temperature: What logits are divided by where probabilities are asked for: in post-processing and in scores
            of probabilities. Commands on a finished run give what `lightning-seg calibrate` has found for it.
        **options: `no_decay`, `lr_scaling`, `gradient_checkpointing`, `compile` and `pixels`; see `SegmentationTask`.

    Attributes:
        matrix: Confusion matrix (C, C) of the last finished evaluation, over all processes.
        per_image: Counts (N, C, 3) of the last finished test: intersection, predicted, true pixels.
        image_scores: The scores of `metrics` in the last finished evaluation that computed them.

    Raises:
        UserError: The network takes another number of channels than the images have, the loss has not one class weight
            for each class, or a metric is there twice.

    Examples:
        >>> network = UNet(num_classes=2, backbone="test_resnet", weights=False)
        >>> task = SemanticSegmentation(network, torch.optim.AdamW, ("other", "cup"), finetune=Frozen())
        >>> task.monitor, task(torch.zeros(2, 3, 64, 64)).shape
        ('val/miou', torch.Size([2, 2, 64, 64]))
    """

    network: Network

    def __init__(
        self,
        network: Network,
        optimizer: Callable[[Iterable], Optimizer],
        class_names: tuple[str, ...],
        loss: nn.Module | None = None,
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        finetune: Full | None = None,
        auxiliary_weight: float = 0.4,
        inference: Inferer | None = None,
        postprocess: list[Step] | None = None,
        metrics: list[ImageMetric | Metric] | None = None,
        val_metrics: bool = False,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(network, optimizer, class_names, lr_scheduler, finetune, **options)
        self.loss = adapted(loss or CrossEntropy(), len(class_names))
        check_class_weights(self.loss, class_names)
        self.auxiliary_weight = auxiliary_weight
        self.inference = inference
        self.postprocess = Chain(postprocess, class_names) if postprocess else None
        self.temperature = temperature
        self.metrics = [
            metric if isinstance(metric, ImageMetric) else TorchMetric(metric, len(class_names))
            for metric in metrics or []
        ]
        names = [metric.name for metric in self.metrics if isinstance(metric, TorchMetric)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(
                f"model.metrics: {', '.join(sorted(twice))} is there twice; scores go by the class's name."
            )
        self.val_metrics = val_metrics
        self.confusion = ConfusionMatrix(len(class_names))
        self.eval_loss = WeightedMean()
        self.image_tables: ImageTables | None = None

    def setup(self, stage: str) -> None:
        """Say how losses and metrics of other libraries are called, and compute class weights that the data decides."""
        super().setup(stage)
        if stage == "fit" and self.trainer.is_global_zero:
            for part in self.loss.modules():
                if isinstance(part, AnyLoss):
                    print(f"loss     {part.describe()}")
            for metric in self.metrics:
                if isinstance(metric, TorchMetric):
                    print(f"metric   {metric.describe()}")
        if balanced := balanced_losses(self.loss):
            self._balance(balanced, stage)

    def predict(self, image: ImageLike) -> np.ndarray:
        """Return the label of each pixel, (H, W) uint8; the network is in evaluation mode afterwards.

        Args:
            image: A file, a PIL image or an array (H, W, 3); see `lightning_seg.inference.predictor.Predictor`.
        """
        after = None if self.postprocess is None else self.postprocess.of_logits
        look = self._palette, self.inference, self.temperature, after, self.pixels
        return Predictor(self.network, self.class_names, *look)(image)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes, H, W) of images (B, C, H, W), for evaluation: in float32."""
        with full_precision(images.device):
            return self.network(images) if self.inference is None else self.inference(self.network, images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        logits = self.network(batch["image"])
        if isinstance(logits, tuple):
            loss, *others = (mixed_loss(self.loss, part, batch) for part in logits)
            loss = loss + self.auxiliary_weight * sum(others)
        else:
            loss = mixed_loss(self.loss, logits, batch)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["image"]))
        weights = self.loss.pixel_weights if isinstance(self.loss, PixelLoss) else None
        return loss * share_of(batch["mask"], weights)

    def on_validation_start(self) -> None:
        """Make room for what is measured in each image, if it is wanted already now."""
        if self.val_metrics:
            self.image_tables = self._tables(self.trainer.val_dataloaders)

    def on_test_start(self) -> None:
        """Make room for what is counted and measured in each test image."""
        super().on_test_start()
        self.image_tables = self._tables(self.trainer.test_dataloaders)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        """Return the logits (C, H, W) of each image of the batch."""
        return logits_of_each(self, batch)

    def evaluated(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield images, logits (B, C, H, W), masks (B, H, W), index (B,); images of different size one by one."""
        for images, masks, index in same_size(batch):
            logits = self(images)
            if logits.shape[-2:] != masks.shape[-2:]:
                # the prediction is fitted to the mask, never the reverse
                logits = F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
            yield images, logits, masks, index

    def measured(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield logits (B, C, H, W), masks (B, H, W), and their loss, that of validation."""
        for _, logits, masks, _ in self.evaluated(batch):
            yield logits, masks, self.loss(logits, masks)

    def _balance(self, losses: list[PixelLoss], stage: str) -> None:
        """Compute class weights from the training split, or make room for those of a checkpoint."""
        if stage != "fit":
            for part in losses:
                part.expect_weights(len(self.class_names))
            return
        counts = self._once(class_frequencies)
        for part in losses:
            self._report_weights(f"class_weights/{part.balance}", part.set_frequencies(*counts), "weigh")

    def _evaluate(self, batch: Batch) -> None:
        if not self.counts(batch):
            return
        for images, logits, masks, index in self.evaluated(batch):
            self._count(logits, masks, index, images)

    def _count(
        self, logits: Tensor, masks: Tensor, index: Tensor, images: Tensor, loss: Tensor | None = None
    ) -> None:
        """Add images to the scores; `loss` stands for that of the logits, where a task has another."""
        predictions = predicted_labels(logits) if self.image_counts is None else self.labels(logits, images)
        if self.postprocess is not None and bool((predictions >= len(self.class_names)).any()):
            raise UserError(
                "model.postprocess gives no answer for some pixels, which a test cannot score. Let "
                "ConfidenceThreshold go to: second, or judge it by 'lightning-seg postprocess'."
            )
        self.confusion.update(predictions, masks)
        self.eval_loss.update(
            self.loss(logits, masks) if loss is None else loss, weight=(masks != IGNORE_INDEX).sum()
        )
        if self.image_counts is not None:
            self.image_counts.update(predictions, masks, index)
        if self.image_tables is not None:
            self.image_tables.update(predictions, masks, index, logits / self.temperature)

    def labels(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return the final labels (B, H, W) of logits (B, classes, H, W) and images (B, C, H, W)."""
        if self.postprocess is None:
            return predicted_labels(logits)
        if self.pixels != RGB:  # its steps look at pictures
            shown = [self.pixels.picture(image.permute(1, 2, 0).cpu().numpy()) for image in images]
            images = torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in shown]).to(images.device)
        pairs = zip(logits / self.temperature, images, strict=True)
        return torch.stack([self.postprocess.of_logits(*pair) for pair in pairs])

    def _tables(self, loader: DataLoader[Item] | None) -> ImageTables | None:
        if not self.metrics:
            return None
        return ImageTables(self.metrics, number_of_images(loader), len(self.class_names), self.device)

    def _log_scores(self, split: str) -> None:
        # compute() is where processes meet; the keys logged are the same on each of them.
        self.matrix = self.confusion.compute().cpu().numpy()
        result = scores(self.matrix)
        found: Values = {
            "loss": float(self.eval_loss.compute()),
            **result.means(),
            "iou_per_class": result.iou_per_class,
        }
        if self.image_tables is not None:
            self.image_scores = self.image_tables.scores()
            self.image_tables = None
            found |= self.image_scores
        values = by_class(found, split, self.class_names)
        self.log(f"{split}/miou", values.pop(f"{split}/miou"), prog_bar=True)
        self.log_dict(values)
        self.confusion.reset()
        self.eval_loss.reset()
