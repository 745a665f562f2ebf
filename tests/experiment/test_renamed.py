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


@pytest.mark.parametrize("path", ["lightning_seg.schedules.OneCycle", "lightning_seg.training.schedules.OneCycle", "OneCycle"])  # fmt: skip
@pytest.mark.parametrize("place", ["model.lr_scheduler.init_args", "model.lr_scheduler"])
def test_arguments_of_the_schedules(path, place):
    options = [
        f"--model.lr_scheduler={path}",
        *(f"--{place}.{name}=0.3" for name in ("rising", "start", "end")),
    ]
    with pytest.raises(UserError) as error:
        refuse_old_names({}, options)
    for told in (
        "rising is now pct_start of OneCycle",
        "start is now div_factor of OneCycle (its value is 1 / start)",
        "end is now final_div_factor of OneCycle (its value is start / end)",
    ):
        assert f"{place}.{told}" in str(error.value)


@pytest.mark.parametrize("path", ["lightning_seg.schedules.Step", "lightning_seg.training.schedules.MultiStep", "MultiStep", "Step"])  # fmt: skip
def test_a_schedule_and_its_arguments_are_one_error(path, tmp_path):
    arguments = {"at": [0.5, 0.8], "factor": 0.1, "warmup": 0.1}
    settings = {"model": {"lr_scheduler": {"class_path": path, "init_args": arguments}}}
    with pytest.raises(UserError) as error:
        refuse_old_names({tmp_path: settings}, [])
    told = str(error.value)
    assert "model.lr_scheduler.init_args.at is now milestones of MultiStep" in told
    assert "model.lr_scheduler.init_args.factor is now gamma of MultiStep" in told and "warmup" not in told
    moved = "lightning_seg.schedules.Step is now lightning_seg.training.schedules.MultiStep"
    assert (moved in told) == (path in CLASSES)


def test_the_same_words_of_other_classes_are_no_old_names(tmp_path):
    cosine = {"class_path": "lightning_seg.training.schedules.Cosine", "init_args": {"end": 0.1}}
    one_cycle = {"class_path": "OneCycle", "init_args": {"pct_start": 0.3}}
    refuse_old_names({tmp_path: {"model": {"lr_scheduler": cosine}}}, ["--data.start=1", "--at=2", "--end=3"])
    refuse_old_names({}, ["--model.lr_scheduler=Plateau", "--model.lr_scheduler.factor=0.5"])
    refuse_old_names({}, ["--model.lr_scheduler=mine.schedules.OneCycle", "--model.lr_scheduler.end=0.5"])
    refuse_old_names(
        {tmp_path: {"model": {"lr_scheduler": one_cycle}}},
        ["--model.lr_scheduler=Cosine", "--model.lr_scheduler.end=0.1"],
    )


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
