"""Which test images are neighbors, as frames of a video and slices of a volume are, and no independent images."""

import re
from collections.abc import Sequence

import numpy as np

_FRAME = re.compile(r"[ _.\-]*[A-Za-z]?\d+$")
_SEQUENCES = 10  # from which on they tell enough about each other
_IMAGES = 3  # of a block at least


def image_blocks(
    names: Sequence[str], sequence: bool, block: int | None = None, groups: np.ndarray | None = None
) -> np.ndarray | None:
    """Choose the blocks of test images that are left out together.

    Images of a group stay together, each group a block. Frames of a sequence do, too: where there are ten sequences or
    more, each is a block. Fewer are cut into about ten blocks of neighbors in all, so long that neighbors across a cut
    matter little.

    Args:
        names: Of the images, in the order of the data set. What stands before the last number names the sequence.
        sequence: Whether neighbors look alike.
        block: Images of a block, instead.
        groups: The number of each image's group, such as a patient, (N,), if the data set knows groups.

    Returns:
        The number of each image's block, (N,); None if images are independent of each other.
    """
    count = len(names)
    if block is not None:
        return np.arange(count) // block if block > 1 else None
    if groups is not None:
        numbers = np.unique(groups, return_inverse=True)[1]
        if not sequence or numbers.max() + 1 >= _SEQUENCES:
            return numbers
    if not sequence:
        return None
    prefixes = [_FRAME.sub("", name.rsplit(".", 1)[0] if "." in name else name) for name in names]
    new = np.array([True, *(a != b for a, b in zip(prefixes, prefixes[1:], strict=False))])
    if new.sum() >= _SEQUENCES:
        return np.cumsum(new) - 1
    size = max(_IMAGES, count / _SEQUENCES)
    ids, last = np.zeros(count, int), 0
    starts = [*np.flatnonzero(new), count]
    for start, end in zip(starts, starts[1:], strict=False):
        pieces = max(1, round((end - start) / size))
        ids[start:end] = last + np.arange(end - start) * pieces // (end - start)
        last += pieces
    return ids
