"""A real tuned ablation that is killed five times gives the answer of one that is not."""

import csv
import signal

import pytest
import yaml

from tests.faults.programs import Program, experiment, only, result, run
from tests.studies.test_ablation import kill_children

STUDY = {
    "experiment": "tiny.yaml",
    "seeds": 1,
    "baseline": "adam",
    "settings": {"checkpointing.every_n_steps": 3},
    "variants": {
        "adam": {"tune": {"model.optimizer.init_args.lr": [3e-3, 1e-6]}},
        "fast": {"model.optimizer.init_args.lr": 1e-2},
    },
}


@pytest.mark.slow
def test_killed_five_times_and_continued(tmp_path):
    """Slow because of its eight real runs, up to five of them started twice."""
    options = {"OMP_NUM_THREADS": "1"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    experiment(tmp_path)
    whole = run(tmp_path, "ablation", "study.yaml", "--runs=whole", seconds=900, **options)
    for _ in range(5):
        before = progress(tmp_path)
        runner = Program(tmp_path, "ablation", "study.yaml", **options)
        assert runner.until(lambda seen=before: progress(tmp_path) != seen, 600), runner.output
        runner.send(signal.SIGKILL)
        runner.wait()
        kill_children(tmp_path / "runs/study/logs")
    again = run(tmp_path, "ablation", "study.yaml", seconds=900, **options)
    assert "lr 3e-3" in whole and "lr 3e-3" in again
    for variant in ("adam", "fast"):
        one, other = (only(tmp_path / runs / "study" / variant) for runs in ("whole", "runs"))
        assert result(one) == result(other)
    assert len([*tmp_path.glob("runs/study/tuning/*/*/config.yaml")]) == 2  # continued in place
    assert {p.parent.parent.name for p in tmp_path.glob("runs/**/test.json")} == {"adam", "fast"}
    assert scores(tmp_path / "whole") == scores(tmp_path / "runs")


def progress(folder):
    """List what runs have written so far: their beginnings, their checkpoints, their tests."""
    names = ("config.yaml", "checkpoints/last.ckpt", "test.json")
    return {path for name in names for path in folder.glob(f"runs/study/**/{name}")}


def scores(runs):
    with (runs / "study/answer.csv").open() as file:
        return sorted((row["experiment"], row["seed"], row["score"]) for row in csv.DictReader(file))
