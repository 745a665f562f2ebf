"""What a sample becomes on its way to a task, and a batch of them, key by key."""

from typing import Any, TypedDict

from torch import Tensor

SampleKey = Any
"""A sample as its data set lists it, usually paths; the data set's own methods say which."""
Sample = dict[str, Tensor]  # an image and its objects; see `lightning_seg.data.instances`


class Segments(TypedDict):
    """What `lightning_seg.data.segments.batch_columns` says of an image."""

    mask: Tensor
    segments: Tensor
    segment_class: Tensor
    segment_crowd: Tensor
    segment_list: list[int]


class Item(TypedDict, total=False):
    """One image for a batch; keys as in `Batch`, without the first axis."""

    image: Tensor
    index: int
    mask: Tensor
    targets: Sample
    segments: Tensor
    segment_class: Tensor
    segment_crowd: Tensor
    segment_list: list[int]
    color: Tensor
    path: str
    error: str


class Batch(TypedDict, total=False):
    """Images (B, C, H, W), their index (B,), and what is known of them; see `SegmentationData`.

    Attributes:
        size: (B, 2), height and width without padding, where images differ in size.
        filler: There where no score counts the batch.
        mask2: The other mask of MixUp, whose share of the first is "mix".
    """

    image: Tensor
    index: Tensor
    mask: Tensor
    targets: list[Sample]
    segments: Tensor
    segment_class: Tensor
    segment_crowd: Tensor
    segment_list: list[list[int]]
    color: Tensor
    size: Tensor
    filler: bool
    mask2: Tensor
    mix: float
    path: list[str]
    error: list[str]
