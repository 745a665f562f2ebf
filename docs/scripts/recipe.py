"""Draw docs/assets/studies_recipe.svg, the CamVid recipes' score over their cost: python -m docs.scripts.recipe."""

from pathlib import Path

import numpy as np

from lightning_seg.plotting.charts import Panel, draw_lines, svg

# Core-minutes of a whole run, and val mIoU of its seeds: docs/studies.md, the recipe on CamVid.
RUNS = {
    "full_dinov2_camvid": {16.5: [0.652, 0.636, 0.644, 0.640, 0.630], 63.0: [0.711, 0.710, 0.711, 0.722]},
    "deeplab_lite0_camvid": {18.6: [0.634, 0.649, 0.636], 51.0: [0.685, 0.696, 0.687]},
}


def panel() -> Panel:
    """Return the diagram: means over the cost, and the range of the seeds as a band."""
    drawn = Panel("CamVid, 101 validation images: mIoU", "core-minutes of a whole run")
    for name, runs in RUNS.items():
        cost = np.array(list(runs))
        drawn.lines[name] = cost, np.array([np.mean(scores) for scores in runs.values()])
        drawn.bands[name] = tuple(np.array([end(s) for s in runs.values()]) for end in (min, max))
    return drawn


if __name__ == "__main__":
    Path("docs/assets/studies_recipe.svg").write_text(svg(draw_lines([panel()])) + "\n")
