"""The report is one file that opens anywhere, shows what the runs say, and runs nothing they are called."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from lightning_seg.pictures import comparison
from lightning_seg.runs.compare import compare
from lightning_seg.runs.report import cut_picture, write_report

from .made_runs import make_run, simulate

PALETTE = ((0, 0, 0), (220, 40, 40), (40, 90, 220))
EVIL = "</script><img src=x onerror=document.title='broken'>"


def picture(seed=0, sizes=((40, 60), (50, 50))):
    rng = np.random.default_rng(seed)
    images = [np.full((*size, 3), 255, np.uint8) for size in sizes]  # white, as the paper between pictures
    truths = [rng.integers(0, 3, size).astype(np.uint8) for size in sizes]
    predictions = [np.where(rng.random(t.shape) < 0.8, t, 0).astype(np.uint8) for t in truths]
    truths[0][:10] = 255
    return comparison(images, truths, predictions, ("a", "b", "c"), PALETTE)


def report(path, tmp_path):
    file = tmp_path / "reports" / "all.html"
    write_report(compare([path]), file)
    page = file.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return file, page, json.loads(found[1])


def test_pictures_are_cut_where_they_were_pasted():
    drawn = np.asarray(picture())
    rows, legend = cut_picture(drawn)
    assert [[p.shape for p in row] for row in rows] == [[(213, 320, 3)] * 4, [(320, 320, 3)] * 4]
    assert (rows[0][0] == 255).all()
    assert not (rows[0][3] == 255).all(-1).any()
    assert np.array_equal(
        rows[1][2], drawn[31 + 213 + 8 : 31 + 213 + 8 + 320, 8 + 2 * 328 : 8 + 2 * 328 + 320]
    )
    assert len(legend) == len(drawn) - (31 + 213 + 8 + 320)


def test_other_pictures_are_left_alone():
    assert cut_picture(np.full((100, 100, 3), 255, np.uint8))[0] == []
    assert cut_picture(np.zeros((5, 5, 3), np.uint8))[0] == []


def test_what_is_in_it(tmp_path):
    runs = tmp_path / "runs"
    for seed in range(3):
        make_run(runs, "unet", seed=seed, picture=picture(seed))
        make_run(runs, "deeplab", seed=seed, shift=0.1, picture=picture(10 + seed))
    make_run(runs, "running", tested=False)
    (runs / "broken" / "20260101-000000-ffff").mkdir(parents=True)
    _, page, data = report(runs, tmp_path)

    (section,) = data["sections"]
    assert [group["name"] for group in section["groups"]] == ["deeplab", "unet"]
    expected = compare([runs]).sections[0]
    assert section["groups"][0]["miou"] == pytest.approx(100 * expected.sample.value[0, 0], rel=1e-4)
    classes = section["groups"][1]["classes"]
    np.testing.assert_allclose(
        np.add(np.add(classes["iou"], classes["missed"]), classes["added"]), 1, atol=1e-2
    )
    assert section["sentences"] == [f"{expected.sentence(1)}. {expected.class_sentence(1)}"]
    assert {run["status"] for run in data["runs"]} == {"tested", "not tested", "broken"}
    running = next(run for run in data["runs"] if run["experiment"] == "running")
    assert (running["section"], running["group"]) == (0, -1)
    assert set(running["curves"]) == {"train/loss", "val/loss", "val/miou", "train/images_per_second"}
    assert section["pictures"]["names"] == ["test_0000", "test_0019"]
    assert section["pictures"]["columns"].keys() == {"0", "1"}


def test_no_request_and_no_markup_from_names(tmp_path):
    runs = tmp_path / "runs"
    make_run(
        runs, "unet", protocol={"classes": [EVIL, "{{SCRIPT}}", "c"]}, config={"wandb": {"tags": [EVIL]}}
    )
    _, page, data = report(runs, tmp_path)
    assert data["sections"][0]["classes"][0] == EVIL and data["runs"][0]["tags"] == [EVIL]
    assert "<img src=x" not in page
    assert set(re.findall(r"https?://[\w./]+", page)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, not an address
    assert "default-src 'none'" in page
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bfetch\b", page)


def test_long_curves_are_thinned(tmp_path):
    make_run(tmp_path / "runs", rows=1000)
    data = report(tmp_path / "runs", tmp_path)[2]
    steps, epochs, losses = data["runs"][0]["curves"]["train/loss"]
    assert len(steps) == len(epochs) == len(losses) == 100
    assert steps[-1] == 9990
    assert losses[0] == pytest.approx(np.mean([1 / (i + 1) for i in range(10)]), rel=1e-3)


def test_two_hundred_runs_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 255, (600, 1320, 3), np.uint8)  # the worst to compress
    drawn[-20:] = 255
    drawn = Image.fromarray(drawn)
    counts = [simulate(rng, images=30, classes=11, true=np.full((30, 11), 900.0)) for _ in range(10)]
    for i in range(200):
        group = i // 2
        shown = None if i % 25 else drawn
        make_run(tmp_path / "runs", f"e{group % 10}", i % 2, lr=group, counts=counts[i % 10], picture=shown)
    file, _, data = report(tmp_path / "runs", tmp_path)
    assert len(data["runs"]) == 200 and len(data["sections"][0]["groups"]) == 100
    assert data["sections"][0]["pictures"]["columns"]
    assert file.stat().st_size < 15e6


CLICKS = """<script>
addEventListener("load", () => {
  const seen = {}, all = (selector) => [...document.querySelectorAll(selector)];
  const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change")); };
  const names = () => all("#ranking td.name").map((cell) => cell.textContent);
  seen.ranking = names();
  const byName = () => all("#ranking th button").find((button) => button.textContent === "experiment");
  byName().click(); byName().click();
  seen.rankingReversed = names();
  seen.sorted = all("#ranking th")[2].getAttribute("aria-sort");
  seen.runs = all("#runs tbody tr").length;
  $("filter").value = "unet"; $("filter").dispatchEvent(new Event("input"));
  seen.filtered = names();
  $("filter").value = ""; $("filter").dispatchEvent(new Event("input"));
  seen.curves = all("#curves polyline").length;
  const chart = document.querySelector("#curves svg");
  for (let i = 0; i < 3; i++) chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  seen.readout = document.querySelector("#curves .readout b").textContent;
  all("#ranking input")[0].click();
  seen.curvesOfOne = all("#curves polyline").length;
  all("#ranking input")[0].click();
  set("quantity", "train/loss"); set("axis", "1");
  seen.epochs = document.querySelector("#curves svg").getAttribute("aria-label");
  set("class-view", "errors"); seen.errorBars = all("#classes rect").length;
  set("class-view", "difference"); seen.differenceBars = all("#classes rect").length;
  set("picture-view", "other"); seen.masks = all("#pictures .mask").length;
  set("picture-order", "worst"); seen.figures = all("#pictures h3").length;
  all("#pictures button")[0].click(); seen.dialog = $("large").open;
  $("large").querySelector("button").click(); seen.closed = !$("large").open;
  $("theme").click(); seen.theme = document.documentElement.style.colorScheme;
  seen.requests = performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:"));
  seen.classes = all("#classes svg > text").some((t) => t.textContent.startsWith("<\\/script>"));
  seen.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
});
</script></body>"""


@pytest.mark.slow
def test_in_a_browser(tmp_path):
    """Starts a browser, which takes seconds."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    runs = tmp_path / "runs"
    classes = {"classes": [EVIL, "b", "c"]}
    for seed in range(2):
        make_run(runs, "unet", seed=seed, picture=picture(seed), protocol=classes)
        make_run(runs, "deeplab", seed=seed, shift=0.1, picture=picture(9), protocol=classes)
    file, page, _ = report(runs, tmp_path)
    file.write_text(page.replace("</body>", CLICKS))
    flags = "headless no-sandbox disable-gpu no-first-run disable-sync disable-background-networking"
    flags += " disable-component-update enable-logging=stderr virtual-time-budget=5000 window-size=500,900 dump-dom"
    command = [browser, *(f"--{flag}" for flag in flags.split()), f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    dumped = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert dumped, done.stderr[-2000:]
    seen = json.loads(dumped[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen == {
        "ranking": ["deeplab", "unet"],
        "rankingReversed": ["unet", "deeplab"],
        "sorted": "descending",
        "runs": 4,
        "filtered": ["unet"],
        "curves": 4,
        "readout": "step 20",
        "curvesOfOne": 2,
        "epochs": "train/loss against epoch; arrow keys read values",
        "errorBars": 2 * 3 * 3,
        "differenceBars": 3,
        "masks": 2,
        "figures": 2,
        "dialog": True,
        "closed": True,
        "theme": seen["theme"],
        "requests": [],
        "classes": True,
        "wide": False,
    }
    assert seen["theme"] in ("light", "dark")
    assert "<title>Comparison of runs</title>" in done.stdout  # the name of the class would have changed it
