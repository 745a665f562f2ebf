"""Experiments are found by name or by path."""

import pytest

from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file


def test_no_experiments_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run from the repository"):
        experiment_file("quickstart")


def test_experiment_may_be_a_path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.touch()
    assert experiment_file(str(file)) == file
