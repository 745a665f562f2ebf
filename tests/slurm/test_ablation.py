"""An ablation as an array of real jobs."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.faults.programs import ROOT, experiment, only
from tests.processes import forked_python

from .cluster import Cluster, missing, slurm

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

PAUSE = {"class_path": "tests.faults.saboteurs.Pause", "init_args": {"place": "training", "step": 4}}


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder, Cluster(Path(folder)):
        yield


def ablation(folder, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [forked_python(), "-m", "lightning_seg", "ablation", "study.yaml", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, slurm("squeue")
        time.sleep(0.2)


@pytest.mark.slow
def test_an_array_of_jobs(cluster, tmp_path):
    """Slow because it makes two real runs, one of them in two lives: SLURM says that its time is nearly up."""
    experiment(tmp_path)
    variants = {"plain": {}, "pausing": {"trainer.callbacks": [PAUSE]}}
    study = {"experiment": "tiny.yaml", "seeds": 1, "baseline": "plain", "variants": variants}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    options = ("--launcher=slurm", "--jobs=2", "--slurm.cpus_per_task=1", "--slurm.hours=0.5")
    said = ablation(tmp_path, *options)
    array = said.split("SLURM jobs ")[1].split("_")[0]
    assert f"{array}_0 to {array}_1, 2 at a time" in said
    wait((tmp_path / "paused").exists)
    assert "nothing to run" in ablation(tmp_path, "--plan", "--variants=pausing")  # it is running
    slurm("scancel", "--signal=USR2", f"{array}_1")
    wait((tmp_path / "noticed").exists)
    (tmp_path / "go").touch()
    wait(lambda: len(list(tmp_path.glob("runs/study/*/*/test.json"))) == 2)
    wait(lambda: not slurm("squeue", "--noheader"))
    log = (tmp_path / "runs/study/logs/pausing-seed0.log").read_text()
    assert "stopped by SIGUSR2 after step" in log and "lightning-seg resume" in log
    only(tmp_path / "runs/study/pausing")  # one run, continued in place
    assert "done" in (answer := ablation(tmp_path)) and "pausing" in answer.split("rank")[1]
