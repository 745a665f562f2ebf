"""TensorBoard and MLflow have what the run directory has, read back by their own readers, whatever happens on the way."""

import json
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from lightning_seg.cli.main import main
from lightning_seg.runs.csv_logger import RunLogger
from lightning_seg.runs.directory import write_whole
from lightning_seg.runs.records import read
from lightning_seg.tracking.mlflow import MLflow, MLflowSettings
from lightning_seg.tracking.tensorboard import TensorBoard
from lightning_seg.tracking.tracker_sync import TrackerSync, export, rows_of
from lightning_seg.tracking.trackers import open_trackers
from tests.inference.conftest import TINY
from tests.processes import start
from tests.tracking.readers import in_mlflow, in_tensorboard, logged

pytestmark = [
    pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is an extra")
    for name in ("mlflow", "tensorboard")
]  # imported by the worker that runs these tests alone


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """The address of an MLflow store whose tables are made."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory that was written by hand: two epochs of three steps."""
    path = tmp_path / "runs/made/20260101-000000-abcd"
    (path / "pictures/test").mkdir(parents=True)
    (path / "config.yaml").write_text(
        "name: made\nseed_everything: 3\nmodel: {optimizer: {init_args: {lr: 0.1}}}\n"
    )
    write_whole(path / "environment.json", json.dumps({"overrides": [], "parameters": 7}))
    grow(path, 0, 6)
    Image.new("RGB", (8, 6), "red").save(path / "pictures/val.png")
    Image.new("RGB", (8, 6), "blue").save(path / "pictures/test/00001_image.jpg")
    return path


