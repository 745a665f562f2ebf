"""Names and settings of runs in W&B: readable, the same for all seeds, different for different settings."""

from pathlib import Path

import pytest

from lightning_seg.runs.records import Record
from lightning_seg.tracking.naming import VARIANT, run_name, short_settings, variant, wandb_key

BASE = ["-c", "experiments/unet_camvid.yaml"]


def record(seed=1, lr=1e-4, name="unet_camvid", batch=8, **settings):
    config = {
        "name": name,
        "seed_everything": seed,
        "model": {
            "network": {
                "class_path": "lightning_seg.networks.unet.UNet",
                "init_args": {"backbone": "resnet34", "weights": True, "norm": "batch"},
            },
            "finetune": {"class_path": "lightning_seg.training.finetune.policies.Frozen", "init_args": {}},
            "loss": {"class_path": "lightning_seg.training.losses.DiceLoss", "init_args": {}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": lr}},
        },
        "data": {
            "class_path": "lightning_seg.data.datasets.camvid.CamVid",
            "init_args": {"root": "/a", "batch_size": batch},
        },
        "trainer": {"max_epochs": 36},
    }
    environment = {"parameters": 24_000_000, "effective_batch_size": batch, "data_fingerprint": "f"}
    return Record(Path("runs") / name / "20260101-000000-abcd", config | settings, environment, {})


def test_settings_are_told_under_the_names_that_people_use():
    told = short_settings(record(), BASE)
    assert told.pop(VARIANT).startswith("unet_camvid · #")
    assert told == {
        "experiment": "unet_camvid",
        "network": "UNet",
        "backbone": "resnet34",
        "weights": True,
        "finetune": "Frozen",
        "loss": "DiceLoss",
        "lr": 1e-4,
        "batch": 8,
        "epochs": 36,
        "params": 24_000_000,
        "data": "CamVid",
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "unet_camvid · seed 1"),
        (["--model.optimizer.init_args.lr=1e-4"], "unet_camvid · lr 1e-4 · seed 1"),
        (["--model.optimizer.init_args.lr", "1e-4"], "unet_camvid · lr 1e-4 · seed 1"),
        (["--model.loss=DiceLoss", "--trainer.max_epochs=36"], "unet_camvid · Dice · epochs 36 · seed 1"),
        (["--seed_everything=1", "--wandb.tags+=x", "--data.init_args.root=/b"], "unet_camvid · seed 1"),
        (
            ["--model.network={class_path: UNet, init_args: {backbone: resnet34}}"],
            "unet_camvid · UNet · resnet34 · seed 1",
        ),
        (["--model.network.init_args.backbone=resnet34"], "unet_camvid · resnet34 · seed 1"),
        (  # what matters most comes first, the rest is counted
            [
                *(
                    f"--{key}=1"
                    for key in ("trainer.max_epochs", "model.network.norm", "data.init_args.batch_size")
                ),
                "--model.optimizer.init_args.lr=1e-4",
                "--model.loss=DiceLoss",
                "--model.network.init_args.backbone=resnet34",
            ],
            "unet_camvid · resnet34 · Dice · lr 1e-4 · epochs 36 · +2 · seed 1",
        ),
    ],
)
def test_a_name_says_what_differs_from_the_experiment(overrides, name):
    assert run_name(record(), [*BASE, *overrides]) == name


def test_a_variant_of_an_ablation_is_called_by_its_own_name():
    made = record(name="freeze_camvid/frozen")
    assert run_name(made, ["--model.finetune=Frozen"]) == "freeze_camvid/frozen · seed 1"


def test_a_variant_is_all_that_differs_by_the_seed_alone():
    first = variant(record(), BASE)
    assert variant(record(seed=2, wandb={"tags": ["x"]}, runs="elsewhere"), BASE) == first
    others = [record(lr=1e-3), record(batch=16), record(name="other"), record(trainer={"max_epochs": 3})]
    assert len({first, *(variant(other, BASE) for other in others)}) == 5  # though no override says so


def test_a_variant_does_not_depend_on_the_order_of_arguments():
    arguments = [
        "--model.network.init_args.norm=batch",
        "--data.init_args.batch_size=8",
        "--trainer.max_epochs=36",
    ]
    assert variant(record(), [*BASE, *arguments]) == variant(record(), [*BASE, *reversed(arguments)])


def test_keys_of_the_dashboard_are_those_that_runs_are_logged_with():
    keys = {
        "lr": "lr",
        "model.optimizer.init_args.lr": "lr",
        "model.loss.class_path": "loss",
        "model.loss": "loss",
    }
    keys |= {
        "variant": "variant",
        "effective_batch_size": "batch",
        "data_fingerprint": "environment.data_fingerprint",
    }
    keys |= {"data.init_args.fold": "settings.data.init_args.fold", "settings.x": "settings.x"}
    assert {key: wandb_key(key) for key in keys} == keys
