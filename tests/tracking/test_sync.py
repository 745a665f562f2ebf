"""W&B's logs are read as wandb reads them, mended without loss, and what the server refuses is said and sent again."""

import os
import time

import pytest

from lightning_seg.cli import main as cli
from lightning_seg.runs.directory import CONFIG
from lightning_seg.tracking.transaction_log import mend, read_log, write_log
from lightning_seg.tracking.wandb_run import WandbSettings
from tests.tracking.fake_wandb import KEY, FakeWandb
from tests.tracking.wandb_logs import read, sync


def make(run_dir, mode="offline"):
    """Log a run with an artifact and a row that spans several blocks of the log; return the log."""
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "best.ckpt").write_text("weights")
    (run_dir / CONFIG).touch()
    with WandbSettings(mode=mode).start(run_dir, {"lr": 1}) as run:
        logger = run.logger
        logger.log_metrics({"val/miou": 0.5, "long": "x" * 100_000}, 0)
        for step in range(1, 50):
            logger.log_metrics({"val/miou": 0.5, "odd": "y" * (37 * step % 1000)}, step)
        logger.finalize("success")
    (log,) = run_dir.glob("wandb/*run-*/*.wandb")
    return log


def plain(records):
    return [record.SerializeToString(deterministic=True) for record in records]


def test_a_log_is_read_and_written_as_wandb_does(home, tmp_path):
    log = make(tmp_path / "e" / "id")
    records = list(read_log(log))
    theirs = read(log)
    assert [record.WhichOneof("record_type") for record in records] == [record["type"] for record in theirs]
    copy = tmp_path / "copy.wandb"
    write_log(copy, records)
    assert plain(read_log(copy)) == plain(records)
    assert read(copy) == theirs
    whole = log.read_bytes()
    for length in (len(whole) - 1, len(whole) - 40, 40_000, 8):  # killed while it wrote
        log.write_bytes(whole[:length])
        part = list(read_log(log))
        assert plain(part) == plain(records)[: len(part)] and len(part) < len(records)
    log.write_bytes(whole[:5000] + b"?" + whole[5001:])
    assert len(list(read_log(log))) < len(records)
    log.write_bytes(b"else")
    with pytest.raises(ValueError, match="is no log of W&B"):
        list(read_log(log))


def test_mending_changes_the_paths_of_files_and_nothing_else(home, tmp_path):
    log = make(tmp_path / "e" / "id")
    before, content = list(read_log(log)), log.read_bytes()
    assert mend(log, tmp_path / "e" / "id") == [] and log.read_bytes() == content
    moved = (tmp_path / "e" / "id").rename(tmp_path / "elsewhere")
    log = moved / log.relative_to(tmp_path / "e" / "id")
    assert mend(log, moved) == []
    after = list(read_log(log))
    kinds = [record.WhichOneof("record_type") for record in before]
    for kind, old, new in zip(kinds, before, after, strict=True):
        if kind == "artifact":
            (entry,) = new.artifact.manifest.contents
            assert entry.local_path == str(moved / "checkpoints" / "best.ckpt")
            entry.local_path = old.artifact.manifest.contents[0].local_path
        assert old == new
    (moved / "checkpoints" / "best.ckpt").unlink()
    assert mend(log, moved) == ["model model-id"]
    (moved / "checkpoints" / "best.ckpt").write_text("other weights")
    assert mend(log, moved) == ["model model-id"]
    assert [r.WhichOneof("record_type") for r in read_log(log)] == [
        kind for kind in kinds if kind != "artifact"
    ]


def test_what_is_refused_is_said_and_sent_again(home, tmp_path, monkeypatch):
    make(tmp_path / "e" / "id")
    monkeypatch.chdir(tmp_path)
    with FakeWandb() as server:
        server.refused = {"CommitArtifact"}
        status, said = sync(server, tmp_path)
        assert status == 1 and "1 of 1 artifacts are missing" in said and "tries them again" in said
        server.refused = set()
        status, said = sync(server, tmp_path)
        assert status == 0 and "rows 50, " in said and "artifacts 1: all arrived" in said
        assert len(server.runs["id"].history) == 50
        assert sync(server, tmp_path) == (0, "nothing to upload\n")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["e"]  # no logs beside it


def test_what_is_not_to_be_uploaded(server, tmp_path, capsys):
    make(tmp_path / "e" / "done", mode="online")
    log = make(tmp_path / "e" / "running", mode="offline")
    write_log(log, [record for record in read_log(log) if record.WhichOneof("record_type") != "exit"])
    capsys.readouterr()
    assert cli.main(["sync", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{tmp_path}/e/running: left alone, it may still be running", "nothing to upload"]
    old = time.time() - 3600
    os.utime(log, (old, old))  # its process was killed long ago
    del os.environ["WANDB_API_KEY"]
    assert cli.main(["sync", str(tmp_path)]) == 2
    assert "no W&B account known: type 'wandb login'" in capsys.readouterr().err


def test_a_server_that_cannot_be_reached_is_named(home, closed_port, tmp_path):
    make(tmp_path / "e" / "id")

    class Nowhere:
        url = closed_port

    os.environ |= {"WANDB_HTTP_TIMEOUT": "1", "WANDB_API_KEY": KEY}
    status, said = sync(Nowhere, tmp_path)
    assert status == 2 and "the W&B server cannot be reached" in said and closed_port in said
