"""Runs are grouped, ranked and refused as they should be, and every table says the same."""

import csv
import io
import subprocess
import sys

import numpy as np
import pytest

from lightning_seg.analysis import tables
from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.groups import group_runs
from lightning_seg.cli import main as cli
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG
from lightning_seg.runs.records import read
from tests.runs.made_runs import make_run, simulate


def names(comparison):
    return [[group.name for group in section.groups] for section in comparison.sections]


@pytest.fixture
def runs(tmp_path):
    """Three experiments of three seeds: one clearly better, two the same."""
    folder = tmp_path / "runs"
    for seed in range(3):
        make_run(folder, "good", seed, shift=0.2)
        make_run(folder, "plain", seed)
        make_run(folder, "other", seed)
    return folder


def test_ranks_stop_at_the_noise(runs):
    (section,) = compare([runs]).sections
    assert [group.name for group in section.groups][0] == "good"
    assert section.ranks == [1, 2, 2]
    assert [row["verdict"] for row in section.rows()] == ["reference", "worse", "worse"]
    assert section.rows()[1]["difference"] == pytest.approx(-20, abs=2)
    assert section.comparisons == 3


def test_a_baseline(runs):
    (section,) = compare([runs], baseline="plai").sections
    assert section.groups[section.reference].name == "plain"
    verdicts = {row["experiment"]: row["verdict"] for row in section.rows()}
    assert verdicts == {"good": "better", "plain": "reference", "other": "not distinguishable"}
    assert section.comparisons == 2
    with pytest.raises(UserError, match="nothing is called that; choose one of good"):
        compare([runs], baseline="nobody")
    with pytest.raises(UserError, match="several are called that"):
        compare([runs], baseline="o")


def test_groups_differ_by_what_is_in_their_names(tmp_path):
    momentum = {
        "model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}}
    }
    adam = {"model": {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, "eps": 1e-8}}}}
    for seed in range(2):
        make_run(tmp_path, "a", seed, lr=0.1)
        make_run(tmp_path, "a", seed, lr=0.2)
        make_run(tmp_path, "b", seed, config=momentum)
        make_run(tmp_path, "b", seed, config=adam)
        make_run(tmp_path, "c", seed, lr=0.1)
    found, remarks = group_runs([read(path) for path in tmp_path.glob("*/*")])
    assert {g.name for g in found} == {"a lr=0.1", "a lr=0.2", "b optimizer=SGD", "b optimizer=Adam", "c"}
    assert {len(g.records) for g in found} == {2}
    assert remarks == []


def test_group_by_a_setting(tmp_path):
    paths = [
        make_run(tmp_path, name, seed, lr=lr)
        for seed, (name, lr) in enumerate([("a", 1), ("b", 1), ("b", 2)])
    ]
    records = [read(path) for path in paths]
    assert {g.name: len(g.records) for g in group_runs(records, "lr")[0]} == {"lr=1": 2, "lr=2": 1}
    assert [g.name for g in group_runs(records, "optimizer")[0]] == ["optimizer=SGD"]
    assert {g.name for g in group_runs(records, "experiment")[0]} == {"a", "b"}
    with pytest.raises(UserError, match="did you mean lr"):
        group_runs(records, "lrr")
    make_run(tmp_path, config={"data": {"init_args": {"lr": 1}}})
    with pytest.raises(UserError, match="may mean model.optimizer.init_args.lr, data.init_args.lr"):
        group_runs([*records, *(read(p) for p in tmp_path.glob("unet/*"))], "lr")


