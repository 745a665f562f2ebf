"""What of the W&B media can be tested without W&B; what arrives there is in test_wandb.py."""

import numpy as np
import pytest

from lightning_seg.metrics.scores import merge_classes
from lightning_seg.tracking.media import PictureSet


def test_pictures_of_another_size_than_their_mask_are_refused():
    image, mask = np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8)
    with pytest.raises(ValueError, match="picture 0: image"):
        PictureSet([image], [mask], [mask], ["road"], ["one"])


@pytest.mark.parametrize("seed", range(5))
def test_merging_classes_keeps_every_pixel_in_its_place(seed):
    draw = np.random.default_rng(seed)
    counts, names = draw.integers(0, 9, (150, 150)), [f"class {i}" for i in range(150)]
    merged, shown = merge_classes(counts, names, 40)
    kept = [names.index(name) for name in shown[:-1]]
    assert shown[-1] == "other" and kept == sorted(kept) and len(kept) == 39
    assert np.array_equal(merged[:-1, :-1], counts[np.ix_(kept, kept)])
    assert np.array_equal(merged.sum(1)[:-1], counts.sum(1)[kept])
    assert np.array_equal(merged.sum(0)[:-1], counts.sum(0)[kept])
    assert merged.sum() == counts.sum()
    confused = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    assert confused[kept].min() >= np.delete(confused, kept).max()
