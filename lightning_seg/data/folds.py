"""Dividing samples into parts: by ratios, or into folds for cross-validation; groups and neighbors stay together."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_seg.data.cache_folder import cache_folder, keep_array
from lightning_seg.data.loading import in_parallel
from lightning_seg.data.overlapping import pixels_of_labels
from lightning_seg.data.transforms.batch import SampleKey
from lightning_seg.errors import UserError

T = TypeVar("T")
Read = Callable[[SampleKey], tuple[np.ndarray, np.ndarray]]
Key = Callable[[], str]
_MANY = 500  # samples, below which the masks are read anew


def divide(
    items: Sequence[T],
    ratios: Mapping[str, float],
    seed: int = 0,
    groups: Sequence[str | None] | None = None,
    in_order: bool = False,
) -> dict[str, list[T]]:
    """Divide items into named parts, each in the order of the items: at random, by groups, or in blocks.

    Args:
        items: What to divide.
        ratios: Relative size of each part.
        seed: Seed of the division.
        groups: Group of each item, to keep those of one group together.
        in_order: Make each part a block of neighbors, in the order of the ratios; of no effect with groups.

    Raises:
        UserError: A part would be empty, because there are too few groups, or ratios make no sense.
    """
    shares = np.array([*ratios.values()], float)
    if not (shares.size and np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise UserError(
            f"split_ratios must be positive numbers, as {{train: 0.8, val: 0.2}}; got {dict(ratios)}."
        )
    if seed < 0:
        raise UserError(f"data.init_args.split_seed must be 0 or more; got {seed}.")
    bounds = np.round(np.cumsum([0, *shares]) / shares.sum() * len(items)).astype(int)
    if groups is not None:
        part_of = _parts_of_groups(groups, shares, seed)
    else:
        order = np.arange(len(items)) if in_order else np.random.default_rng(seed).permutation(len(items))
        part_of = np.empty(len(items), int)
        part_of[order] = np.repeat(np.arange(len(ratios)), np.diff(bounds))
    parts = {
        name: [item for item, part in zip(items, part_of, strict=True) if part == i]
        for i, name in enumerate(ratios)
    }
    if groups is not None:
        _tell_unlike({name: len(part) for name, part in parts.items()}, shares / shares.sum())
    return parts


def _tell_unlike(sizes: Mapping[str, int], shares: np.ndarray) -> None:
    """Warn of parts less than half or more than twice as large as they should be, because groups stay together."""
    total = sum(sizes.values())
    unlike = [
        f"{name} has {size} of {total} samples instead of about {share * total:.0f}"
        for (name, size), share in zip(sizes.items(), shares.tolist(), strict=True)
        if abs(size - share * total) > 1 and not 0.5 <= size / (share * total) <= 2
    ]
    if unlike:
        rank_zero_warn(
            f"groups stay together, so that {', '.join(unlike)}. Make smaller groups with data.init_args.groups, or"
            " name the samples of each split in lists."
        )


def _parts_of_groups(groups: Sequence[str | None], shares: np.ndarray, seed: int) -> np.ndarray:
    """Part of each item: groups, from the largest to the smallest, each go to the part that lacks most."""
    names, sizes = np.unique([str(group) for group in groups], return_counts=True)
    if len(names) < (needed := int((shares > 0).sum())):
        raise UserError(
            f"There are {len(names)} groups ({', '.join(names[:3])}), too few for {needed} parts. Make smaller groups, "
            "or fewer parts."
        )
    lack = shares / shares.sum() * len(groups)
    empty = set(np.flatnonzero(shares).tolist())
    part_of: dict[str, int] = {}
    order = np.random.default_rng(seed).permutation(len(names))
    for done, i in enumerate(sorted(order, key=lambda i: -sizes[i])):
        open_parts = sorted(empty) if len(names) - done <= len(empty) else range(len(shares))
        part = max(open_parts, key=lambda part: lack[part])
        part_of[names[i]] = part
        lack[part] -= sizes[i]
        empty.discard(part)
    return np.array([part_of[str(group)] for group in groups])


def group_folds(groups: Sequence[str | None], folds: int) -> np.ndarray:
    """Divide samples into folds of about equal size that keep groups together.

    Args:
        groups: Group of each sample.
        folds: Number of folds.

    Returns:
        Number of the fold of each sample (N,).

    Raises:
        UserError: There are fewer groups than folds.
    """
    return _parts_of_groups(groups, np.ones(folds), 0)


def fold_of_each(
    samples: Sequence[object],
    folds: int,
    read: Read,
    groups: Sequence[str | None],
    sequence: bool,
    key: Key | None = None,
) -> np.ndarray:
    """Divide samples into folds: by groups if there are any, in blocks if they are a sequence, else stratified.

    Args:
        samples: The samples.
        folds: Number of folds.
        read: Reads a sample.
        groups: Group of each sample, None for none.
        sequence: Whether neighbors look alike.
        key: See `presence`.

    Returns:
        Number of the fold of each sample (N,).
    """
    if any(group is not None for group in groups):
        fold_of = group_folds(groups, folds)
        sizes = np.bincount(fold_of, minlength=folds).tolist()
        _tell_unlike({f"fold {i}": size for i, size in enumerate(sizes)}, np.full(folds, 1 / folds))
        return fold_of
    if sequence:
        return block_folds(len(samples), folds)
    return stratified_folds(presence(read, samples, key), folds)


def stratified_folds(presence: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Divide samples into folds of equal size in which every class occurs about equally often.

    Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011: the samples
    of the class that is rarest among those left are given out first, each to the fold that lacks it most.

    Args:
        presence: Whether each class occurs in each sample (N, C), ``bool``.
        folds: Number of folds.
        seed: Seed that decides between equally good folds.

    Returns:
        Number of the fold of each sample (N,).
    """
    rng = np.random.default_rng(seed)
    # a class of its own for all samples: what holds no other class is divided evenly, too
    presence = np.column_stack([presence, np.ones(len(presence), bool)])
    fold_of = np.full(len(presence), -1)
    sizes = np.array([len(part) for part in np.array_split(fold_of, folds)])
    lack = np.outer(sizes / len(presence), presence.sum(0))  # (folds, C)
    while (left := np.flatnonzero(fold_of < 0)).size:
        counts = presence[left].sum(0)
        rarest = int(np.where(counts > 0, counts, np.inf).argmin())
        for sample in rng.permutation(left[presence[left, rarest]]):
            # the fold that lacks the class most; between equals the emptiest, then chance
            ranks = np.lexsort([rng.random(folds), sizes, np.round(lack[:, rarest], 6)])
            fold = next(f for f in ranks[::-1] if sizes[f] > 0)
            fold_of[sample] = fold
            sizes[fold] -= 1
            lack[fold] -= presence[sample]
    return fold_of


