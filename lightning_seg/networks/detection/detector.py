"""Base of the networks for instance segmentation, built from torchvision's parts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.pyramid import ViTDetPyramid
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.networks.detection.anchors import Anchors

Objects = dict[str, Tensor]
"""The objects of one image: "boxes" (N, 4) as x1, y1, x2, y2 in pixels, "labels" (N,), "masks" (N, H, W)."""


class Detector(BackboneNetwork, ABC):
    """A network for instance segmentation: losses in training, objects in evaluation.

    A subclass sets `decoder`, and `head` to a `DetectionHead`.

    Args:
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        min_size: In evaluation, images are resized so that their shorter side has this many pixels; training images
            come as the data module cuts them. None leaves the size alone.
        max_size: Limit of the longer side after that, in pixels.
        levels: Which of the maps of strides 4 to 32 are read (see `BackboneNetwork`).
        in_channels: Number of channels of an image; comes from the data.
    """

    head: "DetectionHead"
    default_pyramid = ViTDetPyramid

    def __init__(
        self,
        backbone: str | Backbone,
        weights: bool | str,
        min_size: int | None,
        max_size: int,
        levels: Sequence[int] = (),
        in_channels: int = 3,
    ) -> None:
        super().__init__(backbone, weights, 32, levels, in_channels)
        self.min_size, self.max_size = min_size, max_size

    @property
    def anchors(self) -> Anchors:
        """The anchor boxes of the region proposal network."""
        out: Anchors = self.head.rpn.anchor_generator
        return out

    def forward(
        self, images: Tensor, targets: Sequence[Objects] | None = None
    ) -> dict[str, Tensor] | list[Objects]:
        """Return the losses in training, the objects in evaluation.

        Args:
            images: (B, C, H, W), in the values of their files; any H and W.
            targets: In training, the true objects of each image, perhaps none: "boxes" (N, 4) float, "labels" (N,)
                int64 from 1 on, "masks" (N, H, W) uint8.

        Returns:
            In training losses by name. In evaluation the objects of each image by decreasing score, with "scores" (N,)
            in 0..1; masks are the probability of each pixel.
        """
        size = (images.shape[-2], images.shape[-1])
        x = self.backbone.normalize(images)
        if self.min_size is not None and not self.training:
            x = _resize(x, self.min_size, self.max_size)
        resized = (x.shape[-2], x.shape[-1])
        x = F.pad(x, (0, -resized[1] % self.stride, 0, -resized[0] % self.stride))
        features = self.backbone(self.pad_to_patches(x))
        if self.neck is not None:
            features = self.neck(features, x)
        found, losses = self.head(self.decode(features), x, resized, targets)
        return losses if self.training else [_fit(objects, resized, size) for objects in found]

    @abstractmethod
    def decode(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Turn the backbone's feature maps into the inputs of `head`, by name, finest first."""


class DetectionHead(nn.Module):
    """Region proposal network and region-of-interest heads.

    Args:
        rpn: Makes proposals from feature maps.
        roi_heads: Makes objects from proposals.
    """

    def __init__(self, rpn: RegionProposalNetwork, roi_heads: RoIHeads) -> None:
        super().__init__()
        self.rpn: Any = rpn
        self.roi_heads: Any = roi_heads

    def forward(
        self,
        features: dict[str, Tensor],
        padded: Tensor,
        size: tuple[int, int],
        targets: Sequence[Objects] | None,
    ) -> tuple[list[Objects], dict[str, Tensor]]:
        """Find objects in feature maps.

        Args:
            features: Feature maps by name, finest first.
            padded: The images (B, 3, H, W) that they were made of.
            size: Height and width of the images without padding, in pixels.
            targets: The true objects of each image, in training.

        Returns:
            The objects of each image (in evaluation), and losses by name (in training).
        """
        # Coordinates take the type of the features; bfloat16 would round those beyond 256 to even numbers and worse.
        features = {name: level.float() for name, level in features.items()}
        images = ImageList(padded, [size] * len(padded))
        proposals, losses = self.rpn(images, features, targets)
        found, more = self.roi_heads(features, proposals, images.image_sizes, targets)
        return found, more | losses


class RoIAlign(MultiScaleRoIAlign):
    """RoIAlign with a given stride; torchvision infers it once, from the first image without its padding."""

    def __init__(self, names: list[str], output_size: int, stride: int) -> None:
        super().__init__(names, output_size, sampling_ratio=2)
        self.stride = stride

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        """Cut the boxes (N, 4) of each image, in pixels, out of maps (B, C, h, w): (N of all, C, size, size)."""
        height, width = x[self.featmap_names[0]].shape[-2:]
        out: Tensor = super().forward(x, boxes, [(height * self.stride, width * self.stride)])
        return out


class _RPNHead(RPNHead):
    """Gives float32 under autocast, too (see `BoxPredictor`)."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, shifts = super().forward(x)
        return [level.float() for level in scores], [level.float() for level in shifts]


class BoxPredictor(FastRCNNPredictor):
    """Gives float32 under autocast, too: coordinates are computed in the type of what it gives."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N, classes) and shifts (N, 4 * classes) for the features of N boxes."""
        scores, shifts = super().forward(x)
        return scores.float(), shifts.float()


class MaskPredictor(MaskRCNNPredictor):
    """Gives float32 under autocast, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes, 2h, 2w) for maps (N, C, h, w) of N boxes."""
        out: Tensor = super().forward(x).float()
        return out


def rpn(channels: int, anchors: Anchors, proposals: tuple[int, int], depth: int = 1) -> RegionProposalNetwork:
    """Make a region proposal network with torchvision's settings.

    Args:
        channels: Channels of the feature maps.
        anchors: Anchor boxes.
        proposals: Number of proposals kept of each image in training, and in evaluation.
        depth: Number of convolutions.
    """
    kept = {"training": proposals[0], "testing": proposals[1]}
    return RegionProposalNetwork(
        anchors,
        _RPNHead(channels, anchors.num_anchors_per_location()[0], depth),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=kept,
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )


def roi_options(samples: int, detections: int) -> dict[str, Any]:
    """Return torchvision's settings of RoIHeads for this number of training proposals and of objects an image."""
    return {
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": samples,
        "positive_fraction": 0.25,
        "bbox_reg_weights": None,
        "score_thresh": 0.05,
        "nms_thresh": 0.5,
        "detections_per_img": detections,
    }


def _resize(x: Tensor, min_size: int, max_size: int) -> Tensor:
    height, width = x.shape[-2:]
    scale = min(min_size / min(height, width), max_size / max(height, width))
    size = (math.floor(height * scale), math.floor(width * scale))
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _fit(objects: Objects, resized: tuple[int, int], size: tuple[int, int]) -> Objects:
    """Bring boxes and masks to the size of the image."""
    down, right = (new / old for new, old in zip(size, resized, strict=True))
    boxes = objects["boxes"] * objects["boxes"].new_tensor([right, down, right, down])
    return objects | {"boxes": boxes, "masks": paste_masks_in_image(objects["masks"], boxes, size)[:, 0]}
