"""An ablation as an array of real jobs."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.faults.programs import ROOT, experiment, only, result, run
from tests.processes import forked_python
from tests.studies.test_ablation import kill_children
from tests.studies.test_tuning_killed import progress, scores

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


def runs_in(folder):
    """List the runs of a folder. One that was killed before it wrote its settings has left no more than its folder."""
    return [file.parent for file in folder.glob("*/config.yaml")]


RATES = {"tune": {"model.optimizer.init_args.lr": [3e-3, 1e-5]}}
SGD = {"model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}}
TUNED = {
    "experiment": "tiny.yaml",
    "seeds": 2,
    "baseline": "adam",
    "settings": {"checkpointing.every_n_steps": 3},
    "variants": {"adam": RATES, "sgd": SGD | RATES},
}


@pytest.mark.slow
def test_a_tuned_study_that_is_killed_five_times_gives_the_answer_of_one_that_is_not(cluster, tmp_path):
    """Slow because of its sixteen real runs, half of them as jobs, of which some live twice."""
    experiment(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TUNED, sort_keys=False))
    run(tmp_path, "ablation", "study.yaml", "--runs=whole", seconds=1800, OMP_NUM_THREADS="1")
    logs = tmp_path / "runs/study/logs"

    def submit():
        said = ablation(
            tmp_path, "--launcher=slurm", "--jobs=2", "--slurm.cpus_per_task=1", "--slurm.hours=0.5"
        )
        return said.split("SLURM jobs ")[1].split("_")[0]

    def until_so_far(number):
        """Wait for so many beginnings, checkpoints and tests of runs: 8 of those that choose, and then 12."""
        wait(lambda: len(progress(tmp_path)) >= number, 1800)

    def until_nothing_is_left():
        wait(lambda: not slurm("squeue", "--noheader"), 1800)

    array = submit()
    until_so_far(1)
    kill_children(logs)  # the training alone: its job comes back by itself
    until_so_far(3)
    slurm("scancel", array)  # the array: the job that waits for it submits what is missing
    until_so_far(6)
    slurm("scancel", "--name=study-next")  # that job: nobody submits the second phase
    until_nothing_is_left()
    submit()
    for number, signal in ((11, "KILL"), (15, "TERM")):
        until_so_far(number)
        slurm("scancel", "--user=root", f"--signal={signal}", "--full")  # all that there is
        slurm("scancel", "--user=root")
        until_nothing_is_left()
        kill_children(logs)
        submit()
    until_nothing_is_left()
    assert "nothing to run" in (said := ablation(tmp_path)) and "lr 3e-3" in said
    assert scores(tmp_path / "whole") == scores(tmp_path / "runs")
    for variant in ("adam", "sgd"):
        one, other = (runs_in(tmp_path / runs / "study" / variant) for runs in ("whole", "runs"))
        assert sorted(map(str, map(result, one))) == sorted(map(str, map(result, other)))
    assert len([*tmp_path.glob("runs/study/tuning/*/*/config.yaml")]) == 4  # continued in place
