"""Mask R-CNN: objects, each with a box, a class and a mask."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lightning_seg.errors import UserError
from lightning_seg.networks.anchors import Anchors
from lightning_seg.networks.backbone import Encoder
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.networks.weights import read_file

Objects = dict[str, Tensor]
"""The objects of one image: "boxes" (N, 4) as x1, y1, x2, y2 in pixels, "labels" (N,), "masks" (N, H, W)."""

STRIDES = (4, 8, 16, 32)
# COCO numbers its 80 classes up to 90; torchvision's networks have an output for every number.
COCO_NUMBERS = [n for n in range(91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


class Detector(BackboneNetwork, ABC):
    """A network that finds objects: losses in training, objects in evaluation.

    A subclass sets `decoder`, and `head` to a `DetectionHead`.

    Args:
        backbone: A timm model's name, or an encoder.
        weights: Pretrained weights of the backbone (see `Backbone`).
        min_size: In evaluation, images are resized so that their shorter side has so many pixels; training images
            come as the data module cuts them. None leaves the size alone.
        max_size: Limit of the longer side after that, in pixels.
    """

    head: "DetectionHead"

    def __init__(
        self, backbone: str | Encoder, weights: bool | str, min_size: int | None, max_size: int
    ) -> None:
        super().__init__(backbone, weights, output_stride=32)
        self.min_size, self.max_size = min_size, max_size

    @property
    def anchors(self) -> Anchors:
        """Where the network begins to look for objects."""
        return self.head.rpn.anchor_generator

    def forward(
        self, images: Tensor, targets: Sequence[Objects] | None = None
    ) -> dict[str, Tensor] | list[Objects]:
        """Return the losses in training, the objects in evaluation.

        Args:
            images: (B, 3, H, W), uint8 or float, in 0..255; any H and W.
            targets: In training, the true objects of each image, perhaps none: "boxes" (N, 4) float, "labels" (N,)
                int64 from 1 on, "masks" (N, H, W) uint8.

        Returns:
            In training losses by name. In evaluation the objects of each image, the surest first, with "scores" (N,)
            in 0..1; masks are the probability of each pixel.
        """
        size = (images.shape[-2], images.shape[-1])
        x = self.backbone.normalize(images)
        if self.min_size is not None and not self.training:
            x = _resize(x, self.min_size, self.max_size)
        resized = (x.shape[-2], x.shape[-1])
        x = F.pad(x, (0, -resized[1] % self.stride, 0, -resized[0] % self.stride))
        found, losses = self.head(self.decode(self.backbone(x)), x, resized, targets)
        return losses if self.training else [_fit(objects, resized, size) for objects in found]

    @abstractmethod
    def decode(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Turn the backbone's feature maps into those that objects are sought in, by name, finest first."""


