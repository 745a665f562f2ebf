"""Charts show the points they are given, and names do no harm."""

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lightning_seg.plotting.charts import Panel, Point, Scatter, draw_lines, draw_scatter, svg


def test_a_scatter_chart_places_its_points():
    chart = Scatter(
        "<title>", "images/s", "mIoU", [Point("slow & $good", 2, 0.8, 4), Point("fast", 200, 0.5)]
    )
    figure = draw_scatter([chart, chart])
    (axes, below) = figure.axes
    (dots,) = axes.collections
    np.testing.assert_allclose(dots.get_offsets(), [[2, 0.8], [200, 0.5]])
    assert dots.get_sizes()[0] > dots.get_sizes()[1] and axes.get_xscale() == "log"
    texts = [
        "".join(t.itertext())
        for t in ElementTree.fromstring(svg(figure)).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"<title>", "slow & $good", "fast"} <= set(texts)


@pytest.mark.parametrize("log_x", [False, True])
def test_lines_leave_out_what_is_no_number(log_x, tmp_path):
    x = np.array([1.0, 2, 3, 4])
    lines = {"a": (x, np.array([1, np.nan, 2, np.inf])), "empty": (np.zeros(0), np.zeros(0))}
    figure = draw_lines(
        [Panel("loss", "step", {"other": (x, x)}), Panel("mIoU", "step", lines, log_x, mark=2.5)]
    )
    first, empty, mark = figure.axes[1].lines
    np.testing.assert_array_equal(first.get_xydata(), [[1, 1], [3, 2]])
    assert len(empty.get_xydata()) == 0 and mark.get_xdata()[0] == 2.5
    assert figure.axes[0].lines[0].get_color() != first.get_color()
    figure.savefig(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size == (1800, 560)
