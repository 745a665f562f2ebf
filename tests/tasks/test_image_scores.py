"""Scores beyond overlap and post-processing in a whole run: from the YAML to test.json and the predicted masks."""

import csv
import json
import os
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_seg import load
from lightning_seg.cli.main import main
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes

TINY = """
seed_everything: 0
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [32, 16, 16, 8, 8]}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3e-3}}
  metrics:
  - lightning_seg.metrics.boundary.BoundaryIoU
  - {class_path: lightning_seg.metrics.boundary.BoundaryF1, init_args: {pixels: 3}}
  - lightning_seg.metrics.boundary.SurfaceDistances
  - {class_path: lightning_seg.metrics.boundary.Trimap, init_args: {widths: [2, 8]}}
  - lightning_seg.metrics.objects.PerImage
  - lightning_seg.metrics.objects.BySize
  - lightning_seg.metrics.objects.ObjectCounts
  - {class_path: lightning_seg.metrics.objects.PanopticQuality, init_args: {stuff: [0]}}
  - lightning_seg.metrics.probability.MeanAbsoluteError
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 8, val_images: 3, test_images: 5,
     eval_batch_size: 2, num_workers: 0}
overfitting: {train_eval_fraction: 0}
trainer: {max_epochs: 12, check_val_every_n_epoch: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1}
"""
STEPS = [
    {"class_path": "lightning_seg.postprocess.morphology.Dilation", "init_args": {"classes": ["square"]}}
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("work"), os.getcwd()
    os.chdir(folder)
    (folder / "tiny.yaml").write_text(TINY)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def run(workplace):
    assert main(["exp", "tiny.yaml"]) == 0
    (path,) = (workplace / "runs" / "tiny").iterdir()
    return path


def test_scores_are_in_test_json_and_metrics_csv_under_their_names(run):
    table = json.loads((run / "test.json").read_text())
    names = (
        "boundary_iou_2pct boundary_f1_3px boundary_f1_3px_image hausdorff hd95 assd surface_misses "
        "surface_false_alarms trimap_miou_2px trimap_miou_8px image_miou image_miou_median image_miou_worst_tenth "
        "recall_small precision_large count_error count_bias pq sq rq mae mae_image"
    ).split()
    assert set(names) <= set(table["scores"])
    classes = table["protocol"]["classes"]
    for name in ("boundary_iou_2pct", "hd95", "surface_misses", "pq", "recall_medium"):
        assert list(table["per_class"][name]) == classes
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    logged = {
        name: float(row[name]) for row in rows for name in row if name.startswith("test/") and row[name]
    }
    assert {
        name: logged[f"test/{name}"] for name in names if table["scores"][name] is not None
    } == pytest.approx(
        {name: table["scores"][name] for name in names if table["scores"][name] is not None}, rel=1e-5
    )
    assert f"test/hd95/{classes[0]}" in logged
    assert not any("hd95" in name and not name.startswith("test/") for row in rows for name in row)
    # the network is hardly trained, so that there is something to measure
    assert table["scores"]["hd95"] > 1 and 0 < table["scores"]["mae"] < 1
    assert "postprocessing" not in table["protocol"]


def test_the_scores_do_not_depend_on_the_batch_size(run):
    before = json.loads((run / "test.json").read_text())["scores"]
    assert main(["test", str(run), "--data.init_args.eval_batch_size=1"]) == 0
    after = json.loads((run / "test.json").read_text())["scores"]
    for name in ("mae", "mae_image"):  # the last digit of a probability depends on the batch
        assert after.pop(name) == pytest.approx(before.pop(name), rel=1e-5)
    assert {k: v for k, v in before.items() if k != "iou"} == {k: v for k, v in after.items() if k != "iou"}


def test_metrics_of_validation_on_request(run, capsys):
    assert main(["validate", str(run), "--model.val_metrics=true"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^hd95 +\d", out, re.M) and re.search(r"^pq +\d", out, re.M) and "val split, " in out


def test_postprocessing_of_an_experiment_is_in_test_and_predict(run, workplace, capsys):
    assert main(["test", str(run)]) == 0
    without = json.loads((run / "test.json").read_text())
    before = np.load(run / "test_images.npz")["counts"]
    chosen = f"--model.postprocess={json.dumps(STEPS)}"
    assert main(["test", str(run), chosen]) == 0
    with_it = json.loads((run / "test.json").read_text())
    after = np.load(run / "test_images.npz")["counts"]
    assert with_it["protocol"].pop("postprocessing") == ["Dilation(radius=1, classes=['square'])"]
    assert with_it["protocol"] == without["protocol"]
    square = without["protocol"]["classes"].index("square")
    assert (after[:, square, 1] >= before[:, square, 1]).all() and (
        after[:, square, 1] > before[:, square, 1]
    ).any()
    assert with_it["scores"]["boundary_iou_2pct"] != without["scores"]["boundary_iou_2pct"]

    data = Shapes(batch_size=4, crop_size=(32, 32), image_size=(50, 61), test_images=1)
    picture = Split(data, "test")[0]["image"].permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(workplace / "picture.png")
    masks = []
    for options in ([], [chosen]):
        assert main(["predict", str(run), "picture.png", "--output", "out", *options]) == 0
        masks.append(np.array(Image.open(workplace / "out" / "masks" / "picture.png")))
        assert (load(run, settings=options)(picture) == masks[-1]).all()
    grown = (masks[1] == square) & (masks[0] != square)
    assert grown.any() and ((masks[0] == square) <= (masks[1] == square)).all()


def test_validation_scores_the_network_alone(run, capsys):
    chosen = f"--model.postprocess={json.dumps(STEPS)}"
    found = []
    for options in ([], [chosen]):
        assert main(["validate", str(run), *options]) == 0
        found.append(capsys.readouterr().out.partition("class ")[2])
    assert found[0] == found[1] and "mean " in found[0]


def test_no_answer_and_wrong_steps_are_refused(run, capsys):
    doubt = {
        "class_path": "lightning_seg.postprocess.confidence.ConfidenceThreshold",
        "init_args": {"threshold": 1},
    }
    assert main(["test", str(run), f"--model.postprocess={json.dumps([doubt])}"]) == 2
    assert "gives no answer for some pixels" in capsys.readouterr().err
    wrong = yaml.safe_load(json.dumps(STEPS))
    wrong[0]["init_args"]["classes"] = ["squaer"]
    assert main(["test", str(run), f"--model.postprocess={json.dumps(wrong)}"]) == 2
    assert "Dilation.classes: there is no class 'squaer'" in capsys.readouterr().err
