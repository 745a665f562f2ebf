"""Parts of a split: a share of the training images, and a stretch of a list such as ``val[:0.5]``."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_seg.data.folds import Key, Read, presence
from lightning_seg.errors import UserError

T = TypeVar("T")
_STRETCH = re.compile(r"(.+)\[(\d*\.?\d*):(\d*\.?\d*)\]")
_MOST = 5000  # samples, above which chance stratifies well enough and nothing is read


def listed(list_samples: Callable[[str], Sequence[T]], part: str) -> Sequence[T]:
    """List the samples of a split, or of a stretch of its list: ``val[:0.5]`` is its first half.

    Args:
        list_samples: Lists a whole split.
        part: The split, perhaps with the stretch as fractions.

    Raises:
        UserError: The stretch holds nothing.
    """
    if (found := _STRETCH.fullmatch(part)) is None:
        return list_samples(part)
    samples = list_samples(found[1])
    start, end = (
        round(float(text or default) * len(samples)) for text, default in ((found[2], 0), (found[3], 1))
    )
    if not 0 <= start < end <= len(samples):
        raise UserError(
            f"{part} holds none of the {len(samples)} samples of {found[1]}: a stretch is said by fractions, as in"
            f" {found[1]}[:0.5] and {found[1]}[0.5:]"
        )
    return samples[start:end]


def share_of(
    samples: Sequence[T], share: float, read: Read, groups: Sequence[str | None], key: Key | None = None
) -> list[T]:
    """Take a share of samples in which every class is about as frequent as in all of them.

    Shares are nested: a smaller one is part of a larger one. Samples of a group stay together.

    Args:
        samples: The samples.
        share: How many of them, above 0 and up to 1.
        read: Reads a sample.
        groups: Group of each sample, None for none.
        key: See `presence`.

    Returns:
        At least one sample, in the order of the samples.
    """
    units: dict[int | str, list[int]] = {}
    for i, group in enumerate(groups):
        units.setdefault(i if group is None else f"group {group}", []).append(i)
    members = list(units.values())
    if len(samples) > _MOST:
        seen = np.zeros((len(samples), 0), bool)
        order = np.random.default_rng(0).permutation(len(members)).tolist()
    else:
        seen = presence(read, samples, key)
        order = nested_order(
            np.array([seen[unit].sum(0) for unit in members]), np.array([*map(len, members)])
        )
    wanted, taken = max(1, round(share * len(samples))), set[int]()
    for unit in order:
        if len(taken) >= wanted:
            break
        taken |= {*members[unit]}
    kept = sorted(taken)
    if missing := np.flatnonzero(seen.any(0) & ~seen[kept].any(0)).tolist():
        rank_zero_warn(
            f"the {len(kept)} of {len(samples)} training images that train_share={share:g} takes show nothing of class"
            f" {', '.join(map(str, missing))} (counted from 0)"
        )
    return [samples[i] for i in kept]


def refuse_too_few(split: str, images: int, batch_size: int, devices: int, share: float) -> None:
    """Refuse training images that do not fill one step.

    Args:
        split: The training split.
        images: How many an epoch has of them.
        batch_size: Of each device.
        devices: Of all machines.
        share: That was taken of the split.

    Raises:
        UserError: There are fewer than one step of all devices needs.
    """
    if images < batch_size * devices:
        taken, larger = (
            (f" with train_share={share:g}", ", or take a larger share") if share < 1 else ("", "")
        )
        raise UserError(
            f"The split {split!r} has {images} images{taken}, but one training step needs batch_size {batch_size} x"
            f" {devices} devices. Lower data.init_args.batch_size{larger}."
        )


def nested_order(counts: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Order units so that in each beginning of the order every class is about as frequent as in all of them.

    Each next unit is the one that keeps the shares of all classes closest to that of the samples, in squares.

    Args:
        counts: How many samples of each unit show each class (U, C).
        sizes: How many samples each unit has (U,).
    """
    shares = np.column_stack([counts[:, counts.any(0)], sizes]).astype(float)
    shares /= shares.sum(0)  # (U, C + 1), of all samples with the class
    step = sizes / sizes.sum()
    left = np.random.default_rng(0).permutation(len(shares))  # which is first among equals
    reached = np.zeros(shares.shape[1])
    order = []
    while len(left):
        aim = (reached[-1] + step[left])[:, None]  # where all classes should be afterwards
        best = int(((reached + shares[left] - aim) ** 2).sum(1).argmin())
        order.append(int(left[best]))
        reached += shares[left[best]]
        left = np.delete(left, best)
    return order
