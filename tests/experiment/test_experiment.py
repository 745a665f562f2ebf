"""Whole runs, small: from the command line to the run directory."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_seg.cli.main import main
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import Experiment
from lightning_seg.metrics.scores import scores
from tests.faults.programs import Program

EXPERIMENTS = sorted([*Path("experiments").glob("*.yaml"), *Path("experiments/own").glob("*.yaml")])

TINY = """
seed_everything: 0
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [32, 16, 16, 8, 8]}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3e-3}}
  lr_scheduler: {class_path: torch.optim.lr_scheduler.PolynomialLR, init_args: {power: 0.9}}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 16, val_images: 6, test_images: 5,
     num_workers: 0}
trainer: {max_epochs: 2, accelerator: cpu, devices: 1, log_every_n_steps: 1}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "tiny.yaml").write_text(TINY)
    return folder


def run_in(workplace, *arguments):
    """Call the command line in this process; return the exit code."""
    before = Path.cwd()
    os.chdir(workplace)
    try:
        return main(list(arguments))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def run(workplace):
    """A finished run of the tiny experiment."""
    assert run_in(workplace, "exp", "tiny.yaml") == 0
    (path,) = (workplace / "runs" / "tiny").iterdir()
    return path


def test_run_directory_is_complete(run):
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    wanted = {"config.yaml", "environment.json", "metrics.csv", "test.json", "test_images.npz"}
    wanted |= {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "pictures/val.png", "pictures/test.png"}
    assert wanted <= files
    assert any(re.fullmatch(r"wandb/offline-run-.*\.wandb", name) for name in files)


def test_config_is_resolved_and_runs_again(run, workplace):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["hflip"] == 0.5  # a default, stated
    assert run_in(workplace, "exp", str(run / "config.yaml"), "--trainer.fast_dev_run=1", "--name=again") == 0
    (trial,) = (workplace / "runs" / "again").iterdir()
    assert not (trial / "test.json").exists()  # scores of one batch, which no comparison should rank


def test_scores_are_those_of_the_image_counts(run):
    written = json.loads((run / "test.json").read_text())
    images = np.load(run / "test_images.npz")
    hit, predicted, truth = np.moveaxis(images["counts"].sum(0), -1, 0)
    present = hit + predicted + truth > 0
    iou = (hit / (predicted + truth - hit).clip(1))[present]
    assert written["scores"]["miou"] == pytest.approx(iou.mean())
    assert list(images["names"]) == [f"test_{i:04d}" for i in range(5)]
    assert images["counts"][:, :, 2].sum() == 5 * 48 * 40  # at the original size
    assert written["protocol"]["split"] == "test" and written["protocol"]["images"] == 5


def test_environment_says_what_the_run_depends_on(run):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["effective_batch_size"] == 4 and len(environment["data_fingerprint"]) == 16
    assert {"commit", "packages", "command", "python", "precision"} <= set(environment)
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]


def test_metrics_have_every_score_by_class_name(run):
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    validated = [row for row in rows if row["val/miou"]]
    assert len(validated) == 2
    assert {"val/iou/star", "val/dice", "val/loss", "train/loss", "train/images_per_second"} <= set(rows[0])
    assert [row["step"] for row in rows if row["train/loss"]] == [str(i) for i in range(8)]


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_hold_plain_types(run, name):
    checkpoint = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    assert any(key.startswith("network.backbone.") for key in checkpoint["state_dict"])


def test_testing_again_gives_the_same_scores(run, workplace):
    before, curves = json.loads((run / "test.json").read_text()), (run / "metrics.csv").read_bytes()
    assert run_in(workplace, "test", "runs/tiny") == 0
    assert json.loads((run / "test.json").read_text())["scores"] == before["scores"]
    assert (run / "metrics.csv").read_bytes() == curves


