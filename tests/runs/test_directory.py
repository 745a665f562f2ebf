"""What is said about a run directory can be typed."""

import shlex

import pytest

from lightning_seg.runs.directory import resume_command


@pytest.mark.parametrize("run", ["runs/a/1", "my runs/a/1", "runs/it's/1", "runs/$x/1"])
def test_the_command_that_continues_a_run_can_be_typed_whatever_its_name(run):
    said = resume_command(run, "--nonfinite.action=skip")
    command = said[1:-1] if said.startswith("'") else said
    assert shlex.split(command) == ["lightning-seg", "resume", run, "--nonfinite.action=skip"]
