from lightning_seg.data.bench import bench, table
from lightning_seg.data.camvid import CamVid
from lightning_seg.data.transforms import ColorJitter


def test_bench_times_every_way_and_shows_them_in_a_table(camvid):
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32), color=ColorJitter(0.4, 0.4, 0.4, 0.1))
    times = bench(data, rounds=2)
    assert {"decode alone", "torchvision v2, from files", "lightning_seg, cached"} <= times.keys()
    assert all(time > 0 for time in times.values())
    assert times["lightning_seg, cached, without the device's part"] < times["torchvision v2, from files"]
    lines = table(times | {"twice as fast": times["torchvision v2, from files"] / 2}).splitlines()
    assert any(line.startswith("twice as fast") and line.endswith(" 2.0x") for line in lines)