class MaskRCNN(Detector):
    """Mask R-CNN (He et al., ICCV 2017) on a feature pyramid (Lin et al., CVPR 2017), of torchvision's parts.

    With ``resnet50`` and the defaults it computes what torchvision's ``maskrcnn_resnet50_fpn`` does, with
    `v2_heads` what ``maskrcnn_resnet50_fpn_v2`` does.

    Args:
        num_classes: Number of classes; class 0 is the background.
        backbone: A timm model's name with feature maps of strides 4, 8, 16 and 32, or an encoder.
        weights: Pretrained weights of the backbone (see `Backbone`).
        detector_weights: File of weights of torchvision's Mask R-CNN on the same backbone, for all parts. Its last
            layers are taken over if its classes are ours, or if it has COCO's 91 and we have its 80 and background.
        channels: Channels of the pyramid and of the mask branch.
        hidden: Width of the fully connected layers of the box branch.
        v2_heads: Four convolutions before the box branch, two before the proposals, and BatchNorm in pyramid, box
            and mask branch (Li et al., arXiv:2111.11429).
        anchors: Where to begin to look for objects; `DataAnchors` take their sizes from the training data.
        min_size: In evaluation, images are resized so that their shorter side has so many pixels; training images
            come as the data module cuts them. None leaves the size alone.
        max_size: Limit of the longer side after that, in pixels.
        proposals: Proposals that are kept of each image in training, and in evaluation.
        samples: Proposals of each image that the box and mask branch train on.
        detections: Objects that are kept of each image.

    Raises:
        UserError: The backbone lacks a feature map.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Encoder = "resnet50",
        weights: bool | str = True,
        detector_weights: str | None = None,
        channels: int = 256,
        hidden: int = 1024,
        v2_heads: bool = False,
        anchors: Anchors | None = None,
        min_size: int | None = None,
        max_size: int = 1333,
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        detections: int = 100,
    ) -> None:
        super().__init__(backbone, weights, min_size, max_size)
        self.detector_weights = detector_weights
        self.taps = [self.backbone.at_stride(stride) for stride in STRIDES]
        norm = nn.BatchNorm2d if v2_heads else None
        self.decoder = FeaturePyramidNetwork(
            [self.backbone.channels[tap] for tap in self.taps], channels, LastLevelMaxPool(), norm
        )
        box_head: nn.Module = TwoMLPHead(channels * 7 * 7, hidden)
        if v2_heads:
            box_head = FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [hidden], norm)
        names = [str(level) for level in range(len(STRIDES))]
        self.head = DetectionHead(
            _rpn(channels, anchors or Anchors(), proposals, depth=2 if v2_heads else 1),
            RoIHeads(
                _RoIAlign(names, 7, STRIDES[0]),
                box_head,
                _BoxPredictor(hidden, num_classes),
                **_roi_options(samples, detections),
                mask_roi_pool=_RoIAlign(names, 14, STRIDES[0]),
                mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm),
                mask_predictor=_MaskPredictor(channels, channels, num_classes),
            ),
        )

    def decode(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Make the pyramid, finest level first."""
        return self.decoder({str(level): features[tap] for level, tap in enumerate(self.taps)})

    def load_weights(self) -> str:
        """Load the pretrained weights: those of the whole detector if given, else what `weights` names.

        Returns:
            What was loaded, in words.
        """
        if self.detector_weights is None:
            return super().load_weights()
        return self.set_detector_weights(read_file(Path(self.detector_weights).expanduser()))

    def set_detector_weights(self, state: Mapping[str, Tensor]) -> str:
        """Load the state dict of torchvision's Mask R-CNN on the same backbone.

        Returns:
            What was loaded, in words.

        Raises:
            UserError: Tensors are missing, left over or of another shape.
        """
        own, theirs = self.state_dict(), _from_torchvision(state)
        box, mask = "head.roi_heads.box_predictor", "head.roi_heads.mask_predictor"
        last = [f"{layer}.{kind}" for layer in (f"{box}.cls_score", f"{box}.bbox_pred", f"{mask}.mask_fcn_logits")
                for kind in ("weight", "bias")]  # fmt: skip
        loaded = f"detector of {self.detector_weights}"
        try:
            classes, wanted = (len(tensors[last[1]]) for tensors in (theirs, own))
            if (classes, wanted) == (91, len(COCO_NUMBERS)):
                rows = {key: theirs[key].unflatten(0, (91, -1))[COCO_NUMBERS] for key in last}
                theirs |= {key: value.flatten(0, 1) for key, value in rows.items()}
            elif classes != wanted:
                loaded += f", without its last layers: they are for {classes} classes instead of {wanted}"
                theirs |= {key: own[key] for key in last}
            self.load_state_dict(theirs | {key: own[key] for key in own if "anchor_generator" in key})
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"The weights in {self.detector_weights} are not those of torchvision's Mask R-CNN on this backbone "
                f"and with these heads (v2_heads, channels, hidden): {error}"
            ) from error
        return loaded