def block_folds(total: int, folds: int) -> np.ndarray:
    """Divide samples that resemble their neighbors into folds of consecutive ones, of equal size.

    Args:
        total: Number of samples.
        folds: Number of folds.

    Returns:
        Number of the fold of each sample (N,).
    """
    return np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.arange(total), folds)])


def presence(read: Read, samples: Sequence[object], key: Key | None = None) -> np.ndarray:
    """Tell which labels occur in which samples.

    Args:
        read: Reads a sample.
        samples: The samples.
        key: Names what `read` gives of these samples, to keep it in the cache if they are many.

    Returns:
        (N, 255), ``bool``.
    """
    file = None if key is None or len(samples) < _MANY else cache_folder() / f"presence-{key()}.npy"
    if file is not None:
        with suppress(OSError, ValueError):
            bits = np.load(file, allow_pickle=False)
            if bits.shape == (len(samples), 32):
                return np.unpackbits(bits, axis=1, count=255).view(bool)
    found = np.zeros((len(samples), 255), bool)
    masks = in_parallel(
        lambda sample: pixels_of_labels(read(sample)[1])[:255] > 0, samples, "Looking for classes"
    )
    for row, labels in enumerate(masks):
        found[row] = labels
    if file is not None:
        keep_array(file, np.packbits(found, axis=1))
    return found


def readable(read: Read, samples: Sequence[T]) -> list[T]:
    """Leave out the samples that cannot be read, and say how many and which."""

    def problem(sample: object) -> str:
        try:
            image, mask = read(sample)
        except UserError as error:
            return str(error)
        return "" if image.shape[:2] == mask.shape[:2] else f"Image and mask differ in size: {sample}"

    problems = list(in_parallel(problem, samples, "Reading all files"))
    found = [text for text in problems if text]
    if found:
        rank_zero_warn(f"{len(found)} of {len(samples)} samples are left out: " + " | ".join(found[:10]))
    return [sample for sample, text in zip(samples, problems, strict=True) if not text]