def grow(run: Path, first: int, end: int) -> None:
    """Log the rows of some steps."""
    logger = RunLogger(run)
    for step in range(first, end):
        logger.log_metrics({"train/loss": 1 / (step + 1), "epoch": step // 3}, step)
        if step % 3 == 2:
            logger.log_metrics(
                {"val/miou": step / 10, "val/iou/Sky (clear)": float("nan"), "epoch": step // 3}, step
            )


def finish(run: Path) -> None:
    scores = {"miou": 0.5, "iou": {"Sky (clear)": 0.5}}
    write_whole(run / "test.json", json.dumps({"protocol": {"classes": ["a"]}, "scores": scores}))


def has_all(
    run: Path, points: Counter, besides: set[str] = frozenset({"test/miou", "best/val/miou"})
) -> None:
    """Check that a tracker has every value of metrics.csv, and no other but the scores."""
    wanted = {(name.replace("(", "_").replace(")", "_"), step, value) for name, step, value in logged(run)}
    points = {(name.replace("(", "_").replace(")", "_"), step, value) for name, step, value in points}
    assert wanted <= points
    assert {name for name, _, _ in points - wanted} <= besides


def test_a_run_sent_twice_and_grown_in_between_is_there_once(run, store):
    where = MLflowSettings(uri=store, experiment="grown")
    for tracker in (TensorBoard, lambda path: MLflow(path, where)):
        assert export(tracker(run), run) == "8 rows, 2 pictures"
    grow(run, 6, 9)
    Image.new("RGB", (8, 6), "green").save(run / "pictures/val.png")
    finish(run)
    for _ in range(2):
        for tracker in (TensorBoard, lambda path: MLflow(path, where)):
            export(tracker(run), run)
    points, pictures, tags = in_tensorboard(run)
    has_all(run, points)
    assert max(Counter((n, s) for n, s, _ in points.elements() if n == "train/loss").values()) == 1
    assert {name: [step for step, _ in found] for name, found in pictures.items()} == {
        "val": [5, 8],
        "test/00001_image": [5],
    }
    assert pictures["val"][1][1] == (run / "pictures/val.png").read_bytes()
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info", "config/text_summary"} <= tags
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    points, steps, there = in_mlflow(store)["made/20260101-000000-abcd"]
    has_all(run, points)
    assert points["train/loss", 8, 0.111111] == 1 and points["test/miou", 8, 0.5] == 1
    assert steps == {"val": {5, 8}, "test/00001_image": {5}}
    assert (
        there.info.status == "FINISHED"
        and there.data.params["lr"] == "0.1"
        and there.data.params["seed"] == "3"
    )


def test_rows_that_a_run_took_back_are_nowhere(run, store):
    where = MLflowSettings(uri=store, experiment="rewound")
    run = run.rename(run.with_name("20260101-000001-abcd"))
    export(TensorBoard(run), run)
    export(MLflow(run, where), run)
    RunLogger(run).rewind(3)
    RunLogger(run).log_metrics({"train/loss": 9.0, "epoch": 1}, 3)
    finish(run)
    export(TensorBoard(run), run)
    export(MLflow(run, where), run)
    for points in (in_tensorboard(run)[0], in_mlflow(store)[f"made/{run.name}"][0]):
        has_all(run, points)
        assert ("train/loss", 4, 0.2) not in points and points["train/loss", 3, 9.0] == 1


def test_what_was_being_sent_when_the_program_was_killed_is_there_once(run, store, monkeypatch):
    run = run.rename(run.with_name("20260101-000002-abcd"))
    tracker = MLflow(run, MLflowSettings(uri=store, experiment="killed"))
    tracker.begin(read(run), rows_of(run))
    sent = tracker.client.log_batch

    def killed(*args, **kwargs):
        sent(*args, **kwargs)
        raise KeyboardInterrupt  # it has arrived, which nobody wrote down

    monkeypatch.setattr(tracker.client, "log_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        tracker.send(rows_of(run), [])
    time.sleep(0.01)
    grow(run, 6, 9)
    export(MLflow(run, tracker.settings), run)
    points = in_mlflow(store)[f"made/{run.name}"][0]
    has_all(run, points)
    assert set(points.values()) == {1}


class Flaky:
    """A tracker whose server is away, or silent, for a while."""

    name = "flaky"
    rewinds = False

    def __init__(self, failures: int, silence: float = 0) -> None:
        self.failures, self.silence = failures, silence
        self.rows: list = []
        self.pictures: list = []
        self.status = ""

    def begin(self, record, rows):
        time.sleep(self.silence)
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("refused\nmore")

    def send(self, rows, pictures):
        self.rows, self.pictures = rows, self.pictures + pictures

    def end(self, record, status, scores):
        self.status = status


def test_an_outage_costs_a_line_and_nothing_is_lost(run, capsys):
    tracker = Flaky(failures=2)
    with TrackerSync(tracker, run) as sync:
        for step in (3, 6):
            sync.update(step, step - 1)
        while tracker.failures > 0:
            sync.update(6, 5)
            time.sleep(0.01)
    assert str(tracker.rows) == str(rows_of(run)) and tracker.status == "finished"
    assert sorted(p.name for p in tracker.pictures) == ["test/00001_image", "val"]
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "flaky: off for now (ConnectionError: refused); all is in" in out


def test_training_never_waits_for_a_silent_server_and_its_end_only_so_long(run, capsys, monkeypatch):
    monkeypatch.setitem(TrackerSync.__init__.__globals__["_PATIENCE"], "stopped", 0.2)
    sync = TrackerSync(Flaky(failures=0, silence=3), run)
    began = time.monotonic()
    sync.update(6, 5)
    sync.finish("stopped")
    assert time.monotonic() - began < 1.5
    assert "not all is sent (it takes too long)" in capsys.readouterr().out


def test_rows_that_no_checkpoint_holds_wait(run):
    tracker = Flaky(failures=0)
    with pytest.raises(SystemExit), TrackerSync(tracker, run) as sync:
        sync.update(3, 2)
        raise SystemExit(143)
    assert {row.step for row in tracker.rows} == {0, 1, 2} and tracker.status == "stopped"


def test_a_package_that_is_missing_costs_a_line(run, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert open_trackers(run, ["wandb", "tensorboard", "mlflow"], MLflowSettings()) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["tensorboard", "mlflow"]
    assert "pip install mlflow" in lines[1] and f"lightning-seg sync --to mlflow {run}" in lines[1]


def train(arguments: list[str]) -> None:
    """Train in a process of its own."""
    main(arguments)


def test_a_run_killed_and_resumed_is_one_run_everywhere(tmp_path, store, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    Path("tiny.yaml").write_text(TINY.replace("pictures: {count: 0}", "pictures: {count: 1}"))
    options = ["--trainer.max_epochs=4", "--tracking=[tensorboard, mlflow]", "--trainer.log_every_n_steps=2"]
    process = start(
        train, ["exp", "tiny.yaml", *options, "--trainer.precision=32-true"], CUDA_VISIBLE_DEVICES=""
    )
    until = time.monotonic() + 120
    while not list(tmp_path.glob("runs/tiny/*/checkpoints/previous.ckpt")) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.join()
    (run,) = Path("runs/tiny").iterdir()
    assert main(["resume", str(run)]) == 0
    points, pictures, _ = in_tensorboard(run)
    has_all(run, points)
    assert max(Counter((n, s) for n, s, _ in points.elements() if n == "val/miou").values()) == 1
    validations = {step for name, step, _ in logged(run) if name == "val/miou"}
    assert {step for step, _ in pictures["val"]} == validations == {7, 15, 23, 31}
    points, steps, there = in_mlflow(store)[f"tiny/{run.name}"]
    has_all(run, points)
    assert steps.keys() == pictures.keys() and there.info.status == "FINISHED"
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert not (run / "wandb").exists()
    capsys.readouterr()
    assert main(["sync", "--to", "tensorboard", str(run)]) == 0
    assert "pictures" in capsys.readouterr().out
