"""Mask R-CNN without a feature pyramid."""

from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from lightning_seg.networks.backbones.base import Backbone
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


class MaskRCNNC4(Detector):
    """Mask R-CNN without a pyramid: proposals on the map of stride 16, the backbone's last stage on every box.

    The C4 variant of He et al., ICCV 2017, made for ResNets. The last stage sees boxes, whose statistics are not
    those of images: fine-tune it with ``batch_norm: frozen``.

    Args:
        num_classes: Number of classes; class 0 is the background.
        backbone: A timm model's name with feature maps of strides 16 and 32, or a `Backbone`.
        weights: Pretrained weights of the backbone (see `TimmBackbone`).
        anchors: Anchor boxes of the proposals; `DataAnchors` take their sizes from the training data.
        min_size: In evaluation, images are resized so that their shorter side has this many pixels.
        max_size: Limit of the longer side after that, in pixels.
        proposals: Number of proposals kept of each image in training, and in evaluation.
        samples: Number of proposals of each image that the box and mask branch train on.
        detections: Number of objects kept of each image.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: The backbone lacks a feature map.

    Examples:
        >>> network = MaskRCNNC4(num_classes=2, backbone="test_resnet", weights=False).eval()
        >>> sorted(network(torch.zeros(1, 3, 64, 64))[0])
        ['boxes', 'labels', 'masks', 'scores']
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "resnet50",
        weights: bool | str = True,
        anchors: Anchors | None = None,
        min_size: int | None = None,
        max_size: int = 1333,
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        detections: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__(backbone, weights, min_size, max_size, in_channels=in_channels)
        self.tap = self.backbone.at_stride(16)
        middle, deep = self.backbone.channels[self.tap], self.backbone.channels[self.backbone.at_stride(32)]
        anchors = anchors or Anchors()
        anchors.join_levels()
        self.decoder = nn.Identity()
        self.head = DetectionHead(
            rpn(middle, anchors, proposals),
            RoIHeads(
                RoIAlign(["0"], 14, 16),
                nn.Sequential(_LastStage(self.backbone), nn.AdaptiveAvgPool2d(1)),
                BoxPredictor(deep, num_classes),
                **roi_options(samples, detections),
                mask_roi_pool=RoIAlign(["0"], 14, 16),
                mask_head=_LastStage(self.backbone),
                mask_predictor=MaskPredictor(deep, 256, num_classes),
            ),
        )

    def decode(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Take the map of stride 16."""
        return {"0": features[self.tap]}


class _LastStage(nn.Module):
    """The last stage of a backbone, whose parameters stay the backbone's."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._stage = (backbone.stages()[-1][1],)  # in a tuple it is not registered a second time

    def forward(self, x: Tensor) -> Tensor:
        for part in self._stage[0]:
            x = part(x)
        return x
