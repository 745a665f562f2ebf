"""What would train nothing, cannot work, or leaves the folder of all runs is refused before anything is written."""

from pathlib import Path

import pytest
import torch
import yaml

from lightning_seg.cli.main import main
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import ExperimentSettings
from lightning_seg.experiment.limits import check_seed, refuse_useless, refuse_useless_rate
from lightning_seg.runs.directory import check_name, new_run
from tests.faults.programs import experiment, here
from tests.tasks.test_mask_classification import NETWORK


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--trainer.max_epochs=0", "trainer.max_epochs must be at least 1"),
        ("--trainer.max_steps=0", "trainer.max_steps must be at least 1"),
        ("--trainer.limit_train_batches=0", "trainer.limit_train_batches must be above 0"),
        ("--trainer.limit_train_batches=0.0", "trainer.limit_train_batches must be above 0"),
        ("--trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch must be at least 1"),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be at least 1"),
        ("--trainer.devices=99999", "trainer.devices=99999: "),
        ("--trainer.devices=0", "trainer.devices must be at least 1"),
        ("--trainer.log_every_n_steps=0", "trainer.log_every_n_steps must be at least 1"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be above 0"),
        ("--trainer.max_time=00:00:00:00", "trainer.max_time must be above 0"),
        ("--trainer.max_time={seconds: 0}", "trainer.max_time must be above 0"),
        ("--model.optimizer.init_args.lr=.inf", "lr must be a finite number"),
        ("--model.optimizer.init_args.lr=1e38", "lr is 1e+38, by which weights of 32 bits overflow"),
        ("--runs=", "runs is empty. Name the folder of all runs"),
        ("--model.optimizer.init_args.lr=0", "a lr of 0 trains nothing"),
        (
            "--model.lr_scheduler={class_path: CosineAnnealingLR, init_args: {T_max: 6}}",
            "is filled in. Leave it out",
        ),
        (
            "--model.lr_scheduler={class_path: StepLR, init_args: {step_size: 6}}",
            "filled in. Choose a class where",
        ),
        ("--seed_everything=-1", "seed_everything must be from 0 to 4294967295"),
        ("--seed_everything=4294967296", "seed_everything must be from 0 to 4294967295"),
        ("--name=../../evil", "a part of it is '..'"),
        ("--name=", "a part of it is ''"),
    ],
)
def test_one_line_and_nothing_written(option, expected, tmp_path, capsys):
    runs = tmp_path / "a" / "b" / "runs"
    assert main(["exp", "quickstart", f"--runs={runs}", "--wandb.mode=disabled", option]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.y*ml")) and not runs.exists() and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("split", ["val", "test"])
def test_training_for_scores_of_no_images_is_refused_and_leaves_no_run(tmp_path, capsys, split):
    options = [f"--runs={tmp_path}", "--wandb.mode=disabled", f"--trainer.limit_{split}_batches=0"]
    assert main(["exp", "quickstart", *options]) == 2
    assert f"--trainer.limit_{split}_batches=1.0 takes all images" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rates_that_adam_can_step_with_are_taken_and_others_are_refused():
    for rate in (1e-8, 1.0, 1e30):
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.ones(1)
        optimizer = torch.optim.AdamW([weight], lr=rate, betas=(0.9999, 0.999))
        refuse_useless_rate(optimizer)
        optimizer.step()
    for rate in (1e38, 1e39):
        with pytest.raises(UserError, match="32 bits overflow"):
            refuse_useless_rate(torch.optim.AdamW([torch.zeros(1)], lr=rate))


def test_a_word_instead_of_a_rate_is_not_taken_for_a_class(tmp_path, capsys):
    assert main(["exp", "quickstart", f"--runs={tmp_path}", "--model.optimizer.init_args.lr=fast"]) == 2
    error = capsys.readouterr().err
    assert "Expected a float" in error and "there is no class" not in error


def test_a_fraction_of_less_than_a_batch_is_refused(tmp_path, capsys):
    options = [f"--runs={tmp_path}", "--wandb.mode=disabled", "--trainer.limit_train_batches=0.0001"]
    assert main(["exp", "quickstart", *options, "--data.init_args.num_workers=0"]) == 2
    assert "trainer.limit_train_batches=0.0001 is less than one of" in capsys.readouterr().err


def test_a_rate_that_is_no_number_is_refused_where_torch_takes_it():
    with pytest.raises(UserError, match="lr must be a finite number"):
        refuse_useless_rate(torch.optim.SGD([torch.zeros(1)], lr=float("nan")))


@pytest.mark.parametrize("time", ["00:00:00:01", "{hours: 2}"])
def test_a_time_to_train_is_taken(time):
    settings = ExperimentSettings(["-c", "experiments/quickstart.yaml", f"--trainer.max_time={time}"])
    refuse_useless(settings.config)


@pytest.mark.parametrize(
    ("task", "changes", "what"),
    [
        ("SemanticSegmentation", {"finetune": {"class_path": "ProbeThenFinetune"}}, "model.finetune: ProbeThenFinetune"),
        ("MaskClassification", {"network": NETWORK}, "EoMT: how often attention is masked"),
        ("SemanticSegmentation", {}, "SWA begins after 0.75 of the training"),
    ],
)  # fmt: skip
def test_what_goes_by_the_share_of_a_training_needs_its_end(task, changes, what, tmp_path, capsys):
    content = yaml.safe_load((experiment(tmp_path) / "tiny.yaml").read_text())
    content["task"] = task
    content["model"] |= {"lr_scheduler": None, **changes}
    content["trainer"] |= {"max_epochs": -1, "max_time": "00:00:05:00", "callbacks": [{"class_path": "SWA"}]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert here(tmp_path, "exp", "tiny.yaml") == 2
    error = capsys.readouterr().err
    assert f"error: {what}" in error and "of the training" in error and "this one has no end" in error
    assert "set trainer.max_epochs or trainer.max_steps" in error


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, True, False])
def test_seeds_that_numpy_takes_are_taken(seed):
    check_seed(seed)


def test_settings_of_an_experiment_without_a_seed_are_taken():
    assert ExperimentSettings(["-c", "experiments/quickstart.yaml", "--seed_everything=false"]).config


@pytest.mark.parametrize(
    "name", ["unet_camvid", "ablation/variant", "größe 2", "v1.2", "a,b=c", "..x", "x" * 200]
)
def test_names_of_folders_are_taken(name, tmp_path):
    run = new_run(tmp_path / "runs", name)
    assert run.parent == tmp_path / "runs" / name and run.is_dir()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../evil", "a/../../evil", "/tmp/evil", "a//b", "a/", "two\nlines", "bell\a", "\x00", "a\u202eb",
     "a:b", 'say "x"', "a\\b", "a*", "what?", "<a>", "a|b", "CON", "nul.txt", "lpt1", "a.", "a ", " a", "x" * 201, "ä" * 101],
)  # fmt: skip
def test_names_that_leave_the_folder_or_exist_on_some_systems_only_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="name: an experiment cannot be named"):
        new_run(tmp_path / "runs", name)
    assert not list(tmp_path.iterdir()) and not Path("/tmp/evil").exists()
    with pytest.raises(UserError):
        check_name(name)
