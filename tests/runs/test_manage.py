"""Looking after runs deletes what was asked for, after asking, and nothing else."""

import io
import os
import time

import pytest

from lightning_seg.cli import main as cli
from lightning_seg.runs.records import read
from tests.runs.made_runs import make_run


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "runs")
    (run / "checkpoints").mkdir()
    for name in ("best", "last", "epoch=3"):
        (run / "checkpoints" / f"{name}.ckpt").write_bytes(b"0" * 2000)
    return run


class Terminal(io.StringIO):
    def isatty(self):
        return True


def answer(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", Terminal(f"{text}\n"))


def test_list(run, capsys):
    unfinished = make_run(run.parent.parent, "new", tested=False)
    assert cli.main(["runs", "list", str(run.parent.parent)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert f"{100 * read(run).score('miou'):.1f}" in lines[str(run)] and "kB" in lines[str(run)]
    assert "running?" in lines[str(unfinished)]  # its curves were written just now
    os.utime(unfinished / "metrics.csv", (0, 0))
    cli.main(["runs", "list", str(run.parent.parent), "--tag", "first"])
    assert "not tested" in capsys.readouterr().out
    cli.main(["runs", "list", str(run.parent.parent), "--tag", "second"])
    assert str(run) not in capsys.readouterr().out


def test_show(run, capsys):
    assert cli.main(["runs", "show", str(run)]) == 0
    out = capsys.readouterr().out
    assert cli.main(["runs", "show", str(run.parent)]) == 0  # an experiment stands for its latest run
    assert f"run         {run}" in capsys.readouterr().out
    assert "Shapes test, 20 images" in out and "  dice      0.5000" in out and "val/loss" in out


def test_tag(run, capsys):
    cli.main(["runs", "tag", str(run), "good", "first"])
    assert read(run).tags == ["first", "good"]
    cli.main(["runs", "tag", str(run), "--remove", "first"])
    assert read(run).tags == ["good"]
    assert cli.main(["runs", "tag", str(run), "--remove", "bad"]) == 2
    assert "has no tag bad; it has good" in capsys.readouterr().err
    earlier = run.rename(run.with_name("20200101-000000-0000"))
    later = make_run(run.parent.parent, run.parent.name)
    assert (
        cli.main(["runs", "tag", str(run.parent), "latest"]) == 0
    )  # an experiment stands for its latest run
    assert "latest" in read(later).tags and "latest" not in read(earlier).tags
    assert cli.main(["runs", "tag", str(run.parent.parent), "latest"]) == 2


@pytest.mark.parametrize(("reply", "gone"), [("y", True), ("n", False), ("", False)])
def test_delete_asks(run, monkeypatch, reply, gone):
    answer(monkeypatch, reply)
    assert cli.main(["runs", "delete", str(run)]) == (0 if gone else 2)
    assert run.exists() is not gone
    assert run.parent.exists() is not gone  # an experiment without runs is no more
    assert run.parent.parent.exists()


def test_delete_takes_runs_only(run, monkeypatch, capsys):
    answer(monkeypatch, "y")
    (run.parent / "link").symlink_to(run)
    for path in (run.parent, run.parent.parent, run / "checkpoints", run.parent / "link", run / "nothing"):
        assert cli.main(["runs", "delete", "--yes", str(path)]) == 2
    assert "is no run directory" in capsys.readouterr().err
    assert run.exists() and (run / "checkpoints" / "best.ckpt").exists()


def test_delete_says_why_it_takes_no_experiment(run, capsys):
    assert cli.main(["runs", "delete", "--yes", str(run.parent)]) == 2
    err = capsys.readouterr().err
    assert "is the folder of an experiment, not a run directory, and which of its runs" in err
    assert f"Name the run, such as {run}" in err and run.exists()


def test_a_run_that_cannot_be_deleted_is_named_whole(run, monkeypatch, capsys):
    def refused(path):
        raise PermissionError(13, "Permission denied", "curves.png")  # without its folder, as Python has it

    monkeypatch.setattr("shutil.rmtree", refused)
    assert cli.main(["runs", "delete", "--yes", str(run)]) == 2
    err = capsys.readouterr().err
    assert f"error: {run} cannot be deleted, or only in part: curves.png: Permission denied." in err


def test_delete_without_anyone_to_ask(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli.main(["runs", "delete", str(run)]) == 2
    assert "--yes" in capsys.readouterr().err and run.exists()
    assert cli.main(["runs", "delete", "--yes", str(run)]) == 0
    assert not run.exists()


def test_disk(run, capsys):
    cli.main(["runs", "disk", str(run.parent.parent)])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("all"))
    assert line.split()[:4] == ["all", "1", "6.0", "kB"]


def test_prune_keeps_the_best_and_what_may_go_on(run, monkeypatch, capsys):
    unfinished = make_run(run.parent.parent, "new", tested=False)
    (unfinished / "checkpoints").mkdir()
    for name in ("best", "last"):
        (unfinished / "checkpoints" / f"{name}.ckpt").write_bytes(b"0")
    folder = str(run.parent.parent)
    assert cli.main(["runs", "prune", folder]) == 0
    assert "no checkpoint but the best ones is older than 7 days" in capsys.readouterr().out
    old = time.time() - 8 * 86400
    for file in run.parent.parent.rglob("*.ckpt"):
        os.utime(file, (old, old))
    answer(monkeypatch, "y")
    assert cli.main(["runs", "prune", folder]) == 0
    assert [f.name for f in (run / "checkpoints").iterdir()] == ["best.ckpt"]
    assert len(list((unfinished / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("arguments", [["frob"], ["delete"], ["show", "nowhere"], ["list", "nowhere"]])
def test_wrong_arguments(arguments, capsys):
    assert cli.main(["runs", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")
