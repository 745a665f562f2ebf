"""Settings of a data set that make no sense, or not together, whatever the data."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning_seg.data.instances import CopyPaste
from lightning_seg.data.transforms.mixing import ClassMix, Mix
from lightning_seg.errors import UserError

_PROBABILITY = "a probability, 0 to 1"
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "batch_size": (lambda n: n >= 1, "at least 1"),
    "eval_batch_size": (lambda n: n >= 1, "at least 1"),
    "crop_size": (lambda s: len(s) == 2 and min(s) >= 1, "height and width in pixels, as [512, 512]"),
    "scale_range": (lambda s: len(s) == 2 and 0 < s[0] <= s[1], "smallest and largest, as [0.5, 2.0]"),
    "hflip": (lambda p: 0 <= p <= 1, _PROBABILITY),
    "class_balanced_crops": (lambda p: 0 <= p <= 1, _PROBABILITY),
    "num_workers": (lambda n: n is None or n >= 0, "0 or more, or null to choose"),
    "train_share": (lambda s: 0 < s <= 1, "a share of the training images, above 0 and up to 1"),
    "folds": (lambda n: n >= 2, "at least 2"),
    "samples_per_image": (lambda n: n >= 1, "at least 1"),
    "seed": (lambda n: n is None or n >= 0, "0 or more, or null for the seed of the run"),
    "value_range": (
        lambda r: r is None or (len(r) == 2 and all(map(math.isfinite, r)) and r[0] < r[1]),
        "lowest and highest value, as [0, 4095], or null",
    ),
}


def refuse_senseless(settings: Mapping[str, Any]) -> None:
    """Refuse settings of `SegmentationData` that are out of range.

    Args:
        settings: The arguments by their names.

    Raises:
        UserError: One of them makes no sense.
    """
    for name, (is_right, expected) in _RULES.items():
        try:
            right = is_right(settings[name])
        except TypeError:  # of another type, which the command line refuses
            right = False
        if not right:
            raise UserError(f"data.init_args.{name} must be {expected}; got {settings[name]}.")
    fold, folds = settings["fold"], settings["folds"]
    if fold is not None and not (isinstance(fold, int) and 0 <= fold < folds):
        raise UserError(f"data.init_args.fold must be 0 to {folds - 1}, or null; got {fold}.")
    for transform in settings["transforms"] or []:
        if _fills(transform):
            raise UserError(
                f"Leave out `fill` of {type(transform).__name__}: it would fill the mask with a class. "
                "Without it the image is filled with black and the mask with ignore_index."
            )


def refuse_conflicts(
    mix: Mix | CopyPaste | None, cache: str, instances: bool, segments: bool, overlapping: bool
) -> None:
    """Refuse a mix or a cache for masks of another kind than the task asks for.

    Args:
        mix: What mixes the samples of a batch.
        cache: Where decoded samples are kept.
        instances: Whether samples have objects.
        segments: Whether samples have segments.
        overlapping: Whether classes have masks of their own.

    Raises:
        UserError: They do not go together.
    """
    if instances and isinstance(mix, Mix):
        raise UserError(f"{type(mix).__name__} mixes masks of classes; CopyPaste mixes objects.")
    if segments and mix is not None:
        raise UserError(f"{type(mix).__name__} cannot mix segments: leave data.init_args.mix out.")
    if ((instances or segments) and cache != "none") or (overlapping and cache == "disk"):
        kept = "objects; leave it at none" if not overlapping else "overlapping classes; take ram or none"
        raise UserError(f"data.init_args.cache keeps masks of one class a pixel, not {kept}.")
    if overlapping and isinstance(mix, ClassMix):
        raise UserError("ClassMix needs one class a pixel; MixUp and CutMix mix overlapping classes, too.")
    if not instances and isinstance(mix, CopyPaste):
        raise UserError("CopyPaste pastes objects; in masks of classes ClassMix does the like.")


def _fills(transform: Any) -> bool:
    """Whether a transform, or one that it contains, fills in with something else than 0."""
    inner = getattr(transform, "transforms", ())
    return bool(getattr(transform, "fill", 0)) or any(_fills(part) for part in inner)
