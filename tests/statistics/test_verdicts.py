"""Sentences claim what their numbers allow, and no more."""

import numpy as np
import pytest

from lightning_seg.statistics.verdicts import difference_sentence, one_seed_sentence

BASIS = "3 seeds, 101 images"


@pytest.mark.parametrize(
    ("numbers", "certain", "expected"),
    [
        ((-4.1, -5.0, -3.2), True, f"A is 4.1 mIoU worse than B, 95 % CI 3.2 to 5.0, {BASIS}"),
        ((4.1, 3.2, 5.0), True, f"A is 4.1 mIoU better than B, 95 % CI 3.2 to 5.0, {BASIS}"),
        (
            (0.3, -0.6, 1.2),
            False,
            f"A and B are not distinguishable: +0.3 mIoU, 95 % CI -0.6 to +1.2, {BASIS}",
        ),
        ((10, np.nan, np.nan), False, f"A and B cannot be told apart by {BASIS}: +10.0 mIoU"),
    ],
)
def test_differences(numbers, certain, expected):
    assert difference_sentence("A", "B", numbers, certain, "mIoU", BASIS) == expected


def test_one_seed_is_never_better_or_worse():
    for numbers in ((4.1, 3.2, 5.0), (-4.1, -5.0, -3.2), (0.3, -0.6, 1.2), (1, np.nan, np.nan)):
        text = one_seed_sentence("A", "B", numbers, 0.004**2, "mIoU", "101 images")
        assert "better" not in text and "worse" not in text
    text = one_seed_sentence("A", "B", (4.1, 3.2, 5.0), 0.004**2, "mIoU", "101 images")
    assert text.startswith("A differs from B on these images, +4.1 mIoU; another seed may change it")
    assert "about 2 to 3 seeds each would settle" in text
    assert "more test images" in one_seed_sentence("A", "B", (1.1, 0.2, 2.0), 0.006**2, "mIoU", "101 images")
