"""The report is one file that opens anywhere, shows what the runs say, and runs nothing they are called."""

import base64
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.report.report import write_report
from lightning_seg.metrics.scores import miou_and_iou
from lightning_seg.runs.directory import ENVIRONMENT, METRICS
from lightning_seg.runs.records import read
from tests.runs.made_runs import PALETTE, make_run, simulate

EVIL = "</script><img src=x onerror=document.title='broken'>"


def parts(seed=0, sizes=((40, 60), (50, 50)), indices=(0, 19)):
    """Two test images; the truth is the same for every seed, a fifth of the prediction is not it."""
    rng, truth_rng = np.random.default_rng(seed), np.random.default_rng(7)
    for index, size in zip(indices, sizes, strict=True):
        truth = truth_rng.integers(0, 3, size).astype(np.uint8)
        truth[:10] = 255
        prediction = np.where((rng.random(size) < 0.8) & (truth != 255), truth, 0).astype(np.uint8)
        yield index, np.full((*size, 3), 200, np.uint8), truth, prediction


def report(path, tmp_path):
    file = tmp_path / "reports" / "all.html"
    write_report(compare([path]), file)
    page = file.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return file, page, json.loads(found[1])


def labels(source):
    """Read an embedded picture back."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_what_is_in_it(tmp_path):
    runs = tmp_path / "runs"
    for seed in range(3):
        make_run(runs, "unet", seed=seed, parts=parts(seed), confusion=np.diag([5, 10, 0]) + 1)
        make_run(runs, "deeplab", seed=seed, shift=0.1, parts=parts(10 + seed))
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
    assert {run["status"] for run in data["runs"]} == {"tested", "running", "broken"}
    running = next(run for run in data["runs"] if run["experiment"] == "running")
    assert (running["section"], running["group"]) == (0, -1)
    assert set(running["curves"]) == {
        "train/loss",
        "val/loss",
        "val/miou",
        "val/iou/disc",
        "train/images_per_second",
    }
    assert section["groups"][0]["confusion"] is None
    # three seeds: rows 18, 33 and 9 pixels
    expected = [[100 * 18 / 24, 12.5, 12.5], [100 / 13, 1100 / 13, 100 / 13], [100 / 3] * 3]
    np.testing.assert_allclose(section["groups"][1]["confusion"]["percent"], expected, rtol=1e-4)

    pictures = section["pictures"]
    assert pictures["names"] == ["test_0000", "test_0019"] and pictures["sizes"] == [[60, 40], [50, 50]]
    assert pictures["palette"] == [list(color) for color in PALETTE]
    assert pictures["columns"].keys() == {"0", "1"}
    middle = sorted(expected_runs(runs, "unet"), key=lambda record: record.score("miou"))[1]
    for k, (_, _, truth, prediction) in enumerate(parts(middle.seed)):
        np.testing.assert_array_equal(labels(pictures["truths"][k]), truth)
        np.testing.assert_array_equal(labels(pictures["columns"]["1"][k]["labels"]), prediction)
    assert pictures["columns"]["1"][1]["score"] == pytest.approx(
        100 * miou_and_iou(middle.counts[19])[0], rel=1e-4
    )

    images = section["images"]
    assert sorted(images["names"]) == [f"test_{i:04d}" for i in range(20)]
    both = np.mean([images["scores"]["0"], images["scores"]["1"]], axis=0)
    assert both.argmin() == 0 and both.argmax() == 19  # the worst first


def expected_runs(runs, experiment):
    return [read(path) for path in (runs / experiment).iterdir()]


def test_pictures_of_another_size_or_that_are_missing_are_left_out(tmp_path):
    make_run(tmp_path / "runs", "a", shift=0.1, parts=parts())
    make_run(tmp_path / "runs", "b", parts=parts(sizes=((40, 60), (20, 50))))
    make_run(tmp_path / "runs", "c", shift=-0.1, parts=list(parts())[:1])
    make_run(tmp_path / "runs", "d", shift=-0.2)
    columns = report(tmp_path / "runs", tmp_path)[2]["sections"][0]["pictures"]["columns"]
    assert {g: [tile is not None for tile in tiles] for g, tiles in columns.items()} == {
        "0": [True, True],
        "1": [True, False],
        "2": [True, False],
        "3": [False, False],
    }


def test_a_picture_that_is_not_whole_is_left_out(tmp_path):
    run = make_run(tmp_path / "runs", parts=parts())
    file = run / "pictures" / "test" / "00000_prediction.png"
    file.write_bytes(file.read_bytes()[:100])
    assert report(tmp_path / "runs", tmp_path)[2]["sections"][0]["pictures"]["columns"]["0"][0] is None


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
    noise = rng.integers(0, 255, (320, 480, 3), np.uint8)  # the worst to compress
    masks = rng.integers(0, 11, (320, 480), np.uint8)
    drawn = [(i, noise, masks, masks) for i in range(6)]
    confusion = rng.integers(0, 10**7, (11, 11))
    counts = [simulate(rng, images=30, classes=11, true=np.full((30, 11), 900.0)) for _ in range(10)]
    for i in range(200):
        group = i // 2
        made = {"parts": () if i else drawn, "confusion": confusion, "counts": counts[i % 10]}
        run = make_run(tmp_path / "runs", f"e{group % 10}", i % 2, lr=group, **made)
        if i == 0:
            pictures = run / "pictures"
        else:
            (run / "pictures").symlink_to(pictures)
    file, _, data = report(tmp_path / "runs", tmp_path)
    assert len(data["runs"]) == 200 and len(data["sections"][0]["groups"]) == 100
    assert len(data["sections"][0]["pictures"]["columns"]) > 2
    assert file.stat().st_size < 15e6


CLICKS = """<script>
addEventListener("load", async () => {
  const seen = {}, all = (selector) => [...document.querySelectorAll(selector)];
  const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change")); };
  const names = () => all("#ranking td.name").map((cell) => cell.textContent);
  const drawn = () => new Promise((done) => setTimeout(done, 300));
  const count = (canvas, color) => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let found = 0;
    for (let i = 0; i < data.length; i += 4) found += color.every((value, c) => data[i + c] === value);
    return found;
  };
  const tiles = () => all("#pictures .figure")[0].querySelectorAll("canvas");
  seen.ranking = names();
  const byName = () => all("#ranking th button").find((button) => button.textContent === "experiment");
  byName().click(); byName().click();
  seen.rankingReversed = names();
  seen.verdicts = all("#ranking tbody tr").map((row) => [...row.cells].map((cell) => cell.textContent).filter((t) => /reference|better|worse|disting|differs/.test(t)));
  seen.sorted = all("#ranking th")[2].getAttribute("aria-sort");
  seen.runs = all("#runs tbody tr").length;
  $("filter").value = "unet"; $("filter").dispatchEvent(new Event("input"));
  seen.filtered = names();
  $("filter").value = ""; $("filter").dispatchEvent(new Event("input"));
  seen.means = [all("#curves polyline").length, all("#curves polygon").length];
  set("curve-view", "runs");
  seen.curves = all("#curves polyline").length;
  seen.dashes = new Set(all("#curves polyline").map((line) => line.getAttribute("stroke-dasharray"))).size;
  $("smoothing").value = 80; $("smoothing").dispatchEvent(new Event("input"));
  seen.smoothed = curveLines(curveRuns("val/miou"), "val/miou")[0].points.map(([, y]) => y);
  $("smoothing").value = 0; $("smoothing").dispatchEvent(new Event("input"));
  $("filter").value = "deeplab"; $("filter").dispatchEvent(new Event("input"));
  seen.curvesFiltered = all("#curves polyline").length;
  $("filter").value = ""; $("filter").dispatchEvent(new Event("input"));
  $("untested").click(); seen.ended = all("#curves polyline.stopped").length + all("#curves polyline.running").length; $("untested").click();
  const chart = document.querySelector("#curves svg");
  for (let i = 0; i < 3; i++) chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  seen.readout = document.querySelector("#curves .readout b").textContent;
  all("#ranking input")[0].click();
  seen.curvesOfOne = all("#curves polyline").length;
  all("#ranking input")[0].click();
  const quantity = (name) => all("#quantities input").find((box) => box.value === name);
  quantity("val/iou/disc").click(); seen.charts = all("#curves .chart > svg").length; quantity("val/iou/disc").click();
  quantity("val/miou").click(); quantity("train/loss").click(); set("axis", "1");
  const drag = (kind, x) => document.querySelector("#curves .chart > svg").dispatchEvent(new PointerEvent(kind, { clientX: x, pointerType: "mouse" }));
  const box = document.querySelector("#curves .chart > svg").getBoundingClientRect();
  const wide = document.querySelector("#curves polyline").points.numberOfItems;
  drag("pointerdown", box.left + box.width * 0.5); drag("pointermove", box.left + box.width); drag("pointerup", box.left + box.width);
  seen.zoomed = [wide, document.querySelector("#curves polyline").points.numberOfItems, $("whole").hidden];
  $("whole").click();
  $("log").click(); seen.log = all("#curves .chart > svg > text").map((t) => t.textContent).filter((t) => Number(t) < 0).length; $("log").click();
  seen.epochs = document.querySelector("#curves svg").getAttribute("aria-label");
  set("axis", "2");
  document.querySelector("#curves svg").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  seen.images = document.querySelector("#curves .readout b").textContent;
  seen.leftOut = [all("#curves polyline").length, document.querySelector("#curves .note:not(.readout .note)").textContent];
  seen.labels = [0, 1e-5, 0.00025, 0.01, -0.0005, 25000].map(compact);
  set("class-view", "errors"); seen.errorBars = all("#classes rect").length;
  set("class-view", "difference"); seen.differenceBars = all("#classes rect").length;
  seen.confusions = all("#confusion li").map((item) => item.textContent);
  seen.matrix = all("#confusion tbody td").map((cell) => cell.textContent);
  seen.front = all("#speed polyline").length;

  $("opacity").value = 100; $("opacity").dispatchEvent(new Event("input"));
  await drawn();
  seen.tiles = tiles().length;
  seen.disc = [1, 2].map((i) => count(tiles()[i], [220, 40, 40]));
  set("picture-view", "errors"); await drawn();
  seen.wrong = count(tiles()[2], [220, 20, 60]);
  set("picture-view", "differs"); set("other", "1"); await drawn();
  seen.different = [2, 3].map((i) => count(tiles()[i], [255, 0, 200]));
  seen.caption = all("#pictures .figure")[0].querySelectorAll("small")[2].textContent;
  set("picture-order", "worst"); seen.worst = all("#pictures h3").map((title) => title.textContent);
  set("picture-order", "best"); seen.best = all("#pictures h3").map((title) => title.textContent);
  all("#pictures button")[1].click();
  const slider = $("large").querySelector("input");
  seen.focus = document.activeElement === slider;
  slider.value = 80; slider.dispatchEvent(new Event("input"));
  seen.dialog = [$("large").open, $("large").querySelectorAll("canvas")[1].style.clipPath];
  const sides = $("large").querySelectorAll("select");
  sides[0].value = "0"; sides[1].value = "errors"; sides[1].dispatchEvent(new Event("change")); await drawn();
  seen.sliderErrors = count($("large").querySelector("canvas"), [220, 20, 60]);
  $("large").querySelector("button").click(); seen.closed = !$("large").open;
  seen.allImages = all("#images tbody tr").length;
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
    common = {
        "protocol": {"classes": [EVIL, "b", "c"]},
        "confusion": np.array([[8, 2, 0], [0, 5, 0], [0, 0, 0]]),
    }
    for seed in range(2):
        run = make_run(runs, "unet", seed=seed, parts=parts(1), **common)
        (run / ENVIRONMENT).write_text("{}")  # knows nothing of its batch size
        make_run(runs, "deeplab", seed=seed, shift=0.1, parts=parts(9), **common)
    make_run(runs, "killed", tested=False)
    file, page, data = report(runs, tmp_path)
    file.write_text(page.replace("</body>", CLICKS))
    flags = "headless no-sandbox disable-gpu no-first-run disable-sync disable-background-networking"
    flags += " disable-component-update enable-logging=stderr virtual-time-budget=9000 window-size=500,900 dump-dom"
    command = [browser, *(f"--{flag}" for flag in flags.split()), f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    dumped = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert dumped, done.stderr[-2000:]
    seen = json.loads(dumped[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    (_, _, truth, deeplab), (_, _, _, unet) = next(parts(9)), next(parts(1))
    counted = truth != 255
    differ = int((counted & (deeplab != unet)).sum())
    pictures = data["sections"][0]["pictures"]
    score_here = pictures["columns"]["0"][0]["score"]
    level = [np.mean([tiles[k]["score"] for tiles in pictures["columns"].values()]) for k in range(2)]
    worst = [pictures["names"][k] for k in np.argsort(level)]
    *_, best_truth, best_labels = list(parts(9))[int(np.argmax(level))]
    slider_errors = int(((best_truth != 255) & (best_labels != best_truth)).sum())
    values = next(run for run in data["runs"] if run["group"] >= 0)["curves"]["val/miou"][2]
    weights = [[0.8 ** (i - j) for j in range(i + 1)] for i in range(len(values))]
    smoothed = [np.average(values[: len(w)], weights=w) for w in weights]
    assert seen == {
        "ranking": ["deeplab", "unet"],
        "rankingReversed": ["unet", "deeplab"],
        "verdicts": [["worse"], ["reference"]],  # in a cell of their own
        "sorted": "descending",
        "runs": 5,
        "filtered": ["unet"],
        "means": [2, 2],
        "curves": 4,
        "dashes": 2,
        "smoothed": pytest.approx(smoothed, rel=1e-6),
        "curvesFiltered": 2,
        "ended": 1,
        "charts": 2,
        "zoomed": [5, 3, False],
        "log": 0,
        "readout": "step 20",
        "curvesOfOne": 2,
        "epochs": "train/loss against epoch; arrow keys read values, dragging zooms",
        "images": "images seen 16",
        "leftOut": [2, "Runs left out, which did not record that axis: 2."],
        "labels": ["0", "1e-5", "2.5e-4", "0.01", "-5e-4", "25k"],
        "errorBars": 2 * 3 * 3,
        "differenceBars": 3,
        "confusions": [f"20.0 % of {EVIL} taken for b"],
        "matrix": ["80", "20", "0.0", "0.0", "100", "0.0", "–", "–", "–"],
        "front": 1,
        "tiles": 4,
        "disc": [int((mask == 1).sum()) for mask in (truth, deeplab)],
        "wrong": int((counted & (deeplab != truth)).sum()),
        "different": [differ, 0],
        "caption": f"deeplab: {score_here:.1f} % here, {100 * differ / counted.sum():.1f} % differ",
        "worst": worst,
        "best": worst[::-1],
        "focus": True,
        "dialog": [True, "inset(0px 0px 0px 80%)"],
        "sliderErrors": slider_errors,
        "closed": True,
        "allImages": 20,
        "theme": seen["theme"],
        "requests": [],
        "classes": True,
        "wide": False,
    }
    assert seen["theme"] in ("light", "dark")
    assert "<title>Comparison of runs</title>" in done.stdout  # the name of the class would have changed it


def test_a_run_that_has_no_row_yet_is_running_and_one_long_silent_was_stopped(tmp_path):
    make_run(tmp_path / "runs", "unet")
    begun, killed = (make_run(tmp_path / "runs", "unet", seed, tested=False) for seed in (1, 2))
    (begun / METRICS).unlink()
    for file in killed.iterdir():
        os.utime(file, (0, 0))
    found = {run["id"]: run["status"] for run in report(tmp_path / "runs", tmp_path)[2]["runs"]}
    assert (found[begun.name], found[killed.name]) == ("running", "stopped")


def test_a_run_without_a_test_is_called_by_what_it_tries(tmp_path):
    for lr in (0.1, 0.2):
        make_run(tmp_path / "runs", "unet", lr=lr, tested=lr == 0.1)
    make_run(tmp_path / "runs", "deeplab", tested=False)
    (tmp_path / "runs" / "broken" / "20260101-000000-ffff").mkdir(parents=True)
    found = {run["name"] for run in report(tmp_path / "runs", tmp_path)[2]["runs"] if run["group"] < 0}
    assert found == {"unet lr 0.2", "deeplab", "broken"}


def test_why_a_run_failed_stands_beside_it(tmp_path):
    runs = tmp_path / "runs"
    make_run(runs, "unet")
    failed = make_run(runs, "unet", seed=1, tested=False)
    (failed / ENVIRONMENT).write_text(json.dumps({"failed": "the loss is nan at step 31"}))
    _, _, data = report(runs, tmp_path)
    assert [(run["status"], run["problem"]) for run in data["runs"] if run["id"] == failed.name] == [
        ("failed", "the loss is nan at step 31")
    ]
