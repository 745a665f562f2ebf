import pytest

from lightning_seg.bench.samples import CACHED, DECODE, FILES, GOALS, TORCHVISION, WORKER, sample_ways
from lightning_seg.bench.timing import table, take_turns
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.transforms.color import ColorJitter
from lightning_seg.errors import UserError


def shapes(**kwargs):
    arguments = dict(batch_size=2, crop_size=(32, 32), image_size=(40, 48), train_images=19)
    return Shapes(**{**arguments, **kwargs})


def test_every_way_is_timed_and_compared_with_the_goals():
    ways, images = sample_ways(shapes(color=ColorJitter(0.4, 0.4, 0.4, 0.1)))
    assert images == 16  # whole batches
    times = take_turns(ways, 2)
    assert {DECODE, FILES, CACHED, WORKER, TORCHVISION} <= times.keys()
    assert all(seconds > 0 for turns in times.values() for seconds in turns)
    assert min(times[CACHED]) < min(times[FILES])
    text = table(times, TORCHVISION, GOALS, unit=images)
    assert "ours, cached / torchvision v2, from files" in text and "goal 20x" in text


def test_what_the_comparison_needs():
    with pytest.raises(UserError, match="data.init_args.color="):
        sample_ways(shapes())
    with pytest.raises(UserError, match="needs 8 training images"):
        sample_ways(shapes(train_images=7, color=ColorJitter(0.1)))
