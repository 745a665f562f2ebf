"""A run is scored on further test sets after its own, each with a protocol and a folder of its own."""

import json

import numpy as np
import pytest
import yaml

from lightning_seg.analysis.compare import compare
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.errors import UserError
from lightning_seg.experiment.test_sets import make_test_sets
from tests.faults.programs import experiment, here, only
from tests.tasks.test_mask_classification import NETWORK


def test_a_run_is_scored_on_each(tmp_path, monkeypatch):
    monkeypatch.setattr(Shapes, "group_of", lambda data, s: f"/p/{s[1] % 2}" if s[1] else None)
    experiment(tmp_path)
    content = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    content["test_sets"] = {
        "fog": {"corruption": "weather", "severity": 5},
        "larger": {
            "class_path": "Shapes",
            "init_args": {"image_size": [64, 64], "test_images": 3, "train_images": 1, "val_images": 1},
        },
    }
    content["trainer"]["max_epochs"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert here(tmp_path, "exp", "tiny.yaml") == 0
    run = only(tmp_path / "runs/tiny")
    own = json.loads((run / "test.json").read_text())
    fog, larger = (
        json.loads((run / f"test_sets/{name}/test.json").read_text()) for name in ("fog", "larger")
    )
    assert (own["protocol"]["images"], fog["protocol"]["images"], larger["protocol"]["images"]) == (5, 5, 3)
    assert fog["protocol"]["corruption"] == "weather 5" and fog["protocol"]["data"] == "Shapes"
    assert "corruption" not in own["protocol"] and larger["protocol"]["ignored_classes"] == []
    assert fog["protocol"]["loss"] != own["protocol"]["loss"]
    (section,) = compare([run / "test_sets/fog"]).sections
    assert "corruption weather 5" in section.title and section.groups[0].name == "tiny"
    assert len([*compare([tmp_path / "runs"]).sections]) == 1  # further tests are no runs of their own
    for tested in (run, run / "test_sets/fog"):
        groups = np.load(tested / "test_images.npz")["groups"]
        assert groups[1] == groups[3] != groups[2] == groups[4] and groups[0] not in groups[1:]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"x": {"corruption": "noise"}}, r"x must be \{corruption: noise, severity: 3\}, or a data set"),
        ({"../x": {"corruption": "noise", "severity": 1}}, "must be a plain name"),
        ({"x": {"class_path": "Shapes", "init_args": {"test_split": "none"}}}, "has no split 'none'"),
    ],
)
def test_what_is_no_test_set_is_refused_before_training(wanted, says):
    data = Shapes(batch_size=2, crop_size=(32, 32), image_size=(40, 48))
    with pytest.raises(UserError, match=says):
        make_test_sets(wanted, data)


class FewerThings(Shapes):
    """Knows no single objects of its last class."""

    things = (1, 2, 3, 4)


def test_other_data_must_know_objects_of_the_same_classes():
    data = Shapes(batch_size=2, crop_size=(32, 32), image_size=(40, 48), segments=True)
    wanted = {"x": {"class_path": f"{__name__}.FewerThings"}}
    with pytest.raises(
        UserError, match="x must know single objects .* star, cross; it does of circle, .* star$"
    ):
        make_test_sets(wanted, data)
    made = make_test_sets({"x": {"class_path": "Shapes"}}, data)["x"]
    assert made.segments and made.data.segments and not made.instances


def test_images_that_cannot_be_spoiled_are_refused_before_training(monkeypatch):
    data = Shapes(batch_size=2, crop_size=(32, 32), image_size=(40, 48))
    monkeypatch.setattr(
        Shapes, "read", lambda data, s: (np.zeros((40, 48, 4), np.uint16), np.zeros((40, 48)))
    )
    with pytest.raises(UserError, match="3 channels of 8 bits; test_0000 has 4 of uint16"):
        make_test_sets({"x": {"corruption": "noise", "severity": 3}}, data)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("{corruption: noise, severity: 9}", "a severity from 1 to 5; got 'noise' with 9"),
        ("{corruption: snow, severity: 1}", "one of noise, blur, weather, digital"),
        ("{corruption: noise}", "x must be {corruption: noise, severity: 3}, or a data set"),
    ],
)
def test_wrong_settings_are_told_when_they_are_read(wanted, says, tmp_path, capsys):
    experiment(tmp_path)
    for program in (("exp", "tiny.yaml", "--launcher=slurm", "--plan"), ("exp", "tiny.yaml")):
        assert here(tmp_path, *program, f"--test_sets={{x: {wanted}}}") == 2
        told = capsys.readouterr().err
        assert says in told and len(told.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


DETECTOR = {
    "class_path": "MaskRCNN",
    "init_args": {"backbone": "test_resnet", "weights": False, "channels": 16, "hidden": 16},
}


@pytest.mark.parametrize(
    ("task", "network", "score"),
    [
        ("InstanceSegmentation", DETECTOR, "mask_ap"),
        ("MaskClassification", NETWORK, "pq"),
        ("MultiLabelSegmentation", None, "iou"),
    ],
)
def test_corruptions_are_scored_in_every_task(task, network, score, tmp_path, monkeypatch):
    experiment(tmp_path)
    content = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    content["task"] = task
    if network:
        content["model"]["network"] = network
    content["data"]["init_args"] |= {
        "image_size": [32, 40],
        "train_images": 4,
        "val_images": 2,
        "test_images": 3,
    }
    content["trainer"] |= {"max_epochs": 1}
    init = {"image_size": [32, 40], "train_images": 1, "val_images": 1, "test_images": 2}
    content["test_sets"] = {
        "noise": {"corruption": "noise", "severity": 3},
        "other": {"class_path": "Shapes", "init_args": init},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert here(tmp_path, "exp", "tiny.yaml") == 0
    run = only(tmp_path / "runs/tiny")
    for name, images in (("noise", 3), ("other", 2)):
        table = json.loads((run / f"test_sets/{name}/test.json").read_text())
        assert table["protocol"]["images"] == images and score in table["scores"], [*table["scores"]]