def test_validation_score_equals_the_checkpoint_monitor(run, workplace, capsys):
    curves = (run / "metrics.csv").read_bytes()
    assert run_in(workplace, "validate", "runs/tiny") == 0
    assert (run / "metrics.csv").read_bytes() == curves  # a second point at step 0 would be no curve
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    (state,) = (s for key, s in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    out = capsys.readouterr().out
    assert f"{float(state['best_model_score']):.3f}" in out


def test_a_finished_run_is_scored_on_all_images_however_few_its_training_looked_at(workplace, capsys):
    options = (
        "--name=few",
        "--trainer.max_steps=2",
        "--trainer.limit_val_batches=1",
        "--trainer.limit_test_batches=1",
    )
    assert run_in(workplace, "exp", "tiny.yaml", *options) == 0
    assert "no validation has chosen a checkpoint: the last weights are tested" in capsys.readouterr().out
    (few,) = (workplace / "runs/few").iterdir()
    counted = np.load(few / "test_images.npz")["counts"][..., 2].sum(1) > 0
    assert counted.sum() == 1
    assert json.loads((few / "test.json").read_text())["protocol"]["images"] == 1
    assert run_in(workplace, "test", "runs/few", f"--ckpt_path={few / 'checkpoints/last.ckpt'}") == 0
    assert (np.load(few / "test_images.npz")["counts"][..., 2].sum(1) > 0).all()
    assert json.loads((few / "test.json").read_text())["protocol"]["images"] == 5


def test_one_batch_stays_one_batch_whatever_was_imported_before(tmp_path):
    """Where a library writes ``float | int``, such as MONAI, Python has no other ``int | float``."""
    program = tmp_path / "program.py"
    program.write_text(
        "import monai.losses\n"
        "from lightning_seg.experiment.experiment import TaskAndData\n"
        "args = ['-c', 'tiny.yaml', '--trainer.limit_test_batches=1', '--trainer.limit_val_batches=1.0']\n"
        "built = TaskAndData(args)\n"
        "for trainer in (built.config.trainer, built.config_init.trainer):\n"
        "    print([trainer.limit_train_batches, trainer.limit_val_batches, trainer.limit_test_batches])\n"
    )
    settings = yaml.safe_load(TINY)
    settings["trainer"]["limit_train_batches"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["[1, 1.0, 1]"] * 2, done.stderr


def write_images(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    Image.fromarray(rng.integers(0, 255, (37, 50, 3), np.uint8)).save(folder / "color.jpg")
    Image.fromarray(rng.integers(0, 65535, (40, 30), np.uint16)).save(folder / "deep.png")
    Image.fromarray(rng.integers(0, 255, (20, 64), np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 255, (64, 65, 4), np.uint8)).save(folder / "alpha.png")
    turned = Image.fromarray(rng.integers(0, 255, (30, 60, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    turned.save(folder / "turned.jpg", exif=exif)


def test_predict_any_kind_of_image(run, workplace):
    write_images(workplace / "photos")
    assert run_in(workplace, "predict", "runs/tiny", "photos", "--output", "out") == 1  # 16 bits are refused
    deep = ("photos/deep.png", "--output", "deep", "--data.init_args.value_range=[0,65535]")
    assert run_in(workplace, "predict", "runs/tiny", *deep) == 0
    for kind in ("masks", "overlays"):
        (workplace / "deep" / kind / "deep.png").rename(workplace / "out" / kind / "deep.png")
    sizes = {p.stem: Image.open(p).size for p in (workplace / "out/masks").iterdir()}
    assert sizes == {
        "color": (50, 37),
        "deep": (30, 40),
        "grey": (64, 20),
        "alpha": (65, 64),
        "turned": (30, 60),
    }
    for name, size in sizes.items():
        mask = Image.open(workplace / f"out/masks/{name}.png")
        assert mask.mode == "P" and np.asarray(mask).max() <= 5
        assert mask.getpalette()[:3] == [38, 50, 56]
        assert Image.open(workplace / f"out/overlays/{name}.png").size == size


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.init_args.bach_size=3"], "Did you mean batch_size?"),
        (["--trainer.max_epocs=3"], "Did you mean trainer.max_epochs?"),
        (["--trainer.max_epochs=many"], "Expected a int"),
        (["--trainer.max_epoch=3"], "Did you mean trainer.max_epochs?"),
        (["--wandb.mode=off"], "one of 'auto', 'online'"),
        (["--model.network.init_args.backbone=resnet5"], "resnet50"),
        (["--model.network=lightning_seg.networks.unet.UNets"], "UNets"),
        (["--data=lightning_seg.data.datasets.camvid.CamVid", "--data.init_args.root=nowhere"], "nowhere"),
        (["--data.init_args.batch_size=17"], "batch_size"),
    ],
)
def test_a_wrong_setting_is_one_short_error(workplace, capsys, arguments, expected):
    before = set((workplace / "runs").rglob("*")) if (workplace / "runs").exists() else set()
    assert run_in(workplace, "exp", "tiny.yaml", "--name=wrong", *arguments) == 2
    err = capsys.readouterr().err
    message = err[err.index("error: ") :]
    assert expected in message and "Traceback" not in err
    assert len(message.splitlines()) <= 5
    if "nowhere" not in expected and expected != "batch_size":
        assert set((workplace / "runs").rglob("*")) == before or not (workplace / "runs/wrong").exists()


def test_missing_run(workplace, capsys):
    assert run_in(workplace, "test", "runs/nothing") == 2
    assert "no run directory" in capsys.readouterr().err


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_builds(path, tmp_path, monkeypatch):
    """The YAML is accepted and its objects are made; data and weights are not needed for that."""
    # Random numbers take most of the time: torch's, and timm's own trunc_normal_.
    for owner, name in (
        (torch.nn.init, "kaiming_normal_"),
        (torch.nn.init, "kaiming_uniform_"),
        (torch.nn.init, "normal_"),
        (torch.nn.init, "trunc_normal_"),
        (torch.Tensor, "uniform_"),
    ):
        monkeypatch.setattr(owner, name, lambda tensor, *args, **kwargs: tensor.data.zero_())
    monkeypatch.setattr(torch.Tensor, "erfinv_", lambda tensor: tensor)  # of zeros
    built = Experiment(
        ["-c", str(path), f"--runs={tmp_path}", "--trainer.accelerator=cpu", "--trainer.devices=1"],
        tracked=False,
    )
    names = built.datamodule.class_names
    assert built.model.class_names == names and built.config.name == path.stem
    built.model.eval()
    if built.model.instances:
        built.model.network.min_size = None  # takes time
    with torch.inference_mode():
        out = built.model(torch.zeros(1, built.datamodule.num_channels, 64, 64, dtype=torch.uint8))
    if built.model.instances:
        assert built.datamodule.instances and out[0]["masks"].shape[1:] == (64, 64)
    else:
        assert out.shape == (1, len(names) - built.model.overlapping, 64, 64)


def test_killed_and_resumed_is_the_same_run(workplace):
    """Killed in the second of four epochs, then continued."""
    options = ["--name=killed", "--trainer.max_epochs=4", "--data.init_args.train_images=64"]
    program = Program(workplace, "exp", "tiny.yaml", *options, WANDB_MODE="offline")
    assert program.until(lambda: list(workplace.glob("runs/killed/*/checkpoints/last.ckpt")), 120)
    program.send(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    (run,) = (workplace / "runs/killed").iterdir()
    step = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < 64
    assert run_in(workplace, "resume", str(run)) == 0
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 64 and last["epoch"] == 3
    assert last["lr_schedulers"][0]["total_iters"] == 64  # the same schedule, at its end
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    steps = [int(row["step"]) for row in rows if row["train/loss"]]
    assert steps == sorted(set(steps)) and steps[-1] == 63  # nothing logged twice, nothing lost
    assert len([row for row in rows if row["val/miou"]]) == 4
    ids = {p.name.rsplit("-", 3)[-3:][0] + p.name for p in (run / "wandb").glob("offline-run-*")}
    assert len(ids) == 2 and all(run.name in i for i in ids)  # two segments of one W&B run
    assert scores  # imported for the test above


def test_voc_folder_runs_deeplab_voc_for_two_steps(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    root = tmp_path / "VOCdevkit/VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(8)]
    for split, chosen in (("train", names[:4]), ("val", names[4:]), ("trainval", names)):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(chosen) + "\n")
    for name in names:
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        mask = np.zeros((60, 80), np.uint8)
        mask[20:40, 20:50] = 15
        mask[18:20, 18:52] = 255  # the border
        picture = Image.fromarray(mask)
        picture.putpalette([i % 256 for i in range(768)])
        picture.save(root / f"SegmentationClass/{name}.png")
    arguments = [f"--data.init_args.root={tmp_path}", "--model.network.init_args.weights=false"]
    arguments.append("--model.network.init_args.backbone=test_resnet")  # takes less time than resnet50
    arguments += [
        "--data.init_args.batch_size=2",
        "--data.init_args.crop_size=[64,64]",
        "--trainer.max_epochs=1",
    ]
    arguments += [
        "--trainer.check_val_every_n_epoch=1",
        f"--runs={tmp_path / 'runs'}",
        "--trainer.accelerator=cpu",
    ]
    assert main(["exp", "deeplab_voc", *arguments, "--trainer.precision=32", "--pictures.count=1"]) == 0
    (run,) = (tmp_path / "runs/deeplab_voc").iterdir()
    counts = np.load(run / "test_images.npz")["counts"]
    assert counts[:, :, 2].sum() == 4 * (60 * 80 - 2 * 34)  # the border is not counted
    assert json.loads((run / "test.json").read_text())["scores"]["iou"]["cow"] in (None, 0.0)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("lightning_seg.tasks.semantic.Semantics", "lightning_seg.tasks.semantic has no 'Semantics'"),
        ("torch.nn.Linear", "expected .*torch.nn.Linear"),
        ("instance", "there is no class 'instance'"),
    ],
)
def test_a_task_that_is_none_is_refused_by_name(task, says):
    with pytest.raises(UserError, match=f"task: {says}"):
        Experiment(["-c", "experiments/quickstart.yaml", f"--task={task}"])
