"""What arrives at W&B, and what happens when nothing can: the real wandb process, a server on loopback."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import lightning as L
import numpy as np
import pytest
import torch
import wandb
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lightning_seg.errors import UserError
from lightning_seg.runs.media import log_confusion_matrix, log_per_class, log_pictures
from lightning_seg.runs.tracking import Tracking, anonymous, finish, finishing, sync_command

from .fake_wandb import FakeWandb

NAMES = ["road", "car", "tree"]
KEY = "k" * 40


@pytest.fixture
def home(tmp_path):
    """A user without an account, at home in an empty folder; the environment is put back afterwards."""
    folder = tmp_path / "home" / "ada"
    folder.mkdir(parents=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "XDG_"))}
    with mock.patch.dict(os.environ, kept | {"HOME": str(folder), "USER": "ada"}, clear=True):
        yield folder
        finish()


@pytest.fixture
def server(home):
    with FakeWandb() as server:
        os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        yield server
        finish()


@pytest.fixture
def silent_host():
    """The address of a host that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def records(run_dir: Path) -> list[dict]:
    """The transaction log of a run's only part, by wandb's own reader."""
    (log,) = run_dir.glob("wandb/*run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    return [json.loads(line) for line in out.splitlines()]


def of_type(log: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in log if record["type"] == kind]


def sync(command: str, server: FakeWandb) -> None:
    environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    subprocess.run(shlex.split(command), env=environment, stdin=subprocess.DEVNULL, check=True)


def printed_command(out: str) -> str:
    return re.search(r"^W&B: .* To upload (?:the run|the rest): (.*)$", out, re.MULTILINE)[1]


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
        log_pictures(logger, "val/pictures", *arrays, NAMES, step, ["one", "two"])
        log_confusion_matrix(logger, "val/confusion", self.counts, NAMES, step)
        log_per_class(logger, "val/iou_per_class", {"road": 0.75, "car": 2 / 3, "tree": float("nan")}, step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


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


def test_offline_run_is_complete_anonymous_and_can_be_moved_and_synced(home, tmp_path, capsys):
    run_dir, model = home / "runs" / "tiny" / "20260101-ab", Tiny()
    config = {"lr": [0.1, 0.2], "data": {"root": f"{home}/data"}, "scratch": "/scratch/ada/x", "none": None}
    tracking = Tracking(group="g", job_type="train", tags=["a", "b"], notes="why", watch="gradients")
    with finishing():
        logger = tracking.start(run_dir, config, model)
        fit(logger, model)
    out = capsys.readouterr().out
    assert out.count("W&B:") == 1 and "wandb login" in out

    log = records(run_dir)
    (run,) = of_type(log, "run")
    assert (run["project"], run["run_id"]) == ("lightning_seg", "20260101-ab")
    assert (run["run_group"], run["job_type"], run["tags"], run["notes"]) == ("g", "train", ["a", "b"], "why")
    del run["config"]["update"]["_wandb"]
    assert run["config"]["update"] == config | {"data": {"root": "~/data"}, "scratch": "/scratch/USER/x"}
    assert [end["exit_code"] for end in of_type(log, "exit")] == [0]
    assert of_type(log, "stats")  # system metrics

    rows = [row["item"] for row in of_type(log, "history")]
    assert [row["val/miou"] for row in rows if "val/miou" in row] == pytest.approx([0.3, 0.5, 0.4])
    assert [row["trainer/global_step"] for row in rows if "train/loss" in row] == list(range(9, 120, 10))
    assert all("trainer/global_step" in row for row in rows if any(key.startswith("val/") for key in row))
    assert any("gradients/layer.weight" in key for row in rows for key in row)
    summary = {k: v for record in of_type(log, "summary") for k, v in record["update"].items()}
    assert summary["val/miou"] == pytest.approx({"max": 0.5})
    assert summary["val/loss"] == pytest.approx({"min": 1.0})

    (files,) = run_dir.glob("wandb/offline-run-*/files")
    _check_pictures(log, rows, files, model)
    _check_tables(summary, files)
    told = json.dumps([record for record in log if record["type"] not in ("artifact", "output_raw")])
    for private in (str(tmp_path), "ada", socket.gethostname(), sys.executable):
        assert not re.search(rf"\b{re.escape(private)}\b", told), private
    assert [p for p in home.rglob("*") if p.is_file() and not p.is_relative_to(run_dir)] == []

    moved = Path(shutil.move(run_dir, tmp_path / "moved run"))
    with FakeWandb() as server:
        sync(printed_command(out).replace(str(run_dir / "wandb"), shlex.quote(str(moved / "wandb"))), server)
    received = server.runs["20260101-ab"]
    assert server.unknown == []
    assert received.config["data"]["value"] == {"root": "~/data"}
    assert (received.group, received.job_type, received.tags) == ("g", "train", ["a", "b"])
    assert not received.host
    assert len(received.history) == len(rows) and received.exit_code == 0
    assert received.summary["val/miou"] == pytest.approx({"max": 0.5})
    media = [path for path in moved.glob("wandb/offline-run-*/files/media/**/*") if path.is_file()]
    (files,) = moved.glob("wandb/offline-run-*/files")
    assert len(media) > 10
    for path in media:
        assert received.files[path.relative_to(files).as_posix()] == path.read_bytes()


def _check_pictures(log, rows, files, model):
    labels = [c["update"]["_wandb"] for c in of_type(log, "config") if "_wandb" in c["update"]][-1]
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
    log = Tracking(tags=["x"], entity="someone")
    with pytest.raises(ValueError), finishing():
        logger = log.start(tmp_path / "e" / "first", {"lr": 1})
        logger.log_metrics({"val/miou": 0.5, "epoch": 0}, 7)
        picture, mask = np.zeros((300, 300, 3), np.uint8), np.zeros((300, 300), np.uint8)
        log_pictures(logger, "p", [picture] * 9, [mask] * 9, [mask] * 9, NAMES, 7)
        raise ValueError(f"no file {os.environ['HOME']}/x\nand more")
    with pytest.raises(SystemExit), finishing():
        logger = Tracking(mode="online").start(tmp_path / "e" / "second", {"lr": 2})
        logger.log_metrics({"val/miou": 0.6}, 1)
        sys.exit(0)
    assert server.unknown == []
    first, second = server.runs["first"], server.runs["second"]
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.summary["error"] == "ValueError: no file ~/x"
    assert "error" not in second.summary
    assert (first.tags, first.config["lr"]["value"], second.config["lr"]["value"]) == (["x"], 1, 2)
    assert [(row["trainer/global_step"], row["val/miou"]) for row in first.history[:1]] == [(7, 0.5)]
    assert [row["val/miou"] for row in second.history] == [0.6]
    assert first.history[1]["p"]["count"] == 8 and first.history[1]["p"]["format"] == "jpg"
    assert [name for name in first.files if name.startswith("media/") and name.endswith(".jpg")]
    for name in ("first", "second"):
        assert len(list((tmp_path / "e" / name).glob("wandb/run-*/*.wandb"))) == 1
    urls = [f"W&B: {server.url}/someone/lightning_seg/runs/{name}" for name in ("first", "second")]
    assert capsys.readouterr().out.splitlines() == urls


def test_resumed_run_keeps_its_id_and_both_parts_reach_the_server(home, tmp_path, capsys):
    run_dir = tmp_path / "e" / "again"
    for part, values in enumerate([[0.1, 0.2], [0.3]]):
        with finishing():
            logger = Tracking(mode="offline").start(run_dir, {"part": part})
            assert logger.version == "again"
            for step, value in enumerate(values, start=2 * part):
                logger.log_metrics({"val/miou": value}, step)
        time.sleep(1.1)  # parts are named by the second they start in
    with FakeWandb() as server:
        sync(printed_command(capsys.readouterr().out), server)
    assert [(row["trainer/global_step"], row["val/miou"]) for row in server.runs["again"].history] == [
        (0, 0.1),
        (1, 0.2),
        (2, 0.3),
    ]


@pytest.mark.parametrize("host", ["closed", "silent", "bad key"])
def test_a_start_that_fails_goes_offline_in_time_and_loses_nothing(host, home, silent_host, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    os.environ["WANDB_BASE_URL"] = silent_host if host == "silent" else closed
    os.environ["WANDB_API_KEY"] = "short" if host == "bad key" else KEY
    started = time.monotonic()
    with finishing():
        logger = Tracking(init_timeout=2).start(tmp_path / "e" / "id", {})
        assert time.monotonic() - started < 20  # 90 if the timeout did not arrive
        logger.log_metrics({"val/miou": 0.5}, 1)
        left = time.monotonic()
    assert time.monotonic() - left < 20
    with FakeWandb() as server:
        sync(printed_command(capsys.readouterr().out) + " --include-online", server)
    assert [row["val/miou"] for row in server.runs["id"].history] == [0.5]
    assert server.runs["id"].exit_code == 0


def test_a_server_that_dies_costs_the_stated_time_and_no_data(server, tmp_path, capsys):
    with finishing():
        logger = Tracking(finish_timeout=2).start(tmp_path / "e" / "id", {})
        logger.log_metrics({"val/miou": 0.1}, 0)
        server.stop()
        for step in range(1, 200):
            logger.log_metrics({"val/miou": 0.1 + step}, step)
        left = time.monotonic()
    assert time.monotonic() - left < 20  # for ever if the timeout did not arrive
    out = capsys.readouterr().out
    assert "not all is uploaded" in out
    with FakeWandb() as later:
        sync(printed_command(out), later)
    assert [row["trainer/global_step"] for row in later.runs["id"].history] == list(range(200))


def test_training_outlives_wandbs_own_process(home, tmp_path, capsys):
    class Killing(Tiny):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                find = ["pgrep", "-P", str(os.getpid()), "wandb-core"]
                children = subprocess.run(find, capture_output=True, text=True, check=True)
                for pid in children.stdout.split():
                    os.kill(int(pid), signal.SIGKILL)
                time.sleep(1)  # until its sockets are closed; before that a write still seems to succeed

    with finishing():
        model = Killing()
        fit(Tracking().start(tmp_path / "e" / "id", {}), model)
    assert model.trainer.current_epoch == 3
    out = capsys.readouterr().out
    assert out.count("W&B: lost") == 1 and "Traceback" not in out
    with finishing():  # and the next run of the process is a whole one
        Tracking().start(tmp_path / "e" / "next", {}).log_metrics({"a": 1}, 0)
    assert [end["exit_code"] for end in of_type(records(tmp_path / "e" / "next"), "exit")] == [0]


def test_never_asks_even_where_somebody_could_answer(home, tmp_path):
    """At a terminal wandb would wait for a key for ever."""
    code = """
from pathlib import Path
from lightning_seg.runs.tracking import Tracking, finishing
with finishing():
    Tracking(mode="online").start(Path("e/id"), {})
"""
    terminal, end = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=end, stdout=end, stderr=end)
    os.close(end)
    assert process.wait(timeout=60) == 0
    said = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert re.fullmatch(r"W&B: offline \(no account known.*wandb sync e/id/wandb\r\n", said)


def test_if_not_even_offline_works_the_run_goes_on(home, tmp_path, capsys, monkeypatch):
    real = wandb.init

    def init(mode, **arguments):
        if mode != "disabled":
            raise OSError("No space left on device")
        return real(mode=mode, **arguments)

    monkeypatch.setattr(wandb, "init", init)
    with finishing():
        logger = Tracking().start(tmp_path / "e" / "id", {}, Tiny())
        fit(logger, Tiny())
    assert "W&B: off" in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "environment"), [("disabled", None), ("online", "disabled")])
