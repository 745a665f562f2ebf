"""`lightning-seg new`: what it writes runs as it is."""

import ast
import json
import sys
from pathlib import Path

import pytest
import yaml

from lightning_seg.cli.main import main
from lightning_seg.experiment.experiment import ExperimentSettings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("LIGHTNING_SEG_RUN", raising=False)
    yield tmp_path
    for name in ("mine", "other"):
        sys.modules.pop(name, None)


def test_a_new_experiment_runs_with_all_of_its_own_parts(folder, capsys):
    assert main(["new", "mine"]) == 0
    assert "lightning-seg exp mine" in capsys.readouterr().out
    assert "(or make exp NAME=mine)" in Path("experiments/mine.yaml").read_text()
    arguments = [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--model.network.init_args.backbone=test_resnet",
    ]
    assert main(["exp", "mine", *arguments]) == 0
    (run,) = (folder / "runs/mine").iterdir()
    kept = yaml.safe_load((run / "config.yaml").read_text())
    paths = [kept["model"]["network"], kept["model"]["loss"], *kept["model"]["metrics"], kept["data"]]
    assert [part["class_path"] for part in paths] == [f"mine.{n}" for n in ("MyNetwork", "MyLoss", "MyMetric", "MyData")]  # fmt: skip
    scores = json.loads((run / "test.json").read_text())["scores"]
    assert (
        0 <= scores["images_right"] <= 1 and scores["pixel_accuracy"] > 0.6
    )  # it learns in four short epochs
    said = capsys.readouterr().out
    assert "MyLoss is given class numbers (B, H, W), ignored pixels as 255" in said
    assert main(["test", str(run)]) == 0


def test_it_starts_from_another_experiment(folder):
    assert main(["new", "mine"]) == 0
    assert main(["new", "other", "--from", "mine"]) == 0
    text = Path("experiments/other.yaml").read_text()
    assert text.startswith("# other: began as a copy of experiments/mine.yaml")
    assert yaml.safe_load(text) == yaml.safe_load(Path("experiments/mine.yaml").read_text())
    replaced = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    settings = [f"--{key}={value}" for key, _, value in (line.partition(": ") for line in replaced)]
    assert len(settings) == 4
    config = ExperimentSettings(["-c", "experiments/other.yaml", *settings]).config
    assert config.model.network.class_path == "other.MyNetwork" and config.data.class_path == "other.MyData"


def test_the_module_explains_itself(folder):
    main(["new", "mine"])
    tree = ast.parse(Path("experiments/mine.py").read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(classes) == 4 and all(ast.get_docstring(node) for node in [tree, *classes])
    assert "NAME" not in Path("experiments/mine.py").read_text() + Path("experiments/mine.yaml").read_text().replace("NAME=mine", "")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["my-net"], "cannot name a Python module"),
        (["class"], "cannot name a Python module"),
        (["../evil"], "cannot name a Python module"),
        (["torch"], "there is a module 'torch' already"),
        (["mine", "--from", "nothing"], "no experiment 'nothing'"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_written(folder, arguments, says, capsys):
    assert main(["new", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (folder / "experiments").exists()


def test_nothing_is_overwritten(folder, capsys):
    main(["new", "mine"])
    Path("experiments/mine.yaml").write_text("precious")
    assert main(["new", "mine"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("experiments/mine.yaml").read_text() == "precious"
