"""Mask R-CNN: objects, each with a box, a class and a mask."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.tensor_file import (
    Translation,
    by_name,
    is_counter,
    load_fitting,
    read_tree,
    split_choice,
)
from lightning_seg.networks.detection.anchors import Anchors
from lightning_seg.networks.detection.detector import (
    BoxPredictor,
    DetectionHead,
    Detector,
    MaskPredictor,
    RoIAlign,
    roi_options,
    rpn,
)

STRIDES = (4, 8, 16, 32)
# COCO numbers its 80 classes up to 90; torchvision's networks have an output for every number.
COCO_NUMBERS = [n for n in range(91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


class MaskRCNN(Detector):
    """Mask R-CNN (He et al., ICCV 2017) on a feature pyramid (Lin et al., CVPR 2017), of torchvision's parts.

    With ``resnet50`` and the defaults it computes what torchvision's ``maskrcnn_resnet50_fpn`` does, with
    `v2_heads` what ``maskrcnn_resnet50_fpn_v2`` does.

    Args:
        num_classes: Number of classes; class 0 is the background.
        backbone: A timm model's name with feature maps of strides 4, 8, 16 and 32, or a `Backbone`; around a plain
            vision transformer ViTDet's pyramid makes them.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        detector_weights: File of weights of torchvision's Mask R-CNN on the same backbone, for all parts. Its last
            layers are taken over if its classes are ours, or if it has COCO's 91 and we have its 80 and background.
        channels: Channels of the pyramid and of the mask branch.
        hidden: Width of the fully connected layers of the box branch.
        v2_heads: Four convolutions before the box branch, two before the proposals, and BatchNorm in pyramid, box
            and mask branch (Li et al., arXiv:2111.11429).
        anchors: Anchor boxes of the proposals; `DataAnchors` take their sizes from the training data.
        min_size: In evaluation, images are resized so that their shorter side has this many pixels; training images
            come as the data module cuts them. None leaves the size alone.
        max_size: Limit of the longer side after that, in pixels.
        proposals: Number of proposals kept of each image in training, and in evaluation.
        samples: Number of proposals of each image that the box and mask branch train on.
        detections: Number of objects kept of each image.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: The backbone lacks a feature map.

    Examples:
        >>> network = MaskRCNN(num_classes=2, backbone="test_resnet", weights=False, hidden=64).eval()
        >>> sorted(network(torch.zeros(1, 3, 64, 64))[0])
        ['boxes', 'labels', 'masks', 'scores']
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
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
        in_channels: int = 3,
    ) -> None:
        super().__init__(backbone, weights, min_size, max_size, levels=range(4), in_channels=in_channels)
        self.detector_weights = detector_weights
        self.taps = [self.encoder.at_stride(stride) for stride in STRIDES]
        norm = nn.BatchNorm2d if v2_heads else None
        self.decoder = FeaturePyramidNetwork(
            [self.encoder.channels[tap] for tap in self.taps], channels, LastLevelMaxPool(), norm
        )
        box_head: nn.Module = TwoMLPHead(channels * 7 * 7, hidden)
        if v2_heads:
            box_head = FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [hidden], norm)
        names = [str(level) for level in range(len(STRIDES))]
        self.head = DetectionHead(
            rpn(channels, anchors or Anchors(), proposals, depth=2 if v2_heads else 1),
            RoIHeads(
                RoIAlign(names, 7, STRIDES[0]),
                box_head,
                BoxPredictor(hidden, num_classes),
                **roi_options(samples, detections),
                mask_roi_pool=RoIAlign(names, 14, STRIDES[0]),
                mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm),
                mask_predictor=MaskPredictor(channels, channels, num_classes),
            ),
        )

    def decode(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Make the pyramid, finest level first."""
        out: dict[str, Tensor] = self.decoder(
            {str(level): features[tap] for level, tap in enumerate(self.taps)}
        )
        return out

    def load_weights(self, find_checkpoint: Callable[[str], Path] = Path) -> str:
        """Load the pretrained weights: those of the whole detector if given, else what `weights` names.

        Returns:
            What was loaded, in words.
        """
        if self.detector_weights is None:
            return super().load_weights(find_checkpoint)
        file, choice = split_choice(self.detector_weights)
        tree = read_tree(file, "--model.network.init_args.detector_weights")
        return self.set_detector_weights(tree, str(file), choice)

    def set_detector_weights(self, state: object, source: str = "the state dict", choice: str = "") -> str:
        """Load the state dict of torchvision's Mask R-CNN on the same backbone.

        Args:
            state: The state dict, perhaps inside other dictionaries.
            source: Where it is from, for messages.
            choice: Which of several to take (see `load_fitting`).

        Returns:
            What was loaded, in words.

        Raises:
            UserError: Tensors are missing, left over or of another shape; the network is as it was.
        """
        what = "torchvision's Mask R-CNN on this backbone and with these heads (v2_heads, channels, hidden)"
        setting = "model.network.init_args.detector_weights"
        said = load_fitting(self, state, source, what, self._translate, choice, setting)
        return f"detector {said}"

    def _translate(self, state: dict[str, Tensor]) -> Translation:
        own, changes = self.state_dict(), []
        theirs = _named_as_ours(state)
        if scaled := _adapt_frozen_norms(theirs):
            changes.append(f"{scaled} scales of frozen BatchNorm adapted to its epsilon")
        box, mask = "head.roi_heads.box_predictor", "head.roi_heads.mask_predictor"
        last = [f"{layer}.{kind}" for layer in (f"{box}.cls_score", f"{box}.bbox_pred", f"{mask}.mask_fcn_logits")
                for kind in ("weight", "bias")]  # fmt: skip
        if all(key in theirs and theirs[key].ndim for key in last):
            classes, wanted = (len(tensors[last[1]]) for tensors in (theirs, own))
            whole = all(len(theirs[key]) % classes == 0 for key in last) if classes else False
            if (classes, wanted) == (91, len(COCO_NUMBERS)) and whole:
                rows = {key: theirs[key].unflatten(0, (91, -1))[COCO_NUMBERS] for key in last}
                theirs |= {key: value.flatten(0, 1) for key, value in rows.items()}
                changes.append("the rows of COCO's 80 classes of 91")
            elif classes != wanted:
                changes.append(f"without its last layers: they are for {classes} classes instead of {wanted}")
                theirs |= {key: own[key] for key in last}
        found = by_name(theirs | {key: own[key] for key in own if "anchor_generator" in key}, own)
        return replace(found, converted=changes)


def _named_as_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of torchvision's Mask R-CNN our names."""
    parts = {"backbone.body.": "backbone.net.", "backbone.fpn.": "decoder.", "rpn.": "head.rpn."}
    parts["roi_heads."] = "head.roi_heads."
    renamed = {}
    for key, value in state.items():
        part = next((part for part in parts if key.startswith(part)), "")
        renamed[parts.get(part, "") + key.removeprefix(part)] = value
    return renamed


def _adapt_frozen_norms(state: dict[str, Tensor]) -> int:
    """Make up for torchvision's FrozenBatchNorm2d, which adds nothing to the variance and counts no batches.

    Returns:
        How many scales were changed; none where a layer counts batches, as the usual BatchNorm does.
    """
    norms = [key.removesuffix("running_var") for key in state if key.endswith("running_var")]
    norms = [norm for norm in norms if norm.startswith("backbone.") and f"{norm}weight" in state]
    if any(is_counter(key) for key in state if key.startswith("backbone.")):
        return 0
    for norm in norms:
        variance, scale = state[f"{norm}running_var"], state[f"{norm}weight"]
        if variance.shape == scale.shape:
            state[f"{norm}weight"] = scale * ((variance + 1e-5) / variance).sqrt()
            state[f"{norm}num_batches_tracked"] = torch.tensor(0)
    return len(norms)
