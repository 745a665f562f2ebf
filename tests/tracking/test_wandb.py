"""What arrives at W&B, and what happens when nothing can: the real wandb process, a server on loopback."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import wandb
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG
from lightning_seg.tracking.media import PictureSet, log_confusion_matrix, log_image_scores, log_per_class
from lightning_seg.tracking.wandb_run import WandbSettings, anonymous, best_values, sync_command
from tests.processes import forked_python
from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.wandb_logs import of_type, records, sync

NAMES = ["road", "car", "tree"]


class Tiny(L.LightningModule):
    """Logs what the real task logs, with known scores and pictures."""

    scores = [(0.3, 2.0), (0.5, 1.0), (0.4, 1.5)]  # mIoU and loss of each epoch
    counts = np.array([[9, 1, 0], [2, 6, 0], [0, 0, 0]])

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        draw, sizes = np.random.default_rng(0), [(48, 64), (40, 70)]
        self.images = [draw.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        self.truths = [draw.choice(np.array([0, 1, 2, 255], np.uint8), size) for size in sizes]
        self.predictions = [draw.integers(0, 3, size, np.uint8) for size in sizes]

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        miou, loss = self.scores[self.current_epoch]
        self.log_dict({"val/miou": miou, "val/loss": loss})

    def on_validation_end(self):
        logger, step = self.trainer.logger, self.trainer.global_step
        arrays = self.images, self.truths, self.predictions
        pictures = PictureSet(*arrays, NAMES, names=["one", "two"])
        pictures.log(logger, "val/pictures", step)
        pictures.log_table(logger, "val/pictures_table", step)
        log_confusion_matrix(logger, "val/confusion", self.counts, NAMES, step)
        log_per_class(logger, "val/iou_per_class", {"road": 0.75, "car": 2 / 3, "tree": float("nan")}, step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def use_data(logger):
    logger.begin_training({}, "Shapes", {"fingerprint": "1"}, lambda: 0)


def fit(logger, model):
    loader = torch.utils.data.DataLoader(torch.randn(40, 1, 4), batch_size=None)
    L.Trainer(
        max_epochs=3,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        log_every_n_steps=10,
        logger=logger,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(model, loader, loader)


def test_offline_runs_are_complete_and_anonymous_and_can_be_moved_and_synced(
    home, tmp_path, capsys, monkeypatch
):
    head = "0123456789" * 4
    monkeypatch.setattr("lightning_seg.tracking.wandb_run.package_commit", lambda: head)
    run_dir, model = home / "runs" / "tiny" / "20260101-ab", Tiny()
    config = {
        "name": "tiny",
        "seed_everything": 3,
        "model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}},
        "data": {"class_path": "a.b.CamVid", "init_args": {"root": f"{home}/data"}},
        "scratch": "/scratch/ada/x",
    }
    overrides = ["-c", "tiny.yaml", "--model.optimizer.init_args.lr=0.1", "--wandb.tags+=a"]
    settings = WandbSettings(group="g", tags=["a", "b"], notes="why", watch="gradients")
    with settings.start(run_dir, config, model, overrides) as opened:
        logger = opened.logger
        environment = {"commit": "abc", "home": str(home), "parameters": 10, "effective_batch_size": 8}
        version = {"fingerprint": "123", "images": {"train": 40}}
        logger.begin_training(environment, "My data", version, lambda: 8 * model.trainer.global_step)
        for name in ("best", "last"):
            (run_dir / "checkpoints").mkdir(exist_ok=True)
            (run_dir / "checkpoints" / f"{name}.ckpt").write_text(name)
        fit(logger, model)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "wandb login" in said[0]
    assert said[1] == f"W&B: to upload the run: {sync_command(run_dir)}"

    log = records(run_dir)
    (run,) = of_type(log, "run")
    assert (run["project"], run["run_id"]) == ("lightning_seg", "20260101-ab")
    assert (run["run_group"], run["job_type"], run["tags"], run["notes"]) == ("g", "train", ["a", "b"], "why")
    assert run["git"] == {"commit": head}
    del run["config"]["update"]["_wandb"]
    sent = run["config"]["update"]
    data = {"class_path": "a.b.CamVid", "init_args": {"root": "~/data"}}
    assert sent.pop("settings") == config | {"data": data, "scratch": "/scratch/USER/x"}
    assert {key: value for key, value in sent.items() if value is not None} == {
        **{"experiment": "tiny", "data": "CamVid", "lr": 0.1, "seed": 3}
    }
    assert run["display_name"] == "tiny · lr 0.1 · seed 3"
    updates = [c.get("update", {}) for c in of_type(log, "config")]
    told = [update["environment"] for update in updates if "environment" in update]
    assert told[-1] == environment | {"home": "~"}
    known = {key: value for update in updates for key, value in update.items()}
    assert (known["batch"], known["params"]) == (8, 10)
    assert re.fullmatch(r"tiny · lr 0\.1 · #[0-9a-f]{6}", known["variant"])
    assert [end["exit_code"] for end in of_type(log, "exit")] == [0]
    assert of_type(log, "stats")  # system metrics

    rows = [row["item"] for row in of_type(log, "history")]
    assert [row["val/miou"] for row in rows if "val/miou" in row] == pytest.approx([0.3, 0.5, 0.4])
    assert [row["trainer/global_step"] for row in rows if "train/loss" in row] == list(range(9, 120, 10))
    assert [row["trainer/samples"] for row in rows if "train/loss" in row] == list(range(80, 961, 80))
    assert [row["epoch"] for row in rows if "val/miou" in row] == [0, 1, 2]
    assert all("trainer/global_step" in row for row in rows if any(key.startswith("val/") for key in row))
    assert any("gradients/layer.weight" in key for row in rows for key in row)
    summary = {k: v for record in of_type(log, "summary") for k, v in record.get("update", {}).items()}
    assert summary["val/miou"] == pytest.approx({"max": 0.5})
    assert summary["val/loss"] == pytest.approx({"min": 1.0})
    lowest = min(row["train/loss"] for row in rows if "train/loss" in row)
    assert summary["train/loss"] == pytest.approx({"min": lowest})

    (files,) = run_dir.glob("wandb/offline-run-*/files")
    _check_pictures(log, rows, files, model)
    _check_tables(summary, files)
    told = json.dumps([record for record in log if record["type"] not in ("artifact", "output_raw")])
    for private in (str(tmp_path), "ada", socket.gethostname(), sys.executable):
        assert not re.search(rf"\b{re.escape(private)}\b", told), private
    assert [p for p in home.rglob("*") if p.is_file() and not p.is_relative_to(run_dir)] == []

    moved, resumed = tmp_path / "runs" / "moved run", tmp_path / "runs" / "again"
    shutil.copytree(run_dir, moved)
    shutil.rmtree(run_dir)
    _resume(resumed)
    for folder in (moved, resumed.with_name("renamed")):
        (folder / CONFIG).touch()
    with FakeWandb() as server:
        status, out = sync(server, tmp_path / "runs")
    assert status == 0 and server.unknown == [], out
    received = server.runs["20260101-ab"]
    assert received.config["settings"]["value"]["data"]["init_args"] == {"root": "~/data"}
    assert (received.config["data"]["value"], received.config["lr"]["value"]) == ("CamVid", 0.1)
    assert received.config["variant"]["value"] == known["variant"]
    assert received.config["environment"]["value"]["commit"] == "abc"
    assert (received.group, received.job_type, received.tags) == ("g", "train", ["a", "b"])
    assert received.commit == head and not received.host
    assert len(received.history) == len(rows) and received.exit_code == 0
    assert received.summary["val/miou"] == pytest.approx({"max": 0.5})
    media = [path for path in moved.glob("wandb/offline-run-*/files/media/**/*") if path.is_file()]
    (files,) = moved.glob("wandb/offline-run-*/files")
    assert len(media) > 10
    for path in media:
        assert received.files[path.relative_to(files).as_posix()] == path.read_bytes()
    _check_artifacts([artifact for artifact in server.artifacts.values() if artifact["run"] == received.name])
    assert f"rows {len(rows)}, " in out and f"{server.url}/someone/lightning_seg/runs/20260101-ab" in out

    received = server.runs["again"]
    assert [(row["trainer/global_step"], row["val/miou"]) for row in received.history] == [
        (0, 0.1),
        (1, 0.2),
        (2, 0.3),
    ]
    assert received.config["environment"]["value"] == {"part": 1} and received.config["settings"][
        "value"
    ] == {"kept": 0}
    models = {tuple(a["aliases"]): a["files"] for a in server.artifacts.values() if a["run"] == "again"}
    assert {files["last.ckpt"] for files in models.values()} == {b"of part 1"}
    assert "left out, for its file is gone or has changed: model model-again" in out


def _resume(run_dir):
    """Make a run of two parts, the second of which overwrote the last checkpoint."""
    (run_dir / "checkpoints").mkdir(parents=True)
    for part, values in enumerate([[0.1, 0.2], [0.3]]):
        if part:
            run_dir = run_dir.rename(run_dir.with_name("renamed"))
        with WandbSettings(mode="offline").start(run_dir, {} if part else {"kept": 0}) as run:
            logger = run.logger
            assert logger.experiment.id == "again"
            logger.log_hyperparams({"environment": {"part": part}})
            for step, value in enumerate(values, start=2 * part):
                logger.log_metrics({"val/miou": value}, step)
            (run_dir / "checkpoints" / "last.ckpt").write_text(f"of part {part}")
            logger.finalize("success")
        time.sleep(1.1)  # parts are named by the second they start in


def _check_artifacts(artifacts):
    assert all(artifact["committed"] for artifact in artifacts)
    checkpoints = [a for a in artifacts if a["type"] == "model"]
    assert {a["name"] for a in checkpoints} == {"model-20260101-ab"}
    known = {alias: a["files"] for a in checkpoints for alias in a["aliases"] if alias != "latest"}
    assert known["best"]["best.ckpt"] == b"best" and known["last"]["last.ckpt"] == b"last"
    (data,) = [a for a in artifacts if a["type"] == "dataset"]
    assert data["name"] == "My_data" and data["used_by"] == ["20260101-ab"]
    assert json.loads(data["files"]["version.json"]) == {"fingerprint": "123", "images": {"train": 40}}
    tables = [
        a for a in artifacts if a["type"] == "run_table" and "val/pictures_table.table.json" in a["files"]
    ]
    assert len(tables) == 3  # one a validation
    table = json.loads(tables[-1]["files"]["val/pictures_table.table.json"])
    assert table["columns"] == ["image", "picture", "mIoU"]
    assert [row[0] for row in table["data"]] == ["one", "two"]
    classes = json.loads(tables[-1]["files"][table["data"][0][1]["classes"]["path"]])
    assert [(c["id"], c["name"]) for c in classes["class_set"]] == [*enumerate(NAMES), (255, "ignored")]
    assert {*table["data"][0][1]["masks"]} == {"truth", "prediction"}
    for mask in table["data"][0][1]["masks"].values():
        assert mask["path"] in tables[-1]["files"]


def _check_pictures(log, rows, files, model):
    updates = [c.get("update", {}) for c in of_type(log, "config")]
    labels = [update["_wandb"] for update in updates if "mask/class_labels" in update.get("_wandb", {})][-1]
    for mask in ("truth", "prediction"):
        known = labels["mask/class_labels"][f"val/pictures_wandb_delimeter_{mask}"]["value"]
        assert known == {"0": "road", "1": "car", "2": "tree", "255": "ignored"}
    shown = [row for row in rows if "val/pictures._type" in row][-1]
    assert shown["val/pictures.captions"] == ["one", "two"]
    for i, masks in enumerate(shown["val/pictures.all_masks"]):
        for mask, sent in (("truth", model.truths[i]), ("prediction", model.predictions[i])):
            drawn = np.array(Image.open(files / masks[mask]["path"]))
            height, width = sent.shape
            assert drawn.shape == (48, 70) and np.array_equal(drawn[:height, :width], sent)
            assert (drawn == 255).sum() == (sent == 255).sum() + drawn.size - sent.size
    drawn = np.array(Image.open(files / shown["val/pictures.filenames"][0]))
    assert np.array_equal(drawn[:48, :64], model.images[0])  # small enough for PNG


def _check_tables(summary, files):
    confusion = json.loads((files / summary["val/confusion_table.path"]).read_text())
    assert confusion["columns"] == ["truth", "prediction", "percent", "pixels"]
    assert len(confusion["data"]) == 9
    for row in (["road", "car", 10.0, 1], ["car", "car", 75.0, 6], ["tree", "tree", 0.0, 0]):
        assert row in confusion["data"]
    per_class = json.loads((files / summary["val/iou_per_class_table.path"]).read_text())["data"]
    assert per_class == [["road", 0.75], ["car", pytest.approx(2 / 3)], ["tree", None]]


def test_online_run_that_fails_and_the_next_of_the_same_process(server, tmp_path, capsys):
    settings = WandbSettings(tags=["x"], entity="someone")
    with pytest.raises(ValueError), settings.start(tmp_path / "e" / "first", {"lr": 1}) as run:
        logger = run.logger
        logger.log_metrics({"val/miou": 0.5, "epoch": 0}, 7)
        picture, mask = np.zeros((300, 300, 3), np.uint8), np.zeros((300, 300), np.uint8)
        use_data(logger)
        pictures = PictureSet([picture] * 9, [mask] * 9, [mask] * 9, NAMES, [str(i) for i in range(9)])
        pictures.log(logger, "p", 7)
        raise ValueError(f"no file {os.environ['HOME']}/x\nand more")
    settings = WandbSettings(mode="online")
    with pytest.raises(SystemExit), settings.start(tmp_path / "e" / "second", {"lr": 2}) as run:
        run.logger.log_metrics({"val/miou": 0.6}, 1)
        sys.exit(0)
    assert server.unknown == []
    first, second = server.runs["first"], server.runs["second"]
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.summary["error"] == "ValueError: no file ~/x"
    assert "error" not in second.summary
    assert [r.config["settings"]["value"]["lr"] for r in (first, second)] == [1, 2] and first.tags == ["x"]
    assert [(row["trainer/global_step"], row["val/miou"]) for row in first.history[:1]] == [(7, 0.5)]
    assert [row["val/miou"] for row in second.history] == [0.6]
    assert first.history[1]["p"]["count"] == 8 and first.history[1]["p"]["format"] == "jpg"
    (data,) = [artifact for artifact in server.artifacts.values() if artifact["type"] == "dataset"]
    assert data["used_by"] == ["first"] and data["committed"]
    assert [name for name in first.files if name.startswith("media/") and name.endswith(".jpg")]
    for name in ("first", "second"):
        assert len(list((tmp_path / "e" / name).glob("wandb/run-*/*.wandb"))) == 1
    urls = [f"W&B: {server.url}/someone/lightning_seg/runs/{name}" for name in ("first", "second")]
    assert capsys.readouterr().out.splitlines() == urls


def test_online_run_that_is_resumed_keeps_its_id_and_its_history(server, tmp_path):
    run_dir = tmp_path / "e" / "id"
    (run_dir / "checkpoints").mkdir(parents=True)
    for part in range(2):
        settings = WandbSettings(watch="parameters" if part else None)
        with settings.start(run_dir, {"part": part}, Tiny()) as run:
            logger = run.logger
            logger.log_metrics({"val/miou": 0.5 - part / 10}, 7 + part)
            for name in ("best", "last"):
                (run_dir / "checkpoints" / f"{name}.ckpt").write_text(f"{name} of part {part}")
            logger.finalize("success")
            use_data(logger)
        time.sleep(1.1)  # parts are named by the second they start in
    assert list(server.runs) == ["id"] and server.unknown == []
    run = server.runs["id"]
    assert [(row["trainer/global_step"], row["val/miou"]) for row in run.history] == [(7, 0.5), (8, 0.4)]
    assert run.config["settings"]["value"]["part"] == 1
    models = [a for a in server.artifacts.values() if a["type"] == "model" and a["committed"]]
    for name in ("best", "last"):
        newest = [a for a in models if name in a["aliases"]][-1]
        assert (
            newest["name"] == "model-id" and newest["files"][f"{name}.ckpt"] == f"{name} of part 1".encode()
        )
    data = [a for a in server.artifacts.values() if a["type"] == "dataset"]
    assert data and all(a["committed"] and a["used_by"] == ["id"] for a in data)


def test_a_run_that_ends_before_the_server_knows_its_data(server, tmp_path, monkeypatch):
    def slow(variables):
        time.sleep(2)
        return FakeWandb._ArtifactType(server, variables)

    monkeypatch.setattr(server, "_ArtifactType", slow)
    with WandbSettings().start(tmp_path / "e" / "id", {}) as run:
        use_data(run.logger)
        run.logger.log_metrics({"val/miou": 0.5}, 7)
    (data,) = server.artifacts.values()
    assert data["committed"] and data["used_by"] == ["id"]


def test_training_outlives_wandbs_own_process(home, tmp_path, capsys):
    class Killing(Tiny):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                find = ["pgrep", "-P", str(os.getpid()), "wandb-core"]
                children = subprocess.run(find, capture_output=True, text=True, check=True)
                for pid in children.stdout.split():
                    os.kill(int(pid), signal.SIGKILL)
                time.sleep(1)  # until its sockets are closed; before that a write still seems to succeed

    with WandbSettings().start(tmp_path / "e" / "id", {}) as run:
        model = Killing()
        fit(run.logger, model)
    assert model.trainer.current_epoch == 3
    out = capsys.readouterr().out
    assert out.count("W&B: lost") == 1 and "Traceback" not in out
    with WandbSettings().start(tmp_path / "e" / "next", {}) as run:  # a whole one, in the same process
        run.logger.log_metrics({"a": 1}, 0)
    assert [end["exit_code"] for end in of_type(records(tmp_path / "e" / "next"), "exit")] == [0]


def test_an_offline_run_on_a_busy_machine_loses_no_table_and_blames_no_server(
    home, tmp_path, capsys, monkeypatch
):
    def table(value):
        time.sleep(0.1)
        return wandb.Table(columns=["a"], data=[[value]])

    monkeypatch.setattr("lightning_seg.tracking.wandb_logger.ANSWER_TIMEOUT", 0.01)
    run_dir = tmp_path / "e" / "id"
    with WandbSettings(mode="offline").start(run_dir, {}) as run:
        use_data(run.logger)
        for step in range(3):
            run.logger.log_metrics({"val/miou": 0.5}, step)
            run.logger.add_table("val/t", lambda step=step: table(step), step)
    assert run.logger.missing is None
    said = capsys.readouterr().out.splitlines()
    assert said == ["W&B: offline (as asked)", f"W&B: to upload the run: {sync_command(run_dir)}"]
    artifacts = of_type(records(run_dir), "artifact")  # of the only part
    assert [a["type"] for a in artifacts] == ["dataset", "run_table", "run_table", "run_table"]


def test_all_images_are_a_table_that_can_be_joined(home, tmp_path):
    counts = np.zeros((3, 3, 3), int)
    counts[0] = [[8, 10, 10], [5, 10, 5], [0, 0, 0]]  # IoU 2/3, 1/2, none
    counts[1] = [[0, 0, 0], [0, 3, 2], [4, 4, 4]]  # none, 0, 1; the last image is ignored throughout
    run_dir = tmp_path / "e" / "id"
    with WandbSettings(mode="offline").start(run_dir, {}) as run:
        log_image_scores(run.logger, "test/images", ["a.png", "b.png", "void.png"], counts, NAMES, 7)
    (file,) = run_dir.glob("wandb/*/files/media/table/test/images*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["image", "mIoU", "worst class", "its IoU"]
    assert table["data"] == [
        ["a.png", pytest.approx((2 / 3 + 0.5) / 2), "car", 0.5],
        ["b.png", 0.5, "car", 0.0],
        ["void.png", None, None, None],
    ]


def test_patches_of_uncommitted_work_are_uploaded_only_if_asked(server, tmp_path):
    for name, code in (("quiet", False), ("open", True)):
        run_dir = tmp_path / "e" / name
        with WandbSettings(code=code).start(run_dir, {}) as run:
            (run_dir / "code.patch").write_text("+secret")
            use_data(run.logger)
            run.logger.log_metrics({"a": 1}, 0)
    sent = [(a["name"], a["files"]["code.patch"]) for a in server.artifacts.values() if a["type"] == "code"]
    assert sent == [("code-open", b"+secret")]
    assert not any(b"+secret" in content for content in server.runs["quiet"].files.values())
    assert server.unknown == []


def test_never_asks_even_where_somebody_could_answer(home, tmp_path):
    """At a terminal wandb would wait for a key for ever."""
    code = """
