"""What a job is before SLURM has it; jobs on a real SLURM are in tests/slurm."""

import pytest

from lightning_seg.cli.exp import main
from lightning_seg.errors import UserError
from tests.faults.programs import ROOT

pytest.importorskip("submitit", reason="needs the extra slurm")


@pytest.fixture
def job(tmp_path):
    """An experiment as a job, and the folder of its runs."""
    file = str(ROOT / "experiments/quickstart.yaml")
    return [file, "--launcher=slurm", f"--runs={tmp_path}/runs", "--trainer.devices=2"], tmp_path / "runs"


def test_the_plan_of_a_job_is_its_script_and_nothing_is_submitted(job, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/bin")  # a machine without SLURM
    arguments, runs = job
    main([*arguments, "--plan", "--slurm.partition=gpu", "--slurm.options={constraint: a100}"])
    script = capsys.readouterr().out
    for line in (
        "partition=gpu",
        "ntasks-per-node=2",
        "constraint=a100",
        f"output={runs}/quickstart/<id>/slurm/",
    ):
        assert f"#SBATCH --{line}" in script
    assert not runs.exists()
    with pytest.raises(UserError, match="--launcher slurm"):
        main([arguments[0], "--plan"])


def test_a_job_that_sbatch_refuses_leaves_nothing_and_says_so_once(job, tmp_path, monkeypatch, capfd):
    arguments, runs = job
    for program in ("sbatch", "srun"):
        (tmp_path / program).write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
        (tmp_path / program).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(UserError, match="could not be submitted: no such partition"):
        main(arguments)
    assert "no such partition" not in "".join(capfd.readouterr())
    assert not [*runs.iterdir()]