class MaskRCNNC4(Detector):
    """Mask R-CNN without a pyramid: proposals on the map of stride 16, the backbone's last stage on every box.

    The C4 variant of He et al., ICCV 2017, made for ResNets. The last stage sees boxes, whose statistics are not
    those of images: fine-tune it with ``batch_norm: frozen``.

    Args:
        num_classes: Number of classes; class 0 is the background.
        backbone: A timm model's name with feature maps of strides 16 and 32, or an encoder.
        weights: Pretrained weights of the backbone (see `Backbone`).
        anchors: Where to begin to look for objects; `DataAnchors` take their sizes from the training data.
        min_size: In evaluation, images are resized so that their shorter side has so many pixels.
        max_size: Limit of the longer side after that, in pixels.
        proposals: Proposals that are kept of each image in training, and in evaluation.
        samples: Proposals of each image that the box and mask branch train on.
        detections: Objects that are kept of each image.

    Raises:
        UserError: The backbone lacks a feature map.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Encoder = "resnet50",
        weights: bool | str = True,
        anchors: Anchors | None = None,
        min_size: int | None = None,
        max_size: int = 1333,
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        detections: int = 100,
    ) -> None:
        super().__init__(backbone, weights, min_size, max_size)
        self.tap = self.backbone.at_stride(16)
        middle, deep = self.backbone.channels[self.tap], self.backbone.channels[self.backbone.at_stride(32)]
        anchors = anchors or Anchors()
        anchors.join_levels()
        self.decoder = nn.Identity()
        self.head = DetectionHead(
            _rpn(middle, anchors, proposals),
            RoIHeads(
                _RoIAlign(["0"], 14, 16),
                nn.Sequential(_LastStage(self.backbone), nn.AdaptiveAvgPool2d(1)),
                _BoxPredictor(deep, num_classes),
                **_roi_options(samples, detections),
                mask_roi_pool=_RoIAlign(["0"], 14, 16),
                mask_head=_LastStage(self.backbone),
                mask_predictor=_MaskPredictor(deep, 256, num_classes),
            ),
        )

    def decode(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Take the map of stride 16."""
        return {"0": features[self.tap]}


class DetectionHead(nn.Module):
    """Proposals, and what becomes of them.

    Args:
        rpn: Makes proposals of feature maps.
        roi_heads: Makes objects of proposals.
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


class _RoIAlign(MultiScaleRoIAlign):
    """RoIAlign that is told its stride: torchvision guesses it once, from the first image without its padding."""

    def __init__(self, names: list[str], output_size: int, stride: int) -> None:
        super().__init__(names, output_size, sampling_ratio=2)
        self.stride = stride

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        height, width = x[self.featmap_names[0]].shape[-2:]
        return super().forward(x, boxes, [(height * self.stride, width * self.stride)])


class _RPNHead(RPNHead):
    """Gives float32 under autocast, too: coordinates are computed in the type of what it gives."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, shifts = super().forward(x)
        return [level.float() for level in scores], [level.float() for level in shifts]


class _BoxPredictor(FastRCNNPredictor):
    """Gives float32 (see `_RPNHead`)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, shifts = super().forward(x)
        return scores.float(), shifts.float()


class _MaskPredictor(MaskRCNNPredictor):
    """Gives float32 (see `_RPNHead`)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class _LastStage(nn.Module):
    """The last stage of a backbone, whose parameters stay the backbone's."""

    def __init__(self, backbone: Encoder) -> None:
        super().__init__()
        self._stage = (backbone.stages()[-1][1],)  # in a tuple it is not registered a second time

    def forward(self, x: Tensor) -> Tensor:
        for part in self._stage[0]:
            x = part(x)
        return x


def _rpn(
    channels: int, anchors: Anchors, proposals: tuple[int, int], depth: int = 1
) -> RegionProposalNetwork:
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


def _roi_options(samples: int, detections: int) -> dict[str, Any]:
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


def _from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of torchvision's Mask R-CNN our names."""
    parts = {"backbone.body.": "backbone.net.", "backbone.fpn.": "decoder.", "rpn.": "head.rpn."}
    parts["roi_heads."] = "head.roi_heads."
    renamed = {}
    for key, value in state.items():
        part = next((part for part in parts if key.startswith(part)), "")
        renamed[parts.get(part, "") + key.removeprefix(part)] = value
    for key in [key for key in renamed if key.startswith("backbone.") and key.endswith(".running_var")]:
        norm = key.removesuffix("running_var")
        if norm + "num_batches_tracked" not in renamed:
            # Trained with torchvision's FrozenBatchNorm2d, which added nothing to the variance: make up for it.
            variance = renamed[key]
            renamed[norm + "weight"] = renamed[norm + "weight"] * ((variance + 1e-5) / variance).sqrt()
            renamed[norm + "num_batches_tracked"] = torch.tensor(0)
    return renamed
