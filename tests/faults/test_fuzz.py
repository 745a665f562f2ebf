"""A small part of what `fuzz.py` tries; the whole is a command of its own."""

import pytest

from lightning_seg.errors import UserError
from lightning_seg.experiment.files import read_settings

from .fuzz import fuzz_experiments, fuzz_files


def test_damaged_experiment_files_are_refused_with_a_message_or_obeyed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcomes, findings = fuzz_experiments(60, 11, tmp_path)
    assert not findings and outcomes["refused"] > 20 and outcomes["accepted"] > 0


def test_damaged_images_are_refused_with_a_message_or_read_as_they_were(tmp_path):
    outcomes, findings = fuzz_files(200, 11, tmp_path)
    assert not findings and sum(outcomes.values()) == 200
    assert sum(number for name, number in outcomes.items() if "refused" in name) > 100


def test_a_file_that_unfolds_without_end_is_refused(tmp_path):
    """Ten references to ten references ...: a kilobyte that becomes gigabytes."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    (tmp_path / "self.yaml").write_text("a: &a [*a]")
    (tmp_path / "twice.yaml").write_text("model:\n  lr: 1\n  lr: 2\n")
    (tmp_path / "deep.yaml").write_text("[" * 5000 + "]" * 5000)
    for name, message in (
        ("laughs", "line 1: these references unfold to more than 100000 values"),
        ("self", "refers to itself"),
        ("twice", "twice.yaml, line 3: 'lr' stands there a second time"),
        ("deep", "deep.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            read_settings(tmp_path / f"{name}.yaml")