from pathlib import Path
from lightning_seg.tracking.wandb_run import WandbSettings
with WandbSettings(mode="online").start(Path("e/id"), {}):
    pass
"""
    terminal, end = pty.openpty()
    process = subprocess.Popen([forked_python(), "-c", code], cwd=tmp_path, stdin=end, stdout=end, stderr=end)
    os.close(end)
    status = process.wait(timeout=120)
    said = os.read(terminal, 10_000).decode()
    assert status == 0, said
    os.close(terminal)
    assert re.fullmatch(r"W&B: offline \(no account known[^\n]*\r\n", said)


def test_if_not_even_offline_works_the_run_goes_on(home, tmp_path, capsys, monkeypatch):
    real = wandb.init

    def init(mode, **arguments):
        if mode != "disabled":
            raise OSError("No space left on device")
        return real(mode=mode, **arguments)

    monkeypatch.setattr(wandb, "init", init)
    with WandbSettings().start(tmp_path / "e" / "id", {}, Tiny()) as run:
        fit(run.logger, Tiny())
    assert "W&B: off" in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "environment"), [("disabled", None), ("online", "disabled")])
def test_disabled_is_only_what_the_user_says(home, tmp_path, mode, environment):
    if environment:
        os.environ["WANDB_MODE"] = environment
    assert WandbSettings(mode=mode).start(tmp_path / "e" / "id", {}) is None
    assert list(tmp_path.glob("e/**/*")) == []


def test_mode_from_the_environment(home, server, tmp_path):
    os.environ["WANDB_MODE"] = "dryrun"
    with WandbSettings(mode="online").start(tmp_path / "e" / "id", {}) as run:
        assert run.logger.experiment.offline
    os.environ["WANDB_MODE"] = "of"
    with pytest.raises(UserError, match="online, .*'of'"):
        WandbSettings().start(tmp_path / "e" / "id", {})


def test_other_ranks_open_no_run(home, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with WandbSettings(watch="all").start(tmp_path / "e" / "id", {}, Tiny()) as run:
        logger = run.logger
        logger.log_metrics({"a": 1}, 0)
    assert logger.version == "id" and wandb.run is None
    assert list(tmp_path.glob("e/**/*")) == []


def test_reads_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(WandbSettings, "wandb")
    config = parser.parse_string("wandb: {project: p, tags: [a, b], mode: offline, watch: all}")
    expected = WandbSettings(project="p", tags=["a", "b"], mode="offline", watch="all")
    assert parser.instantiate_classes(config).wandb == expected


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"project": "team/seg"}, "--wandb.entity=team --wandb.project=seg"),
        *[({"project": f"a{letter}b"}, "wandb.project must be 1 to 128 characters") for letter in "\\#?%:\n"],
        ({"project": "x" * 129}, "wandb.project must be 1 to 128 characters"),
        ({"project": ""}, "wandb.project must be 1 to 128 characters"),
        ({"entity": "a/b"}, "wandb.entity must be 1 to 128 characters"),
        ({"tags": ["good", "x" * 65]}, "wandb.tags: a tag has 1 to 64 characters"),
    ],
)
def test_names_that_wandb_refuses_are_refused_when_settings_are_read(settings, says):
    with pytest.raises(UserError, match=re.escape(says)):
        WandbSettings(**settings)


def test_anonymous_takes_home_and_user_out_of_paths_only(home):
    given = {"a": [f"{home}/x", str(home), "/home/adams/x", 3, None], "b": ("ada", "/data/ada/")}
    assert anonymous(given) == {"a": ["~/x", "~", "/home/adams/x", 3, None], "b": ["ada", "/data/USER/"]}
    os.environ |= {"HOME": "/", "USER": ""}
    assert anonymous("/data/ada") == "/data/ada"


def test_sync_command_is_short_where_it_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sync_command(tmp_path / "a b") == "lightning-seg sync 'a b'"
    assert sync_command(Path("/x")) == "lightning-seg sync /x"


def test_the_best_epoch_is_that_of_the_score_that_chooses_the_checkpoint(tmp_path):
    (tmp_path / "config.yaml").write_text("checkpoint: {monitor: val/pq, mode: max}")
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,val/miou,val/pq\n9,0,0.5,0.2\n19,1,0.4,0.6\n29,2,0.3,0.1\n"
    )
    found = best_values(tmp_path)
    assert found == {"val/miou": {"max": 0.5}, "val/pq": {"max": 0.6}, "best_epoch": 1}
