"""The notebook in docs/ runs as it is, and Python does what the command line does."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_seg import Adapter, CrossEntropy, Experiment, UNet, UserError
from lightning_seg.cli.main import main
from lightning_seg.experiment.overrides import options_of, plain

ROOT = Path(__file__).parents[2]
MEASURED = {"train/images_per_second", "train/data_wait", "train/peak_memory_gb"}  # never the same twice


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """What the names in docs/python.ipynb stand for once all its cells have run."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    (folder / "docs").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "docs")
        for number, cell in enumerate(json.loads((ROOT / "docs/python.ipynb").read_text())["cells"]):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        yield names
    torch.set_num_threads(threads)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]


def test_a_run_from_python_is_that_of_the_command_line(notebook):
    first = notebook["runs"][0]
    options = options_of(
        notebook["small"] | {"model.loss": CrossEntropy, "data.init_args.test_images": 12, "name": "typed"}
    )
    assert main(["exp", "../experiments/quickstart.yaml", *options]) == 0
    (typed,) = Path("../runs/typed").iterdir()
    assert rows(typed) == rows(first) and len(rows(typed)) > 4
    assert (typed / "test.json").read_text() == (first / "test.json").read_text()
    for name in ("config.yaml", "environment.json", "checkpoints/best.ckpt", "pictures/test.png"):
        assert (first / name).is_file() and (typed / name).is_file()
    assert (typed / "config.yaml").read_text().replace("typed", "python/CrossEntropy") == (
        first / "config.yaml"
    ).read_text()


def test_settings_without_a_file_make_the_same_experiment(notebook, tmp_path):
    own = Experiment.from_settings(
        "own/one",
        model={
            "network": partial(UNet, backbone="test_resnet", weights=False),
            "optimizer": {"class_path": torch.optim.AdamW, "init_args": {"lr": 1e-3}},
        },
        data={
            "class_path": "Shapes",
            "init_args": {"crop_size": (32, 32), "batch_size": 4, "num_workers": 0},
        },
        trainer={"max_epochs": 1},
        tracking=[],
        runs=tmp_path,
    )
    assert own.config.name == "own/one" and own.run_directory.parent == tmp_path / "own/one"
    assert own.datamodule.crop_size == (32, 32) and own.trainer.max_epochs == 1
    assert own.config.model.optimizer.class_path == "torch.optim.AdamW"


class OfANotebook(nn.Conv2d):
    """A network that is defined where it is used."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(3, num_classes, 1)


def test_a_network_of_the_scripts_own_needs_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("__main__.OfANotebook", OfANotebook, raising=False)
    monkeypatch.setattr(OfANotebook, "__module__", "__main__")
    own = Experiment.from_settings(
        "own",
        model={"network": OfANotebook, "optimizer": {"class_path": "AdamW", "init_args": {"lr": 1e-3}}},
        data={
            "class_path": "Shapes",
            "init_args": {"batch_size": 4, "crop_size": [32, 32], "num_workers": 0},
        },
        tracking=[],
        runs=tmp_path,
    )
    assert isinstance(own.model.network, Adapter)
    assert "OfANotebook is defined in this script or notebook: only here" in capsys.readouterr().out


def test_values_become_the_words_of_a_command_line():
    assert options_of(
        {
            "trainer": {"max_epochs": 3, "callbacks": None},
            "data": {"init_args": {"labels": {0: "other", 7: "road"}, "root": Path("data"), "cache": True}},
            "model": {"loss": nn.CrossEntropyLoss, "finetune": {"class_path": "Frozen"}},
            "name": "one",
        }
    ) == [
        "--trainer.max_epochs=3",
        "--trainer.callbacks=null",
        "--data.init_args.labels={0: other, 7: road}",
        "--data.init_args.root=data",
        "--data.init_args.cache=true",
        "--model.loss=torch.nn.CrossEntropyLoss",
        "--model.finetune={class_path: Frozen}",
        "--name=one",
    ]


def test_an_object_is_refused_with_what_to_give_instead():
    with pytest.raises(UserError, match=r"model\.loss: an object of CrossEntropyLoss .* functools\.partial"):
        plain({"model": {"loss": nn.CrossEntropyLoss()}})
    with pytest.raises(UserError, match="Did you mean trainer.max_epochs"):
        Experiment.from_yaml(ROOT / "experiments/quickstart.yaml", trainer={"max_epoch": 1})
