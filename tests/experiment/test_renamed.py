"""An experiment or a run of 0.1.0 ends in one error that names everything that has another name now."""

import pytest
import yaml

from lightning_seg import PUBLIC
from lightning_seg.cli.main import main
from lightning_seg.errors import UserError
from lightning_seg.experiment.renamed import CLASSES, MOVED, SETTINGS, refuse_old_names

OLD = """
seed_everything: 0
model:
  network: {class_path: lightning_seg.networks.unet.UNet2015, init_args: {channels: 4}}
  finetune: {class_path: lightning_seg.finetune.FrozenStages, init_args: {stages: 1, backbone_lr: 0.1}}
  loss:
    class_path: lightning_seg.losses.Sum
    init_args: {losses: [{class_path: lightning_seg.losses.Dice}, {class_path: lightning_seg.losses.CrossEntropy}]}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1e-3}}
data:
  class_path: lightning_seg.data.shapes.Shapes
  init_args: {batch_size: 2, crop_size: [32, 32], scale: [0.5, 2.0], fit: false}
lr_scaling: none
compile: false
gap: {share: 0.25}
saving: {every_n_minutes: 10}
"""
NEW = {
    "lightning_seg.networks.unet.UNet2015": "lightning_seg.networks.unet.ClassicUNet",
    "lightning_seg.finetune.FrozenStages": "lightning_seg.training.finetune.policies.FrozenStages",
    "model.finetune.init_args.backbone_lr": "backbone_lr_mult",
    "lightning_seg.losses.Sum": "lightning_seg.training.losses.CompoundLoss",
    "lightning_seg.losses.Dice": "lightning_seg.training.losses.DiceLoss",
    "lightning_seg.losses.CrossEntropy": "lightning_seg.training.losses.CrossEntropy",
    "lightning_seg.data.shapes.Shapes": "lightning_seg.data.datasets.shapes.Shapes",
    "data.init_args.scale": "data.init_args.scale_range",
    "data.init_args.fit": "data.init_args.large_scale_jitter",
    "lr_scaling": "model.lr_scaling",
    "compile": "model.compile",
    "gap.share": "overfitting.train_eval_fraction",
    "saving": "checkpointing",
}


def test_all_old_names_are_told_at_once_in_one_line(tmp_path, capsys):
    file = tmp_path / "old.yaml"
    file.write_text(OLD)
    assert main(["exp", str(file), f"--runs={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} uses names of version 0.1.0: ") and error.count("\n") == 1
    for old, new in NEW.items():
        assert f"{old} is now {new}" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["test", "validate", "resume", "calibrate"])
def test_an_old_run_says_the_same(tmp_path, capsys, command):
    run = tmp_path / "runs" / "old" / "20261121-075311-3f2a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(OLD)
    assert main([command, str(run)]) == 2
    error = capsys.readouterr().err
    assert f"{run / 'config.yaml'} uses names of version 0.1.0" in error
    assert "lr_scaling is now model.lr_scaling" in error


@pytest.mark.parametrize("option", ["--lr_scaling=linear", "--saving.every_n_minutes=1", "--model.loss=lightning_seg.losses.Dice"])  # fmt: skip
def test_old_names_on_the_command_line(option):
    with pytest.raises(UserError, match="the command line uses names of version 0.1.0: .* is now "):
        refuse_old_names({}, [option])


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_new_names_are_not_taken_for_old_ones(name):
    refuse_old_names({}, [f"--{SETTINGS[name]}=1", f"--model.{SETTINGS[name]}=1"])


def test_every_new_class_exists():
    for path in CLASSES.values():
        module, _, name = path.rpartition(".")
        assert PUBLIC[name] == module
    assert not {PUBLIC[name] for name in PUBLIC} & {f"lightning_seg.{module}" for module in MOVED}


def test_todays_experiments_have_no_old_names(request):
    experiments = request.config.rootpath / "experiments"
    for file in [*experiments.glob("*.yaml"), *experiments.glob("own/*.yaml")]:
        refuse_old_names({file: yaml.safe_load(file.read_text())}, [])
