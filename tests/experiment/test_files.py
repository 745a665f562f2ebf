"""Experiments are found by name or by path."""

from pathlib import Path

import pytest

from lightning_seg.errors import UserError
from lightning_seg.experiment import files
from lightning_seg.experiment.experiment import ExperimentSettings
from lightning_seg.experiment.files import SHIPPED, experiment_file, that_differ


def test_no_experiments_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "SHIPPED", None)
    with pytest.raises(UserError, match="begin here: lightning-seg new NAME"):
        experiment_file("quickstart")


def test_a_name_is_an_experiment_here_before_one_of_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiment_file("own/masks") == SHIPPED / "own/masks.yaml"
    own = Path("experiments/own/masks.yaml")
    own.parent.mkdir(parents=True)
    own.touch()
    (own.parents[1] / "leaves.yaml").touch()
    assert experiment_file("own/masks") == own
    with pytest.raises(
        UserError, match=r"There are: leaves\. With the project come: .*own/yolo.*unet_camvid"
    ):
        experiment_file("nothing")


def test_experiment_may_be_a_path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.touch()
    assert experiment_file(str(file)) == file


BASE = """
model:
  network: {class_path: ClassicUNet, init_args: {channels: 4}}
  optimizer: {class_path: AdamW}
data:
  class_path: Shapes
  init_args: {batch_size: 2, crop_size: [32, 32]}
"""


def refusal(tmp_path, text, *arguments):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        ExperimentSettings(["-c", str(file), *arguments])
    return str(error.value).replace(str(file), "FILE")


@pytest.mark.parametrize(
    "setting", ["--data.init_args.labels={1: 1, 1: 2}", "--data={a: 1, b: {c: 1, c: 2}}"]
)
def test_a_name_that_has_two_values_on_the_command_line_is_refused(tmp_path, setting):
    assert "stands there a second time" in refusal(tmp_path, BASE, setting)


@pytest.mark.parametrize("key", ["1.5", "true", "null"])
def test_keys_that_would_become_other_numbers_are_refused(tmp_path, key):
    text = BASE.replace("Shapes", "Folder").replace("batch_size", f"labels: {{{key}: 1}}, batch_size")
    assert f"'{key}' cannot name a setting" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("model:", "modle:", "FILE: there is no setting 'modle'. Did you mean model?"),
        ("data:", "foo: 1\ndata:", "FILE: there is no setting 'foo'. There are: "),
        ("network:", "netwrk:", "FILE: Group 'model' does not accept option 'netwrk.init_args.channels'\nDid you mean network?"),
        ("batch_size", "batchsize", "FILE: Parser key \"data\":\n  Option 'batchsize' is not accepted\nDid you mean batch_size?"),
        ("init_args: {batch", "intargs: {batch", "FILE: data: beside class_path there are 'intargs'"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_named_with_its_file_and_the_right_one(tmp_path, old, new, says):
    assert says in refusal(tmp_path, BASE.replace(old, new))


def test_only_settings_of_the_class_at_hand_are_suggested(tmp_path):
    told = refusal(tmp_path, BASE.replace("batch_size", "mask_sufix: x, batch_size"))
    assert "'mask_sufix' is not accepted" in told and "mask_suffix" not in told
    told = refusal(tmp_path, BASE.replace("batch_size", "shares: {train: 1}, batch_size"))
    assert "'shares.train' is not accepted" in told and "split_ratios" not in told
    of_folder = BASE.replace("Shapes", "Folder").replace("batch_size", "shares: {train: 1}, batch_size")
    assert "data.init_args.shares is now data.init_args.split_ratios" in refusal(tmp_path, of_folder)


def test_arguments_that_repeat_the_file_make_no_other_experiment():
    files = {
        Path("a.yaml"): {"model": {"lr": 1e-3, "loss": "Dice"}, "trainer": {"max_epochs": 3}},
        Path("b.yaml"): {"model": {"lr": 1e-2}},
    }
    same = ["--model.lr=0.01", "--model.loss=Dice", "--trainer={max_epochs: 3}"]
    others = [
        "--model.lr=1e-3",
        "--model.loss.weight=1",
        "--trainer.devices=2",
        "--model.loss={",
        "--data",
        "x",
    ]
    assert that_differ(["-c", "a.yaml", "-c", "b.yaml", *same, *others], files) == [
        *("-c", "a.yaml", "-c", "b.yaml"),
        *others,
    ]
