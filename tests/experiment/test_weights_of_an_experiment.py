"""Weights that an experiment names are looked at before anything is written, and the error names the setting."""

import pytest
import torch
import yaml

from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import Experiment


def refusal(tmp_path, **network):
    settings = {
        "model": {
            "network": {"class_path": "UNet", "init_args": {"backbone": "test_resnet"} | network},
            "optimizer": {"class_path": "AdamW"},
        },
        "data": {
            "class_path": "Shapes",
            "init_args": {"batch_size": 2, "crop_size": [32, 32], "num_workers": 0},
        },
        "runs": str(tmp_path / "runs"),
        "wandb": {"mode": "disabled"},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError) as error:
        Experiment(["-c", str(file)])
    assert not (tmp_path / "runs").exists()
    return str(error.value).replace(str(tmp_path), "HERE")


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("", "init_args.weights (or detector_weights) is empty. Name a file"),
        ("{here}/none.pth", "at HERE/none.pth, found none. Correct the path in --model.network.init_args.weights="),
        ("{here}/text.pth", "model.network.init_args.weights: expected tensors saved by torch or safetensors in HERE"),
        ("{here}/other.pth", "model.network.init_args.weights: the weights in HERE/other.pth are not those of test_r"),
        ("{here}/folder", "HERE/folder, which is a folder. Name a file in it: --model.network.init_args.weights="),
        ("{here}/run", "HERE/run, which is a folder. For the weights of a run: --model.network.init_args.weights=run:"),
        ("run:{here}/none", "model.network.init_args.weights: HERE/none is no run directory"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_loaded_are_refused_before_anything_is_written(tmp_path, weights, says):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "other.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert says in refusal(tmp_path, weights=weights.format(here=tmp_path))


def test_weights_that_were_never_published_are_refused_without_asking_the_hub(tmp_path):
    assert "has no pretrained weights for cs3darknet_s" in refusal(tmp_path, backbone="cs3darknet_s")
    backbone = {"class_path": "TimmBackbone", "init_args": {"name": "cs3darknet_s"}}
    said = refusal(tmp_path, backbone=backbone)
    assert "Use --model.network.init_args.backbone.init_args.weights=PATH for a file of your own" in said


def test_the_setting_is_the_backbones_own_where_it_is_a_class(tmp_path):
    backbone = {"class_path": "TimmBackbone", "init_args": {"name": "test_resnet", "weights": "none.pth"}}
    said = refusal(tmp_path, backbone=backbone)
    assert "Correct the path in --model.network.init_args.backbone.init_args.weights=PATH" in said
