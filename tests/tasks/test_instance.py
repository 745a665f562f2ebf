"""The instance task: what it makes of its batches, and whole small runs of it."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_seg.cli.main import main
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.loading import collate
from lightning_seg.experiment.image_predictor import ImagePredictor
from lightning_seg.networks.detection.mask_rcnn import MaskRCNN
from lightning_seg.runs.records import read
from lightning_seg.tasks.instance import InstanceSegmentation

NAMES = Shapes.class_names
SMALL = {"backbone": "test_resnet", "weights": False, "channels": 16, "hidden": 16, "samples": 16}
TINY = {
    "task": "lightning_seg.tasks.instance.InstanceSegmentation",
    "seed_everything": 0,
    "model": {
        "network": {
            "class_path": "lightning_seg.networks.detection.mask_rcnn.MaskRCNN",
            "init_args": {
                **SMALL,
                "proposals": [30, 20],
                "detections": 10,
                "anchors": {"class_path": "lightning_seg.networks.detection.anchors.DataAnchors"},
            },
        },
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
        "score_threshold": 0.1,
    },
    "data": {
        "class_path": "lightning_seg.data.datasets.shapes.Shapes",
        "init_args": {
            "batch_size": 4, "crop_size": [48, 48], "image_size": [48, 40], "train_images": 8, "val_images": 4,
            "test_images": 3, "num_workers": 0, "mix": {"class_path": "lightning_seg.data.instances.CopyPaste"},
        },
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "precision": "32-true", "log_every_n_steps": 1},
    "pictures": {"count": 2},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads cost more than they save on images this small, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def task(monkeypatch):
    torch.manual_seed(0)
    network = MaskRCNN(len(NAMES), **SMALL, proposals=(30, 20), detections=10)
    made = InstanceSegmentation(network, torch.optim.SGD, NAMES, score_threshold=0.17)
    logged = {}
    monkeypatch.setattr(made, "log", lambda name, value, **_: logged.update({name: float(value)}))
    monkeypatch.setattr(made, "log_dict", lambda values, **_: logged.update(values))
    made.logged = logged
    return made.eval()


def samples(*sizes):
    return [
        Split(Shapes(size, batch_size=1, crop_size=(8, 8), instances=True), "val")[i]
        for i, size in enumerate(sizes)
    ]


def test_the_loss_is_the_sum_of_its_parts_and_crowds_are_no_examples(task):
    batch = collate(samples((64, 64), (64, 64)))
    task.train()
    loss = task.training_step(batch, 0)
    parts = [v for k, v in task.logged.items() if k.startswith("train/loss_")]
    assert len(parts) == 5 and float(loss.detach()) == pytest.approx(sum(map(float, parts)))
    for target in batch["targets"]:
        target["iscrowd"] = torch.ones(len(target["labels"]), dtype=torch.bool)
    task.training_step(batch, 0)
    assert task.logged["train/loss_mask"] == task.logged["train/loss_box_reg"] == 0


def test_padding_for_transport_changes_no_score(task):
    """Images of different size in one batch are scored as if each had come alone."""
    items = samples((64, 64), (50, 72), (40, 40))
    results = []
    for batches in ([items], [[item] for item in items]):
        with torch.inference_mode():
            for batch in batches:
                task._evaluate(collate(batch))
        task._log_scores("val")
        results.append((dict(task.logged), task.matrix))
    np.testing.assert_equal(results[0][0], results[1][0])
    assert (results[0][1] == results[1][1]).all() and results[0][1].sum() == 64 * 64 + 50 * 72 + 40 * 40
    logged = results[0][0]
    wanted = {
        "val/mask_ap",
        "val/box_ap75",
        "val/mask_ap_small",
        "val/mask_ap/star",
        "val/box_ap/star",
        "val/pq",
    }
    assert (
        wanted | {"val/miou", "val/iou/background"} <= set(logged) and "val/mask_ap/background" not in logged
    )
    assert logged["val/mask_ap"] >= 0


def test_what_is_right_scores_one(task, monkeypatch):
    """Given the truth as prediction, every score is 1, and the semantic view is the semantic truth."""
    items = samples((64, 64), (64, 64))
    found = [{**i["targets"], "scores": torch.ones(len(i["targets"]["labels"]))} for i in items]
    monkeypatch.setattr(task, "forward", lambda images: found)
    task._evaluate(collate(items))
    task._log_scores("val")
    for name in ("mask_ap", "box_ap", "pq", "miou", "pixel_accuracy"):
        assert task.logged[f"val/{name}"] == 1


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
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


def test_a_run_leaves_the_same_files_as_any_other(run):
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    wanted = {"config.yaml", "environment.json", "metrics.csv", "test.json", "test_images.npz"}
    wanted |= {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "pictures/val.png", "pictures/test.png"}
    assert wanted <= files
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert len([row for row in rows if row["val/mask_ap"]]) == 2
    assert {"val/mask_ap/star", "val/box_ap50", "val/pq", "val/miou", "train/loss_mask"} <= set(rows[0])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["checkpoint"]["monitor"] == "val/mask_ap"
    assert "instances" not in config["data"]["init_args"]  # the task decides it


def test_scores_are_written_with_their_protocol(run):
    written = json.loads((run / "test.json").read_text())
    assert written["protocol"]["task"] == "objects, those from score 0.1 on merged by class"
    assert "average precision" in written["note"] and written["protocol"]["images"] == 3
    for kind in ("mask_ap", "box_ap"):
        values = [v for v in written["per_class"][kind].values() if v is not None]
        assert written["scores"][kind] == pytest.approx(np.mean(values))
        assert written["per_class"][kind]["background"] is None
    counts = np.load(run / "test_images.npz")["counts"]
    assert counts[:, :, 2].sum() == 3 * 48 * 40  # at the original size
    hit, predicted, truth = np.moveaxis(counts.sum(0), -1, 0)
    present = hit + predicted + truth > 0
    assert written["scores"]["miou"] == pytest.approx(
        (hit / (predicted + truth - hit).clip(1))[present].mean()
    )


def test_a_served_report_predicts_its_test_images_as_the_test_did(run):
    record = read(run)
    for index, counts in enumerate(record.counts):
        image, mask, labels = ImagePredictor()(run, index)
        assert image.shape == (48, 40, 3) and mask.shape == labels.shape == (48, 40)
        classes = np.arange(len(counts))[:, None, None]
        mine = [(labels == classes) & (mask == classes), labels == classes, mask == classes]
        np.testing.assert_array_equal(np.stack([m.sum((1, 2)) for m in mine], 1), counts)


def test_the_best_checkpoint_is_that_of_the_best_mask_ap_and_holds_the_anchors(run):
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    (state,) = (s for key, s in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    best = max(float(row["val/mask_ap"]) for row in rows if row["val/mask_ap"])
    assert float(state["best_model_score"]) == pytest.approx(best)
    cells = checkpoint["state_dict"]["network.head.rpn.anchor_generator.cells"]
    assert not torch.equal(cells, MaskRCNN(2, **SMALL).anchors.cells)


def test_testing_again_gives_the_same_scores(run, workplace, capsys):
    before = json.loads((run / "test.json").read_text())
    assert run_in(workplace, "test", "runs/tiny") == 0
    assert json.loads((run / "test.json").read_text())["scores"] == before["scores"]
    assert f"{before['scores']['mask_ap']:.3f}" in capsys.readouterr().out


def test_resume_trains_on_with_the_same_anchors(run, workplace, capsys):
    copied = workplace / "runs" / "copied" / run.name
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("wandb"))
    before = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert run_in(workplace, "resume", str(copied), "--trainer.max_epochs=3", "--wandb.mode=disabled") == 0
    assert "anchors " not in capsys.readouterr().out  # they came with the checkpoint
    after = torch.load(copied / "checkpoints/last.ckpt", weights_only=True)
    assert after["epoch"] == 2 and after["global_step"] == 6
    name = "network.head.rpn.anchor_generator.cells"
    assert torch.equal(after["state_dict"][name], before[name])
    shutil.rmtree(copied.parent)


def test_predict_writes_objects_masks_and_overlays(run, workplace, capsys):
    (workplace / "photos").mkdir()
    for name, size in (("a", (48, 48)), ("b", (40, 70))):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(
            workplace / f"photos/{name}.png"
        )
    assert run_in(workplace, "predict", "runs/tiny", "photos", "--output", "out") == 0
    for name, size in (("a", (48, 48)), ("b", (40, 70))):
        listed = json.loads((workplace / f"out/objects/{name}.json").read_text())
        numbers = np.asarray(Image.open(workplace / f"out/objects/{name}.png"))
        labels = np.asarray(Image.open(workplace / f"out/masks/{name}.png"))
        assert numbers.shape == labels.shape == size and ((numbers > 0) == (labels > 0)).all()
        assert Image.open(workplace / f"out/overlays/{name}.png").size == size[::-1]
        for number in np.unique(numbers[numbers > 0]).tolist():
            one = listed[number - 1]
            assert (
                one["number"] == number and one["score"] >= 0.1 and one["segmentation"]["size"] == list(size)
            )
            assert NAMES[labels[numbers == number][0]] == one["class"]
    assert run_in(workplace, "predict", "runs/tiny", "photos", "--uncertainty") == 2
    assert "--uncertainty is of pixels" in capsys.readouterr().err


def test_both_tasks_are_compared_on_the_same_pixels(run, workplace, capsys):
    semantic = {
        "network": {
            "class_path": "lightning_seg.networks.unet.UNet",
            "init_args": {
                "backbone": "test_resnet",
                "weights": False,
                "decoder_channels": [32, 16, 16, 8, 8],
            },
        },
        "optimizer": TINY["model"]["optimizer"],
    }
    other = {**TINY, "model": semantic, "task": "lightning_seg.tasks.semantic.SemanticSegmentation"}
    other["data"] = {**TINY["data"], "init_args": {**TINY["data"]["init_args"], "mix": None}}
    other["trainer"] = {**TINY["trainer"], "max_epochs": 1}
    (workplace / "semantic.yaml").write_text(yaml.safe_dump(other))
    assert run_in(workplace, "exp", "semantic.yaml", "--wandb.mode=disabled") == 0
    capsys.readouterr()
    assert run_in(workplace, "compare", "runs/tiny", "runs/semantic", "--across", "task") == 0
    out = capsys.readouterr().out
    assert "2" in out and "tiny" in out and "semantic" in out and out.count("Shapes test: 3 images") == 1
    assert "Mask AP / box AP of objects, in %: tiny" in out
    with np.load(next((workplace / "runs" / "tiny").glob("*/test_images.npz"))) as file:
        assert file["mask_ap_left_out"].shape == (3,)
    assert run_in(workplace, "compare", "runs/tiny", "runs/semantic") == 0  # a table each
    assert capsys.readouterr().out.count("Shapes test: 3 images") == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.network=lightning_seg.networks.unet.UNet"], "Detector"),
        (["--data=lightning_seg.data.datasets.camvid.CamVid"], "CamVid knows classes, not single objects"),
        (["--data.init_args.mix=lightning_seg.data.transforms.mixing.MixUp"], "CopyPaste"),
        (["--model.network.init_args.backbone=levit_128s"], "its strides are [16, 32, 64]"),
    ],
)
def test_what_does_not_fit_is_one_short_error(workplace, capsys, arguments, expected):
    assert run_in(workplace, "exp", "tiny.yaml", "--name=wrong", *arguments) == 2
    err = capsys.readouterr().err
    message = err[err.index("error: ") :]
    assert expected in message and "Traceback" not in err
    assert len(message.splitlines()) <= 5


def test_a_detector_is_no_semantic_network(workplace, capsys):
    semantic = "--task=lightning_seg.tasks.semantic.SemanticSegmentation"
    settings = {k: v for k, v in TINY.items() if k != "task"}
    settings["model"] = {k: v for k, v in TINY["model"].items() if k != "score_threshold"}
    (workplace / "confused.yaml").write_text(yaml.safe_dump(settings))
    assert run_in(workplace, "exp", "confused.yaml", semantic) == 2
    assert "MaskRCNN" in capsys.readouterr().err


def test_describe_and_features_say_what_they_can(run, workplace, capsys):
    assert run_in(workplace, "profile", str(run)) == 2
    assert "those that find objects" in capsys.readouterr().err
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(workplace / "photo.png")
    assert run_in(workplace, "features", str(run), "photo.png", "--output", "maps.png") == 0
    assert (
        Image.open(workplace / "maps.png").height > 10 * 48
    )  # five maps of the backbone, five of the pyramid


def test_preview_and_check(workplace, capsys):
    assert run_in(workplace, "preview-data", "tiny.yaml", "--output", "preview.png") == 0
    assert Image.open(workplace / "preview.png").size == (4 * (2 * 48 + 8), 3 * (48 + 8))
    assert run_in(workplace, "check-data", "tiny.yaml") == 0
