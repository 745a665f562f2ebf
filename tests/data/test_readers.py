"""Every reader: random variants whose pixels and classes are known, and each kind of doubt by itself."""

import pytest

from . import fuzz_layouts
from .fuzz_readers import run


@pytest.mark.parametrize("seed", [1, 2])
def test_random_variants_are_read_exactly_or_refused(seed):
    counts, wrong = run(60, seed)
    assert not wrong, "\n".join(wrong)
    assert counts["right"] > 25 and sum(counts.values()) == 60


def test_random_variants_of_the_published_layouts_are_read_exactly_or_refused():
    counts, wrong = fuzz_layouts.run(len(fuzz_layouts.LAYOUTS) * 6, 3)
    assert not wrong, "\n".join(wrong)
    assert sum(number for kind, number in counts.items() if kind.startswith("right")) > 30
