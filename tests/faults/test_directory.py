"""Run directories: one each, in order whatever the clock does, and those of other versions."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from lightning_seg.errors import UserError
from lightning_seg.runs import directory
from lightning_seg.runs.directory import existing_run, new_run, write_whole

from .programs import experiment, here, only


def test_runs_that_start_in_the_same_second_have_directories_of_their_own(tmp_path):
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: new_run(tmp_path, "x"), range(40)))
    assert len(set(made)) == 40 and all(path.is_dir() for path in made)


def test_a_clock_that_jumps_back_does_not_change_which_run_is_the_latest(tmp_path, monkeypatch):
    class Clock(datetime):
        jump = timedelta(0)

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + cls.jump

    monkeypatch.setattr(directory, "datetime", Clock)
    made = []
    for hours in (0, -1, -30, 5, 4):
        Clock.jump = timedelta(hours=hours)
        made.append(new_run(tmp_path, "x"))
        (made[-1] / "config.yaml").touch()
        assert existing_run(tmp_path / "x") == made[-1]
    assert sorted(made) == made


def test_a_folder_that_cannot_be_written_is_one_short_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match="cannot create the run directory .*Not a directory; choose another with --runs"
    ):
        new_run(tmp_path / "file", "x")


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a file system that nobody may write")
def test_a_read_only_folder():
    with pytest.raises(
        UserError, match="Operation not permitted; choose another with --runs|Permission denied|Read-only"
    ):
        new_run(Path("/sys/kernel"), "x")


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "a.json", "old")
    (tmp_path / "a.json.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A run, as if another version had made it."""
    folder = experiment(tmp_path_factory.mktemp("old"))
    assert here(folder, "fit", "-c", "tiny.yaml", "--trainer.max_epochs=1") == 0
    run = only(folder / "runs/tiny")
    file = run / "environment.json"
    known = json.loads(file.read_text())
    known["packages"]["lightning_seg"], known["commit"] = "0.0.3", "0123456789abcdef"
    file.write_text(json.dumps(known))
    return folder, run


def test_a_run_of_an_older_version_with_a_setting_that_is_gone(old, capsys):
    folder, run = old
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["gone"] = 3
    whole = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for command in ("resume", "test"):
        assert here(folder, command, str(run)) == 2
        error = capsys.readouterr().err
        assert "gone" in error and "Traceback" not in error
        assert "was made by lightning_seg 0.0.3, commit 0123456789" in error
    (run / "config.yaml").write_text(whole)


def test_a_run_of_an_older_version_with_another_network(old, capsys):
    folder, run = old
    assert here(folder, "test", str(run), "--model.network.init_args.decoder_channels=[16,16,8,8,16]") == 2
    error = capsys.readouterr().err
    assert (
        "does not fit the network" in error
        and "size mismatch for decoder" in error
        and "Traceback" not in error
    )
    assert "was made by lightning_seg 0.0.3" in error


def test_a_disk_that_is_full_when_metrics_are_written(old, capsys):
    folder, run = old
    (run / "metrics.tmp").symlink_to("/dev/full")
    assert here(folder, "resume", str(run), "--trainer.max_epochs=2") == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and f"'lightning-seg resume {run}' continues" in error
    assert "Traceback" not in error
    (run / "metrics.tmp").unlink()


def test_synchronised_batch_norm_on_several_cpus_is_refused(old, capsys):
    folder, _ = old
    options = ("--trainer.sync_batchnorm=true", "--trainer.devices=2", "--name=sync")
    assert here(folder, "exp", "tiny.yaml", *options) == 2
    assert "trainer.sync_batchnorm: PyTorch has it on GPUs only" in capsys.readouterr().err
    assert not list((folder / "runs").glob("sync/*"))


def test_a_run_of_an_older_version_that_still_fits_goes_on(old):
    folder, run = old
    assert here(folder, "resume", str(run), "--trainer.max_epochs=2") == 0
    assert (run / "test.json").exists()
