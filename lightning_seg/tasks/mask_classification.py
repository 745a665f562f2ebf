"""Mask classification: one network for semantic, instance and panoptic segmentation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from lightning_seg.data.instances import boxes_from_masks
from lightning_seg.data.transforms.batch import Batch, Item
from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import Inferer
from lightning_seg.inference.precision import full_precision
from lightning_seg.inference.predictor import ImageLike, SegmentPredictor
from lightning_seg.inference.segments import Segmented, SegmentRules
from lightning_seg.metrics.images import ImageMetric, by_class
from lightning_seg.metrics.instance import ObjectArrays, View
from lightning_seg.metrics.panoptic import PanopticScores, view_of_segments
from lightning_seg.networks.mask_network import MaskNetwork, Queries, class_logits
from lightning_seg.postprocess.chain import Step
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.checkpoint_io import Checkpoint
from lightning_seg.training.finetune.policies import Full
from lightning_seg.training.mask_loss import LayerLoss, MaskLoss, targets_of


class MaskClassification(SemanticSegmentation):
    """Train queries on segments, and score them as classes, as objects and as segments.

    Batches are those of `SemanticSegmentation`, and have the segments of each image (see
    `lightning_seg.data.segments`). Any data set will do: without `things` a class is a segment. Logged are the scores
    of classes (``val/miou``, ...) and those of `lightning_seg.metrics.panoptic.PanopticScores` (``val/pq``,
    ``val/pq/<class>``, ``val/pq_things``, ``val/mask_ap``, ...). ``train/loss`` and
    ``val/loss`` are the loss of the final queries; ``train/loss_of_layers`` is the sum over all layers, which trains.

    Args:
        network: Gives queries.
        optimizer: Makes the optimizer from the trainable parameters.
        class_names: The classes in label order; comes from the data module.
        things: Classes that have objects; comes from the data module.
        output: What a prediction gives (`predict`, `lightning_seg.load`, ``lightning-seg predict``): each pixel's
            segment, the objects, which may overlap, or each pixel's class. Unless given segments, but classes where
            the data has no `things` or where there is an `inference` strategy.
        loss: The loss of the queries.
        rules: How queries become segments and objects.
        lr_scheduler: Makes the scheduler from the optimizer and the total number of optimizer steps.
        finetune: Which parts of the backbone train, and how; all of it unless given.
        inference: How the classes of a large image are computed; segments are computed from whole images only, so that
            there are no scores of segments then: set ``checkpoint.monitor: val/miou``.
        postprocess: As for `SemanticSegmentation`, for classes.
        metrics: As for `SemanticSegmentation`, of classes.
        val_metrics: Compute them in every validation too.
        temperature: What the logits of classes are divided by where probabilities are asked for.
        **options: `no_decay`, `lr_scaling`, `gradient_checkpointing`, `compile` and `pixels`; see `SegmentationTask`.

    Attributes:
        panoptic_counts: What each image of the last test adds to panoptic quality, (N, C, 4).
        mask_ap_left_out: Mask AP of the last test without each block of images, (J,); with `things`.

    Raises:
        UserError: The network gives no queries, or `output` needs whole images and there is an `inference` strategy.

    Examples:
        >>> network = EoMT(num_classes=3, backbone="test_vit", weights=False, queries=10, blocks=1)
        >>> task = MaskClassification(network, torch.optim.AdamW, ("ground", "cat", "dog"), things=(1, 2))
        >>> task.monitor, task.segments
        ('val/pq', True)
    """

    network: MaskNetwork
    monitor = "val/pq"
    segments = True

    def __init__(
        self,
        network: MaskNetwork,
        optimizer: Callable[[Iterable], Optimizer],
        class_names: tuple[str, ...],
        things: tuple[int, ...] = (),
        output: Literal["segments", "objects", "classes"] | None = None,
        loss: MaskLoss | None = None,
        rules: SegmentRules | None = None,
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        finetune: Full | None = None,
        inference: Inferer | None = None,
        postprocess: list[Step] | None = None,
        metrics: list[ImageMetric | Metric] | None = None,
        val_metrics: bool = False,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        if not isinstance(network, MaskNetwork):
            raise UserError(
                f"MaskClassification needs a network of queries, EoMT or another MaskNetwork, not "
                f"{type(network).__name__}; that is for task: SemanticSegmentation."
            )
        super().__init__(
            network,
            optimizer,
            class_names,
            None,
            lr_scheduler,
            finetune,
            inference=inference,
            postprocess=postprocess,
            metrics=metrics,
            val_metrics=val_metrics,
            temperature=temperature,
            **options,
        )
        if inference is not None and output not in (None, "classes"):
            raise UserError(
                f"model.output is {output}, which whole images have only: leave model.inference out, or set "
                "model.output: classes."
            )
        self.output = output
        self.mask_loss = loss or MaskLoss()
        self.rules = rules or SegmentRules()
        self.set_things(things)
        self.panoptic_counts = np.zeros((0, len(class_names), 4))
        self.mask_ap_left_out = np.zeros(0)

    @property
    def gives(self) -> Literal["segments", "objects", "classes"]:
        """What a prediction gives.

        Raises:
            UserError: It is to give objects, but no class has any.
        """
        if self.output == "objects" and not self.things:
            raise UserError(
                "model.output is objects, but the data set has no things, classes that have objects."
            )
        return self.output or ("segments" if self.things and self.inference is None else "classes")

    def predictor(self, palette: tuple[tuple[int, int, int], ...]) -> SegmentPredictor:
        """Return the network with all that predictions of segments or objects need.

        Args:
            palette: The color of each class.
        """
        look = self.rules, self.things, self.gives == "objects", self.pixels
        return SegmentPredictor(self.network, self.class_names, palette, *look)

    def predict(  # type: ignore[override]
        self, image: ImageLike
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Return what `output` says of an image; the network is in evaluation mode afterwards.

        Args:
            image: A file, a PIL image or an array (H, W, 3); see `lightning_seg.inference.predictor.SegmentPredictor`.
        """
        return super().predict(image) if self.gives == "classes" else self.predictor(self._palette)(image)

    def predict_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int
    ) -> Sequence[Tensor | Segmented | ObjectArrays]:
        """Return logits (C, H, W), a `Segmented` or objects (see `SegmentRules.instances`) for each image."""
        if self.gives == "classes":
            return super().predict_step(batch, batch_idx)
        make: Callable[..., Segmented | ObjectArrays]
        make = self.rules.instances if self.gives == "objects" else self.rules.found
        images, sizes = batch["image"], _sizes(batch)
        return [
            make(self.queries(images[i : i + 1, :, :height, :width]), self.things)
            for i, (height, width) in enumerate(sizes)
        ]

    def set_things(self, things: Iterable[int]) -> None:
        """Say which classes have objects."""
        self.things = tuple(things)
        self.panoptic = PanopticScores(len(self.class_names), self.things)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Write down what a prediction needs."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["things"] = list(self.things)

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Read what `on_save_checkpoint` has written."""
        super().on_load_checkpoint(checkpoint)
        self.set_things(checkpoint.get("things", self.things))

    def _follows_progress(self) -> str:
        anneals = type(self.network).anneal is not MaskNetwork.anneal
        masks = f"{type(self.network).__name__}: how often attention is masked" if anneals else ""
        return super()._follows_progress() or masks

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Tell the network how much of the training is done."""
        super().on_train_batch_start(batch, batch_idx)
        self.network.anneal(self.global_step / self.trainer.estimated_stepping_batches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, the sum over all supervised layers."""
        layers = self.network(batch["image"])
        numbers = self.network.pad_segments(batch["segments"])
        targets = targets_of(numbers, batch["segment_class"], batch["segment_list"])
        losses: list[LayerLoss] = self.mask_loss(layers, targets)
        total = torch.stack([loss.total for loss in losses]).sum()
        last, count = losses[-1], len(batch["image"])
        self.log("train/loss", last.total.detach(), prog_bar=True, batch_size=count)
        values = {f"train/loss_{name}": value.detach() for name, value in last._asdict().items()}
        self.log_dict(values | {"train/loss_of_layers": total.detach()}, batch_size=count)
        return total

    def queries(self, images: Tensor) -> Queries:
        """Return the queries of images (B, C, H, W), masks at their size, for evaluation: in float32."""
        with full_precision(images.device):
            return self.network.queries(images)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split and keep the counts of its images."""
        self.panoptic_counts = self.panoptic.counts()
        if self.things and self.inference is None:
            self.mask_ap_left_out = self.panoptic.left_out(self._test_groups())
        super().on_test_epoch_end()

    def measured(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield logits (1, C, H, W), masks (1, H, W), and the loss of the queries."""
        if self.inference is not None:
            yield from super().measured(batch)
            return
        for image, sample in _one_by_one(batch):
            queries = self.queries(image)
            yield class_logits(queries), sample["mask"], self._loss_of(queries, sample)

    def _loss_of(self, queries: Queries, sample: Batch) -> Tensor:
        targets = targets_of(sample["segments"], sample["segment_class"], sample["segment_list"])
        found: list[LayerLoss] = self.mask_loss([queries], targets)
        return found[0].total

    def _evaluate(self, batch: Batch) -> None:
        if self.inference is not None:
            super()._evaluate(batch)
            return
        if not self.counts(batch):
            return
        for image, sample in _one_by_one(batch):
            queries = self.queries(image)
            loss = self._loss_of(queries, sample)
            self._count(class_logits(queries), sample["mask"], sample["index"], image, loss)
            columns = sample["segments"], sample["segment_class"], sample["segment_crowd"]
            self._score(int(sample["index"]), queries, *(column[0].cpu().numpy() for column in columns))

    def _score(
        self, index: int, queries: Queries, numbers: np.ndarray, classes: np.ndarray, crowd: np.ndarray
    ) -> None:
        truth, crowds = view_of_segments(numbers, classes, crowd)
        found = self.rules.segments(queries, self.things)
        objects: tuple[ObjectArrays, ObjectArrays] | None = None
        if self.things:
            objects = (
                self.rules.instances(queries, self.things),
                _objects(numbers, classes, crowd, self.things),
            )
        self.panoptic.update(index, found, truth, crowds, objects)

    def _log_scores(self, split: str) -> None:
        self.image_scores = {}
        super()._log_scores(split)
        if self.inference is None:
            found = self.panoptic.compute()
            self.image_scores |= found
            values = by_class(found, split, self.class_names)
            self.log(
                self.monitor if split == "val" else f"{split}/pq", values.pop(f"{split}/pq"), prog_bar=True
            )
            self.log_dict(values)
        self.panoptic.reset()

    def views(self, image: Tensor, sample: Item) -> tuple[View, View]:
        """Return the true and the predicted segments of a sample, whose image is given as a batch (1, C, H, W)."""
        columns = sample["segments"], sample["segment_class"], sample["segment_crowd"]
        truth = view_of_segments(*(column.cpu().numpy() for column in columns))[0]
        return truth, self.rules.segments(self.queries(image), self.things)


def _sizes(batch: Batch) -> list[tuple[int, int]]:
    """Return the size of each image of a batch, without padding."""
    images = batch["image"]
    return batch["size"].tolist() if "size" in batch else [(images.shape[-2], images.shape[-1])] * len(images)


def _one_by_one(batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
    """Yield each image of a batch (1, C, H, W) and what belongs to it, without padding."""
    for i, (height, width) in enumerate(_sizes(batch)):
        one = slice(i, i + 1)
        yield (
            batch["image"][one, :, :height, :width],
            {
                "index": batch["index"][one],
                "mask": batch["mask"][one, :height, :width],
                "segments": batch["segments"][one, :height, :width],
                "segment_class": batch["segment_class"][one],
                "segment_crowd": batch["segment_crowd"][one],
                "segment_list": batch["segment_list"][one],
            },
        )


def _objects(
    numbers: np.ndarray, classes: np.ndarray, crowd: np.ndarray, things: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return the true objects of an image, crowds included."""
    present = np.array([n for n in np.unique(numbers) if classes[n] in things], int)
    masks = numbers == present[:, None, None]
    boxes = (
        boxes_from_masks(torch.from_numpy(masks)).numpy() if len(present) else np.zeros((0, 4), np.float32)
    )
    return {
        "boxes": boxes,
        "labels": classes[present].astype(np.int64),
        "masks": masks,
        "iscrowd": crowd[present],
    }