def test_disabled_is_only_what_the_user_says(home, tmp_path, mode, environment):
    if environment:
        os.environ["WANDB_MODE"] = environment
    assert Tracking(mode=mode).start(tmp_path / "e" / "id", {}) is None
    assert list(tmp_path.glob("e/**/*")) == []


def test_mode_from_the_environment(home, server, tmp_path):
    os.environ["WANDB_MODE"] = "dryrun"
    with finishing():
        assert Tracking(mode="online").start(tmp_path / "e" / "id", {}).experiment.offline
    os.environ["WANDB_MODE"] = "of"
    with pytest.raises(UserError, match="online, .*'of'"):
        Tracking().start(tmp_path / "e" / "id", {})


def test_other_ranks_open_no_run(home, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = Tracking(watch="all").start(tmp_path / "e" / "id", {}, Tiny())
    logger.log_metrics({"a": 1}, 0)
    assert logger.version == "id" and wandb.run is None
    assert list(tmp_path.glob("e/**/*")) == []


def test_reads_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Tracking, "wandb")
    config = parser.parse_string("wandb: {project: p, tags: [a, b], mode: offline, watch: all}")
    expected = Tracking(project="p", tags=["a", "b"], mode="offline", watch="all")
    assert parser.instantiate_classes(config).wandb == expected


def test_anonymous_takes_home_and_user_out_of_paths_only(home):
    given = {"a": [f"{home}/x", str(home), "/home/adams/x", 3, None], "b": ("ada", "/data/ada/")}
    assert anonymous(given) == {"a": ["~/x", "~", "/home/adams/x", 3, None], "b": ["ada", "/data/USER/"]}
    os.environ |= {"HOME": "/", "USER": ""}
    assert anonymous("/data/ada") == "/data/ada"


def test_sync_command_is_short_where_it_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/wandb")
    assert sync_command(tmp_path / "a b") == "wandb sync 'a b/wandb'"
    assert sync_command(Path("/x"), include_online=True) == "wandb sync --include-online /x/wandb"
