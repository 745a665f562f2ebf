"""An ablation over several experiments is one cell for each."""

from lightning_seg.studies.axes import cells
from lightning_seg.studies.plan import load


def test_several_experiments_without_shares_are_cells_by_their_names():
    found = cells(load("dinov2_camvid"))
    names = ["dinov2_camvid/linear_dinov2_camvid", "dinov2_camvid/dpt_dinov2_camvid"]
    assert [cell.name for cell in found] == names
    assert all(list(cell.variants) == ["kept", "frozen", "lora", "full"] for cell in found)
