"""Base of the networks for mask classification: queries, each with a mask and a class."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_seg import IGNORE_INDEX
from lightning_seg.networks.base import BackboneNetwork, Network, crop, resize


class Queries(NamedTuple):
    """What a network says by each of its queries.

    Attributes:
        masks: Logit of each pixel (B, Q, h, w).
        classes: Logits of the classes, and, last, of no object (B, Q, C + 1).
    """

    masks: Tensor
    classes: Tensor


class MaskNetwork(Network, ABC):
    """A network for mask classification (Cheng et al., "MaskFormer", arXiv:2107.06278).

    In training it gives the queries of every layer that is supervised, in evaluation logits of classes, so that it can
    be evaluated, exported and predicted with as any other `Network`.

    Args:
        backbone: A timm model's name, or a `Backbone`.
        weights: Pretrained weights of a backbone given by name (see `TimmBackbone`).
        output_stride: Output stride of a backbone given by name, and the largest that a `Backbone` may have.
        levels: Which of four maps the decoder reads (see `BackboneNetwork`).
        in_channels: Number of channels of an image; comes from the data.

    Examples:
        >>> network = EoMT(3, "test_vit", weights=False, queries=10, blocks=1)
        >>> isinstance(network, MaskNetwork), len(network.train()(torch.zeros(2, 3, 64, 64)))
        (True, 2)
    """

    @abstractmethod
    def layers(self, x: Tensor) -> list[Queries]:
        """Return the queries after each supervised layer, the final ones last.

        Args:
            x: Normalized images (B, C, H, W), both sides multiples of `stride`.
        """

    cache_features = BackboneNetwork.cache_features

    def anneal(self, progress: float) -> None:
        """Adapt to how much of the training is done, 0 to 1; most networks do not."""

    def forward(self, images: Tensor) -> Tensor | list[Queries]:  # type: ignore[override]
        """Return the queries of each layer in training, and logits (B, classes, H, W) in evaluation.

        Args:
            images: (B, C, H, W), of any type, with the values of their files.
        """
        if self.training:
            return self.layers(self._pad(self.backbone.normalize(images)))
        return class_logits(self.queries(images))

    def queries(self, images: Tensor) -> Queries:
        """Return the final queries, their masks at the size of the images (B, C, H, W)."""
        x = self._pad(self.backbone.normalize(images))
        masks, classes = self.layers(x)[-1]
        return Queries(crop(resize(masks.float(), x), *images.shape[-2:]), classes.float())

    def pad_segments(self, numbers: Tensor) -> Tensor:
        """Fill up numbers of segments (B, H, W) ``uint8`` as images are, with void."""
        filled: Tensor = IGNORE_INDEX - self._pad((IGNORE_INDEX - numbers)[:, None])[:, 0]
        return filled


def class_logits(queries: Queries) -> Tensor:
    """Return the logits of classes (B, C, h, w) that queries amount to.

    A pixel's score for a class is the sum over queries of the probabilities that the query has the class and the pixel
    (MaskFormer's semantic inference); its logarithm is the logit, so that probabilities are shares of the scores.
    """
    classes = queries.classes.softmax(-1)[..., :-1]
    scores = torch.einsum("bqc,bqhw->bchw", classes, queries.masks.sigmoid())
    return scores.clamp(min=1e-12).log()
