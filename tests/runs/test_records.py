"""Run directories are read whatever state they are in; what is wrong with one is said and harms no other."""

import json
import math
import shutil

import numpy as np
import pytest
import yaml

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG, METRICS, TEST_IMAGES, TEST_SCORES
from lightning_seg.runs.records import find, read
from tests.runs.made_runs import make_run, simulate


def test_a_tested_run(tmp_path):
    counts = simulate(np.random.default_rng(0))
    run = make_run(tmp_path, "unet", seed=3, counts=counts)
    record = read(run)
    assert (record.experiment, record.id, record.seed) == ("unet", run.name, 3)
    assert (record.status, record.problem, record.time) == ("tested", "", "2026-11-21 07:53")
    assert record.tags == ["first"]
    assert np.array_equal(record.counts, counts)
    assert record.image_names[:2] == ("test_0000", "test_0001")
    hit, predicted, true = counts.sum(0).T
    assert record.score("miou") == pytest.approx(np.mean(hit / (predicted + true - hit)))
    assert math.isnan(record.score("no_such_score"))


def test_a_copied_run_keeps_its_experiments_name(tmp_path):
    run = make_run(tmp_path / "runs", "study/variant")
    moved = tmp_path / "from the cluster" / "x"
    shutil.copytree(run, moved)
    assert read(run).experiment == read(moved).experiment == "study/variant"
    (moved / CONFIG).write_text("seed_everything: 1")  # of no name
    assert read(moved).experiment == "from the cluster"


def test_settings_are_what_makes_the_experiment(tmp_path):
    one, other = read(make_run(tmp_path, seed=0)), read(make_run(tmp_path, seed=1))
    assert one.everything["data.init_args.root"] != other.everything["data.init_args.root"]
    assert one.settings == other.settings
    assert one.settings["model.optimizer.init_args.lr"] == 0.01
    assert one.settings["effective_batch_size"] == 16
    assert read(make_run(tmp_path, lr=0.02)).settings != one.settings


def test_curves(tmp_path):
    curves = read(make_run(tmp_path, rows=3)).curves()
    assert "val/iou/disc" not in curves  # of one class
    np.testing.assert_allclose(curves["train/loss"], [[0, 0, 1], [10, 1, 1 / 2], [20, 2, 1 / 3]])
    np.testing.assert_allclose(curves["val/loss"][:, 2], [2, 1, 2 / 3])


@pytest.mark.filterwarnings("error")
def test_the_training_is_summed_up_over_epochs_that_were_timed(tmp_path):
    run = make_run(tmp_path)
    (run / METRICS).write_text("step,train/images_per_second\n9,32\n19,0\n19,0\n29,64\n")  # batches of 16
    assert read(run).training == (30 * 16, 30, 10 * 16 / 32 + 10 * 16 / 64)


@pytest.mark.parametrize("last", ["30,0.2", "30,0.2,3,,0.", "3", '30,"0.2', "30,0.2,3,,e-", "\x00"])
def test_a_line_that_was_being_written(tmp_path, last):
    run = make_run(tmp_path, rows=3)
    with (run / METRICS).open("a") as file:
        file.write(last)
    curves = read(run).curves()
    np.testing.assert_allclose(curves["train/loss"][:3, 2], [1, 1 / 2, 1 / 3])
    assert len(curves["val/loss"]) == 3


def test_not_tested_yet(tmp_path):
    run = make_run(tmp_path, tested=False)
    (run / METRICS).unlink()
    record = read(run)
    assert (record.status, record.problem, record.curves()) == ("not tested", "", {})


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (CONFIG, "model: [", "config.yaml cannot be read"),
        (CONFIG, "just text", "config.yaml is not a mapping"),
        (CONFIG, None, "no config.yaml"),
        (TEST_SCORES, '{"protocol": {', "test.json cannot be read"),
        (TEST_SCORES, '{"miou": 1}', "test.json has no protocol or no scores"),
        (TEST_SCORES, b"\xff\xfe\x00", "test.json cannot be read"),
        ("environment.json", "[]", "environment.json is not a mapping"),
    ],
)
def test_broken_files_are_named(tmp_path, file, content, says):
    run = make_run(tmp_path)
    if content is None:
        (run / file).unlink()
    elif isinstance(content, bytes):
        (run / file).write_bytes(content)
    else:
        (run / file).write_text(content)
    record = read(run)
    assert record.status == "broken"
    assert says in record.problem and "\n" not in record.problem


def damage_nothing_there(file):
    file.unlink()


def damage_cut_short(file):
    file.write_bytes(file.read_bytes()[:-100])


def damage_no_names(file):
    np.savez(file, counts=np.zeros((2, 3, 3)))


def damage_of_another_test(file):
    np.savez(
        file, counts=simulate(np.random.default_rng(9), 0.1), names=np.array([str(i) for i in range(20)])
    )


DAMAGES = [damage_nothing_there, damage_cut_short, damage_no_names, damage_of_another_test]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_unusable_counts_say_what_to_do(tmp_path, damage):
    run = make_run(tmp_path)
    damage(run / TEST_IMAGES)
    with pytest.raises(UserError, match="test"):
        read(run).counts  # noqa: B018


def test_tags_given_later_replace_those_of_the_configuration(tmp_path):
    run = make_run(tmp_path)
    (run / "tags.json").write_text(json.dumps(["good", "final"]))
    assert read(run).tags == ["good", "final"]
    (run / "tags.json").write_text("{")
    assert read(run).tags == ["first"]


def test_find(tmp_path):
    runs = [make_run(tmp_path / "runs", name) for name in ("b", "a", "a")]
    inner = runs[0] / "wandb" / "offline-run" / "files"
    inner.mkdir(parents=True)
    (inner / CONFIG).write_text(yaml.safe_dump({}))  # as W&B has it: no run
    started = tmp_path / "runs" / "a" / "20270101-000000-abcd"  # failed at once: empty
    started.mkdir()
    everything = [runs[1], runs[2], started, runs[0]]
    assert find([tmp_path / "runs"]) == everything
    assert find([tmp_path / "runs" / "a"]) == everything[:3]
    assert find([runs[0], tmp_path / "runs"]) == [runs[0], *everything[:3]]
    with pytest.raises(UserError, match="no folder"):
        find([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no runs in"):
        find([tmp_path / "empty"])