def test_a_repeated_run_is_not_another_seed(tmp_path):
    old, new = make_run(tmp_path, seed=0), make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1)
    comparison = compare([tmp_path])
    (group,) = comparison.sections[0].groups
    assert old not in [record.path for record in group.records] and len(group.records) == 2
    assert comparison.remarks == [f"{old} is left out: {new} repeats its settings and seed"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("split", "val", r"differ in split \(test / val\)"),
        ("resolution", "513x513", r"differ in resolution \(original / 513x513\)"),
        ("test_time_augmentation", "flip", r"differ in test_time_augmentation \(none / flip\)"),
        ("ignore_index", 0, r"differ in ignore_index \(255 / 0\)"),
        ("classes", ["x", "y", "z"], r"differ in classes \(\[class 0, class 1, class 2\] / \[x, y, z\]\)"),
    ],
)
def test_runs_of_different_protocols_are_refused(tmp_path, field, value, says):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", protocol={field: value})
    with pytest.raises(UserError, match=says):
        compare([a, b])
    comparison = compare([tmp_path])  # a folder: each protocol by itself
    assert sorted(names(comparison)) == [["a"], ["b"]]
    assert field in comparison.remarks[0]
    assert names(compare([a, b], across=[field])) in ([["a", "b"]], [["b", "a"]])


def test_the_same_protocol_on_other_pixels_is_refused(tmp_path):
    rng = np.random.default_rng(1)
    a = make_run(tmp_path, "a")
    b = make_run(tmp_path, "b", counts=simulate(rng, true=rng.gamma(2, 500, (20, 3)).round()))
    with pytest.raises(UserError, match="differ in true pixels"):
        compare([a, b])
    first, second = compare([tmp_path]).sections
    assert first.title != second.title
    with pytest.raises(UserError, match="images"):
        compare([a, make_run(tmp_path, "c", counts=simulate(rng, images=5))])


def test_broken_runs_are_named_and_left_out(runs):
    broken = make_run(runs, "broken")
    (broken / CONFIG).write_text("{")
    training = make_run(runs, "training", tested=False)
    no_counts = make_run(runs, "old")
    (no_counts / "test_images.npz").unlink()
    comparison = compare([runs])
    assert len(comparison.sections) == 1 and len(comparison.sections[0].groups) == 3
    remarks = "\n".join(comparison.remarks)
    assert f"{broken} is broken: config.yaml cannot be read" in remarks
    assert f"{training} is not tested" in remarks
    assert f"'lightning-seg test {no_counts}' writes it" in remarks
    with pytest.raises(UserError, match="no tested run to compare"):
        compare([training])


def test_text(runs, capsys):
    assert cli.main(["compare", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "Shapes test: 20 images, 3 classes, resolution original, test time augmentation none" in out
    assert "good is" not in out and "plain is" in out and "mIoU worse than good, 95 % CI" in out
    assert len({line.index("%") for line in out.splitlines() if line.startswith("rank")}) == 1


def test_csv_holds_what_the_section_says(runs):
    comparison = compare([runs])
    rows = list(csv.DictReader(io.StringIO(tables.csv(comparison))))
    for row, expected in zip(rows, comparison.sections[0].rows(), strict=True):
        assert row["experiment"] == expected["experiment"]
        for key in ("miou", "low", "high", "std"):
            assert float(row[key]) == pytest.approx(expected[key])
        assert float(row["iou/class 1"]) == pytest.approx(expected["iou"]["class 1"])
    assert rows[0]["difference"] == "" and float(rows[1]["difference"]) < 0


def test_names_do_no_harm(tmp_path):
    make_run(tmp_path, "a_b|c&d#1")
    comparison = compare([tmp_path])
    assert r"a\_b\|c&d#1" in tables.markdown(comparison)
    assert r"a\_b|c\&d\#1" in tables.latex(comparison)


def test_one_run_each_is_said_to_be_little(tmp_path):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b")
    for layout in (tables.text, tables.markdown, tables.latex):
        assert "the intervals do not cover other seeds" in layout(compare([tmp_path]))


@pytest.mark.parametrize("arguments", [["--colour"], ["--csv", "--latex"], ["--block", "two"], ["nowhere"]])
def test_wrong_arguments(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_no_torch(runs, tmp_path):
    code = "import sys; from lightning_seg.cli.main import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    for arguments in (
        ["compare", str(runs), "--html", str(tmp_path / "x.html")],
        ["runs", "list", str(runs)],
    ):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
