"""Real jobs on a real SLURM: the same scores as here, whatever happens to the job."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.faults.programs import ROOT, experiment, only, result
from tests.processes import forked_python

from .cluster import Cluster, missing, slurm

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
PAUSE = "--trainer.callbacks=[{{class_path: tests.faults.saboteurs.Pause, init_args: {{place: training, step: {}}}}}]"
JOB = ("--launcher=slurm", "--slurm.partition=low", "--slurm.cpus_per_task=1", "--slurm.hours=0.5")


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder, Cluster(Path(folder)):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("slurm"))


def lightning_seg(folder, *arguments, **environment):
    """Run a command to its end and return what it said."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", **environment
    }  # fmt: skip
    command = [forked_python(), "-m", "lightning_seg", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def here(folder):
    """What the experiment gives without SLURM."""
    lightning_seg(folder, "exp", "tiny.yaml", "--name=here")
    return result(only(folder / "runs/here"))


def submit(folder, name, *options):
    """Submit the experiment as a job; return its id, its log and its run directory."""
    for file in ("paused", "noticed", "go"):
        (folder / file).unlink(missing_ok=True)
    said = lightning_seg(folder, "exp", "tiny.yaml", f"--name={name}", *JOB, *options)
    job = re.match(r"job (\d+), ", said).group(1)
    path = only(folder / "runs" / name)
    log = path / f"slurm/{job}_0_log.out"
    assert f"tail -F {log.relative_to(folder)}" in said and f"scancel --signal=INT {job}" in said
    print(said)
    return job, log, path


def wait(condition, log, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else slurm("squeue")
        time.sleep(0.2)


def go_on(folder, log):
    """Let a paused job continue, once the signal that was sent to it has arrived."""
    wait((folder / "noticed").exists, log)
    (folder / "go").touch()


def state(job):
    """Say what SLURM thinks of a job, and how often it was restarted."""
    shown = slurm("scontrol", "show", "job", job)
    return re.search(r"JobState=(\w+)", shown).group(1), int(re.search(r"Restarts=(\d+)", shown).group(1))


def test_a_job_gives_the_scores_of_a_run_here(cluster, folder, here):
    job, log, path = submit(folder, "job")
    wait(lambda: state(job)[0] in ("COMPLETED", "FAILED"), log)
    assert state(job) == ("COMPLETED", 0), log.read_text()
    assert result(path) == here


def test_a_preempted_job_saves_goes_back_into_the_queue_and_continues(cluster, folder, here):
    job, log, path = submit(folder, "preempted", PAUSE.format(4))
    wait((folder / "paused").exists, log)
    slurm("sbatch", "--partition=high", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 3")
    go_on(folder, log)
    wait(lambda: state(job)[0] in ("COMPLETED", "FAILED") and state(job)[1] == 1, log)
    text = log.read_text()
    print(text)
    assert state(job) == ("COMPLETED", 1)
    assert "stopped by SIGTERM after step 4" in text and f"job {job} goes back into the queue" in text
    assert "Traceback" not in text
    assert result(path) == here


def test_a_job_whose_time_is_up_does_too(cluster, folder, here):
    """The signal is the one that SLURM sends before the limit; the shortest limit is a minute."""
    job, log, path = submit(folder, "timeout", PAUSE.format(4))
    wait((folder / "paused").exists, log)
    assert "#SBATCH --signal=USR2@120" in next((path / "slurm").glob("*.sh")).read_text()
    slurm("scancel", "--signal=USR2", job)
    go_on(folder, log)
    wait(lambda: state(job)[0] in ("COMPLETED", "FAILED") and state(job)[1] == 1, log)
    assert "stopped by SIGUSR2 after step 4" in log.read_text()
    assert result(path) == here


def test_an_interrupted_job_saves_and_does_not_come_back(cluster, folder, here):
    job, log, path = submit(folder, "interrupted", PAUSE.format(4))
    wait((folder / "paused").exists, log)
    slurm("scancel", "--signal=INT", job)
    go_on(folder, log)
    wait(lambda: state(job)[0] not in ("RUNNING", "COMPLETING"), log)
    assert state(job) == ("FAILED", 0) and "stopped by SIGINT after step 4" in log.read_text()
    lightning_seg(folder, "resume", str(path))
    assert result(path) == here


def test_a_cancelled_job_does_not_come_back_and_can_be_continued(cluster, folder, here):
    """With luck it saves; srun kills its tasks as soon as it gets the signal, too."""
    job, log, path = submit(folder, "cancelled", PAUSE.format(4))
    wait((folder / "paused").exists, log)
    slurm("scancel", job)
    (folder / "go").touch()
    wait(lambda: state(job)[0] == "CANCELLED", log)
    wait(lambda: job not in slurm("squeue", "--noheader", "--format=%i").split(), log)
    assert state(job) == ("CANCELLED", 0)
    lightning_seg(folder, "resume", str(path))
    assert result(path) == here


def test_a_job_that_slurm_refuses_leaves_nothing(cluster, folder, capfd):
    with pytest.raises(AssertionError, match="without any: --trainer.accelerator=cpu"):
        lightning_seg(folder, "exp", "tiny.yaml", "--name=refused", *JOB, "--trainer.accelerator=auto")
    assert not list((folder / "runs").glob("refused/*"))


def test_one_task_for_each_device(cluster, folder):
    job, log, path = submit(folder, "two", "--trainer.devices=2", PAUSE.format(2))
    wait((folder / "paused").exists, log)
    slurm("scancel", "--signal=USR2", job)
    go_on(folder, log)
    wait(lambda: state(job)[0] in ("COMPLETED", "FAILED") and state(job)[1] == 1, log)
    text = log.read_text()
    assert state(job) == ("COMPLETED", 1), text
    assert "8 = 4 x 2 device(s)" in text
    lightning_seg(folder, "exp", "tiny.yaml", "--name=two-here", "--trainer.devices=2")
    assert result(path) == result(only(folder / "runs/two-here"))
