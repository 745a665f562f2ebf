"""What a run logs without W&B."""

import json

from lightning_seg.runs.csv_logger import RunLogger
from lightning_seg.runs.directory import ENVIRONMENT


def test_what_the_data_decided_joins_the_environment(tmp_path):
    logger = RunLogger(tmp_path)
    (tmp_path / ENVIRONMENT).write_text('{"commit": "abc"}')
    logger.log_hyperparams({"class_weights/balanced": {"road": 0.5, "car": 2.0}})
    expected = {"commit": "abc", "class_weights/balanced": {"road": 0.5, "car": 2.0}}
    assert json.loads((tmp_path / ENVIRONMENT).read_text()) == expected


def test_a_continued_run_keeps_its_curves_and_gains_columns(tmp_path):
    RunLogger(tmp_path).log_metrics({"a": 1}, 0)
    again = RunLogger(tmp_path)
    again.log_metrics({"a": 2, "b": 3}, 1)
    again.log_metrics({"b": 4}, 2)
    rows = [
        {"step": "0", "a": "1", "b": ""},
        {"step": "1", "a": "2", "b": "3"},
        {"step": "2", "a": "", "b": "4"},
    ]
    assert again.rows() == rows
    again.rewind(1)
    assert RunLogger(tmp_path).rows() == rows[:1]
