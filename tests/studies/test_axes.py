"""An ablation over several experiments is one cell for each."""

import re
from pathlib import Path

import yaml

from lightning_seg.cli.main import main
from lightning_seg.studies import launch
from lightning_seg.studies.axes import cells
from lightning_seg.studies.plan import load
from tests.studies.made_study import LR, Learners, no_parser


def test_several_experiments_without_shares_are_cells_by_their_names():
    found = cells(load("dinov2_camvid"))
    names = ["dinov2_camvid/linear_dinov2_camvid", "dinov2_camvid/dpt_dinov2_camvid"]
    assert [cell.name for cell in found] == names
    assert all(list(cell.variants) == ["kept", "frozen", "lora", "full"] for cell in found)


def test_without_variants_the_experiment_is_run_as_it_is_with_each_share(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    no_parser(monkeypatch)
    monkeypatch.setattr(launch, "run_here", Learners({"base": -3}, {"base": 0.3}))
    Path("base.yaml").touch()
    study = {"experiment": "base.yaml", "train_share": [0.1, 1], "seeds": 2, "settings": {LR: 1e-3}}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["ablation", "study.yaml"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"variant +share0.1 mIoU % +share1 mIoU %\nbase", out) and "ormalized" not in out
    assert len(list(Path("runs/study").glob("share*/base/*/test.json"))) == 4


SHARE = """
experiment: tiny.yaml
variants: {large: {}, small: {data.init_args.batch_size: 1}}
train_share: [1, 0.25]
"""


def test_the_plan_refuses_a_share_that_does_not_fill_one_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = {"class_path": "Shapes", "init_args": {"train_images": 8, "batch_size": 4, "crop_size": [32, 32]}}
    network = {"class_path": "ClassicUNet", "init_args": {"channels": 4}}
    model = {"network": network, "optimizer": {"class_path": "AdamW"}}
    Path("tiny.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    Path("study.yaml").write_text(SHARE)
    assert main(["ablation", "study.yaml", "--plan"]) == 2
    assert capsys.readouterr().err == (
        "error: variant large: The split 'train' has 2 images with train_share=0.25, but one training step needs"
        " batch_size 4 x 1 devices. Lower data.init_args.batch_size, or take a larger share.\n"
    )
    assert main(["ablation", "study.yaml", "--plan", "--variants=small"]) == 0
