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
