import pytest

from lightning_seg.data.bench import bench, table
from lightning_seg.data.camvid import CamVid
from lightning_seg.data.transforms import ColorJitter
from lightning_seg.errors import UserError


def test_bench_times_every_way_and_shows_them_in_a_table(camvid):
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32), color=ColorJitter(0.4, 0.4, 0.4, 0.1))
    times = bench(data, rounds=2)
    assert {"decode alone", "torchvision v2, from files", "lightning_seg, cached"} <= times.keys()
    assert all(time > 0 for time in times.values())
    assert times["lightning_seg, cached, without the device's part"] < times["torchvision v2, from files"]
    lines = table(times | {"twice as fast": times["torchvision v2, from files"] / 2}).splitlines()
    assert any(line.startswith("twice as fast") and line.endswith(" 2.0x") for line in lines)


def test_the_table_says_which_goals_were_reached():
    times = {"torchvision v2, from files": 14.0, "decode alone": 5.0, "albumentations, cached": 1.6}
    times |= {"lightning_seg, cached": 0.5, "lightning_seg, from files": 6.0}
    text = table(times)
    assert "lightning_seg, cached / torchvision v2, from files: 28.00x, goal 20x reached" in text
    assert "lightning_seg, cached / albumentations, cached: 3.20x, goal 1.5x reached" in text
    assert "lightning_seg, from files / decode alone: 0.83x, goal 0.85x missed" in text
    del times["albumentations, cached"]
    assert "uv pip install albumentations" in table(times)


def test_bench_says_what_it_needs(camvid):
    with pytest.raises(UserError, match="data.init_args.color="):
        bench(CamVid(str(camvid), batch_size=2, crop_size=(32, 32)))
