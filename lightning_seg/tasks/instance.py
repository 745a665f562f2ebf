"""Instance segmentation: which object is this pixel?"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.dataset import Split
from lightning_seg.data.transforms.batch import Batch
from lightning_seg.inference.precision import full_precision
from lightning_seg.inference.predictor import ImageLike, ObjectPredictor
from lightning_seg.metrics.confusion import ConfusionMatrix
from lightning_seg.metrics.images import by_class
from lightning_seg.metrics.instance import ObjectScores, arrays, view_of_found, view_of_truth
from lightning_seg.metrics.scores import scores
from lightning_seg.networks.detection.anchors import DataAnchors
from lightning_seg.networks.detection.detector import Detector, Objects
from lightning_seg.tasks.base import SegmentationTask
from lightning_seg.training.finetune.policies import Full


class InstanceSegmentation(SegmentationTask):
    """Train a network on objects and score what it finds as COCO does.

    Batches are dictionaries with ``image`` (B, 3, H, W), ``targets``, the objects of each image (see
    `lightning_seg.data.instances`), and, in evaluation, ``index`` (B,) and optionally ``size`` (B, 2). Logged are the
    scores of `lightning_seg.metrics.instance.ObjectScores` as ``val/mask_ap``, ``val/mask_ap/<class>`` and so on.

    The same prediction is also seen as a semantic one: the objects that are confident enough, merged by class, the
    most confident on top. Its scores are those of the semantic task, by the same confusion matrix: ``val/miou``,
    ``val/iou/<class>``.

    Args:
        network: Gives losses in training and objects in evaluation.
        optimizer: Makes the optimizer from the trainable parameters.
        class_names: The classes in label order, the background first; comes from the data module.
        lr_scheduler: Makes the scheduler from the optimizer and the total number of optimizer steps.
        finetune: Which parts of the backbone train, and how; all of it unless given.
        score_threshold: From which score on an object is in panoptic quality, the semantic view and pictures; average
            precision takes all.
        **options: `no_decay`, `lr_scaling`, `gradient_checkpointing`, `compile` and `pixels`; see `SegmentationTask`.

    Attributes:
        image_scores: Scores of the objects of the last finished evaluation, over all processes.
        matrix: Confusion matrix (C, C) of its semantic view.
        mask_ap_left_out: Mask AP of the last test without each block of images (see `ObjectScores.left_out`).
        panoptic_counts: What each image of the last test adds to panoptic quality, (N, C, 4).
        per_image: Counts (N, C, 3) of the semantic view of the last test: intersection, predicted, true pixels.

    Examples:
        >>> network = MaskRCNN(num_classes=2, backbone="test_resnet", weights=False, hidden=64)
        >>> task = InstanceSegmentation(network, torch.optim.AdamW, ("background", "cell"))
        >>> task.monitor, task.instances
        ('val/mask_ap', True)
    """

    network: Detector
    monitor = "val/mask_ap"
    instances = True
    inference = postprocess = None  # objects are found in the whole image, once

    def __init__(
        self,
        network: Detector,
        optimizer: Callable[[Iterable], Optimizer],
        class_names: tuple[str, ...],
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        finetune: Full | None = None,
        score_threshold: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(network, optimizer, class_names, lr_scheduler, finetune, **options)
        self.score_threshold = score_threshold
        self.objects = ObjectScores(len(class_names))
        self.confusion = ConfusionMatrix(len(class_names))
        self.mask_ap_left_out = np.zeros(0)
        self.panoptic_counts = np.zeros((0, len(class_names), 4))

    def on_fit_start(self) -> None:
        """Load the pretrained weights for a fresh training, and fit the anchors to the data if they are to be."""
        super().on_fit_start()
        if self.trainer.ckpt_path is None and isinstance(self.network.anchors, DataAnchors):
            self._fit_anchors(self.network.anchors)

    def predict(self, image: ImageLike) -> dict[str, np.ndarray]:
        """Return the objects in an image as masks, boxes, labels, classes and scores.

        Args:
            image: A file, a PIL image or an array (H, W, 3); see `lightning_seg.inference.predictor.ObjectPredictor`.
        """
        look = self._palette, self.score_threshold, self.pixels
        return ObjectPredictor(self.network, self.class_names, *look)(image)

    def forward(self, images: Tensor) -> list[Objects]:
        """Return the objects in images (B, 3, H, W) in 0..255, for evaluation: in float32."""
        with full_precision(images.device):
            return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, the sum of those of proposals, classes, boxes and masks."""
        losses = self.network(batch["image"], [_without_crowds(target) for target in batch["targets"]])
        loss = torch.stack(list(losses.values())).sum()
        count = len(batch["image"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=count)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=count)
        return loss

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split, and keep the counts of its images and the mask AP without some of them."""
        self.mask_ap_left_out = self.objects.left_out(groups=self._test_groups())
        self.panoptic_counts = self.objects.counts()
        super().on_test_epoch_end()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, np.ndarray]]:
        """Return the objects of each image of the batch, as `arrays` has them."""
        return [arrays(found) for images, _ in _same_size(batch) for found in self(images)]

    def _evaluate(self, batch: Batch) -> None:
        if not self.counts(batch):
            return
        for images, places in _same_size(batch):
            for place, found in zip(places, self(images), strict=True):
                self._score(int(batch["index"][place]), arrays(found), arrays(batch["targets"][place]))

    def _score(self, index: int, found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
        views = view_of_found(found, self.score_threshold), view_of_truth(truth)
        self.objects.update(index, found, truth, *views)
        labels, true_labels = (torch.from_numpy(view.labels)[None].to(self.device) for view in views)
        self.confusion.update(labels, true_labels)
        if self.image_counts is not None:
            self.image_counts.update(labels, true_labels, torch.tensor([index], device=self.device))

    def _log_scores(self, split: str) -> None:
        # Both compute() are where processes meet; the keys logged are the same on each of them.
        self.image_scores, self.matrix = self.objects.compute(), self.confusion.compute().cpu().numpy()
        semantic = scores(self.matrix)
        values = by_class(
            {"iou_per_class": semantic.iou_per_class, **semantic.means()}, split, self.class_names
        )
        objects = {  # of each class but the background, which has none
            name: value[1:] if isinstance(value, np.ndarray) else value
            for name, value in self.image_scores.items()
        }
        values |= by_class(objects, split, self.class_names[1:])
        self.log(f"{split}/mask_ap", values.pop(f"{split}/mask_ap"), prog_bar=True)
        self.log_dict(values)
        self.objects.reset()
        self.confusion.reset()

    def _fit_anchors(self, anchors: DataAnchors) -> None:
        """Adapt the anchors to the objects of the training split, as augmentation makes them."""
        boxes = self._once(_boxes)
        sizes, shapes = anchors.fit(boxes.to(anchors.cells.device))
        if self.trainer.is_global_zero:
            listed = (", ".join(f"{value:.3g}" for value in values) for values in (sizes, shapes))
            print("anchors  {} pixels, height to width {}; of {} objects".format(*listed, len(boxes)))


def _boxes(data: SegmentationData, most: int = 500) -> Tensor:
    """Boxes (N, 4) of training samples that are spread evenly over the split."""
    split = Split(data, data.train_split, train=True)
    places = np.unique(np.linspace(0, len(split) - 1, most).astype(int)).tolist()
    targets = [_without_crowds(split[place]["targets"]) for place in places]
    return torch.cat([target["boxes"] for target in targets])


def _without_crowds(target: Objects) -> Objects:
    """Leave out what stands for several objects at once: it is no example of one."""
    keep = ~target["iscrowd"] if "iscrowd" in target else slice(None)
    return {key: target[key][keep] for key in ("boxes", "labels", "masks")}


def _same_size(batch: Batch) -> Iterator[tuple[Tensor, list[int]]]:
    """Undo the padding of images of different sizes, so that a score never depends on what shared a batch.

    Yields:
        Images (B, 3, H, W), and their places in the batch.
    """
    images = batch["image"]
    if "size" not in batch:
        yield images, list(range(len(images)))
        return
    for place, (height, width) in enumerate(batch["size"].tolist()):
        yield images[place : place + 1, :, :height, :width], [place]
