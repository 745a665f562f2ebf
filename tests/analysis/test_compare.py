"""Runs are grouped, ranked and refused as they should be, and every table says the same."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from lightning_seg.analysis import tables
from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.groups import group_runs
from lightning_seg.cli import main as cli
from lightning_seg.errors import UserError
from lightning_seg.metrics.objects import PanopticQuality
from lightning_seg.runs.directory import CONFIG, ENVIRONMENT, TEST_IMAGES, TEST_SCORES
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


def test_images_that_a_limit_left_out_of_the_test_count_for_nothing(tmp_path):
    for seed in range(3):
        for name, shift in (("plain", 0.0), ("good", 0.05)):
            counts = simulate(np.random.default_rng([seed, len(name)]), shift, images=6)
            make_run(tmp_path / "few", name, seed, counts=counts)
            padded = np.zeros((20, *counts.shape[1:]), int)
            padded[3:9] = counts  # as another process would score them
            make_run(tmp_path / "limited", name, seed, counts=padded, protocol={"images": 6})
    few, limited = (compare([tmp_path / folder]).sections[0].rows() for folder in ("few", "limited"))
    for name in ("score", "low", "high", "difference", "difference_low", "difference_high"):
        assert [row[name] for row in limited] == pytest.approx([row[name] for row in few], nan_ok=True)
    assert "6 images" in compare([tmp_path / "limited"]).sections[0].sample.images


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
    assert {g.name for g in found} == {"a lr 0.1", "a lr 0.2", "b SGD", "b Adam", "c"}
    assert {len(g.records) for g in found} == {2}
    assert remarks == []


def test_group_by_a_setting(tmp_path):
    paths = [
        make_run(tmp_path, name, seed, lr=lr)
        for seed, (name, lr) in enumerate([("a", 1), ("b", 1), ("b", 2)])
    ]
    records = [read(path) for path in paths]
    assert {g.name: len(g.records) for g in group_runs(records, ["lr"])[0]} == {"lr 1": 2, "lr 2": 1}
    assert [g.name for g in group_runs(records, ["optimizer"])[0]] == ["SGD"]
    assert {g.name for g in group_runs(records, ["experiment"])[0]} == {"a", "b"}
    assert {g.name for g in group_runs(records, ["optimizer", "lr"])[0]} == {"SGD lr 1", "SGD lr 2"}
    with pytest.raises(UserError, match="did you mean lr"):
        group_runs(records, ["lrr"])
    make_run(
        tmp_path, config={"data": {"init_args": {"gamma": 1}}, "model": {"loss": {"init_args": {"gamma": 1}}}}
    )
    with pytest.raises(UserError, match="may mean data.gamma, model.loss.gamma"):
        group_runs([*records, *(read(p) for p in tmp_path.glob("unet/*"))], ["gamma"])


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


@pytest.mark.parametrize(("limit", "told"), [(2, True), (0.5, True), (1.0, False), (None, False)])
def test_the_limit_that_left_images_out_is_named(tmp_path, limit, told):
    whole = make_run(tmp_path, "a", config={"trainer": {"limit_test_batches": 0.1}})  # of its training alone
    some = make_run(tmp_path, "b", protocol={"images": 1}, config={"trainer": {"limit_test_batches": limit}})
    with pytest.raises(UserError) as error:
        compare([whole, some])
    said = f"limit_test_batches left images out of {some}: 'lightning-seg test {some}' scores all"
    assert (said in str(error.value)) == (said in compare([tmp_path]).remarks[0]) == told
    assert f"out of {whole}" not in str(error.value)


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
    assert "good is the best" in out and "plain is" in out and "mIoU worse than good, 95 % CI" in out
    assert len({line.index("%") for line in out.splitlines() if line.startswith("rank")}) == 1


def test_csv_holds_what_the_section_says(runs):
    comparison = compare([runs])
    rows = list(csv.DictReader(io.StringIO(tables.csv(comparison))))
    runs_of = [row for row in rows if row["level"] == "run"]
    assert len(runs_of) == 9 and {row["seed"] for row in runs_of} == {"0", "1", "2"}
    rows = [row for row in rows if row["level"] == "group"]
    mean = np.mean([float(row["score"]) for row in runs_of if row["experiment"] == "good"])
    assert mean == pytest.approx(float(rows[0]["score"]))
    for row, expected in zip(rows, comparison.sections[0].rows(), strict=True):
        assert row["experiment"] == expected["experiment"]
        for key in ("score", "low", "high", "std"):
            assert float(row[key]) == pytest.approx(expected[key])
        assert float(row["class/class 1"]) == pytest.approx(expected["classes"]["class 1"])
    assert rows[0]["difference"] == "" and float(rows[1]["difference"]) < 0


def test_names_do_no_harm(tmp_path):
    make_run(tmp_path, "a_b|c&d#1")
    comparison = compare([tmp_path])
    assert r"a\_b\|c&d#1" in tables.markdown(comparison)
    assert r"a\_b|c\&d\#1" in tables.latex(comparison)


def test_one_run_each_gives_no_verdict_in_any_format(tmp_path):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", shift=0.3)
    comparison = compare([tmp_path])
    (section,) = comparison.sections
    assert section.ranks == [None, None] and not section.judged
    assert section.rows()[1]["verdict"] == "differs on these images; another seed may change it"
    assert np.isnan(section.rows()[1]["p"]) and section.class_sentence(1) == ""
    for layout in (tables.text, tables.markdown, tables.latex, tables.csv):
        told = layout(comparison).replace(tables.EXPLANATION, "").lower()
        assert "another seed may change it" in told
        assert not any(word in told for word in ("better", "worse", "is the best", "rank "))
    assert "95 % over images" in tables.text(comparison) and "seeds each would settle" in tables.text(
        comparison
    )


def network(**changes):
    """Settings of a run; ``lr``, ``backbone``, ``loss``, ``finetune``, ``precision``, ``callbacks`` may be changed."""
    model = {
        "network": {
            "class_path": "lightning_seg.networks.unet.UNet",
            "init_args": {"backbone": changes.get("backbone", "resnet34"), "weights": True},
        },
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": changes.get("lr", 1e-3)}},
        "loss": changes.get("loss") and {"class_path": f"lightning_seg.training.losses.{changes['loss']}"},
        "finetune": changes.get("finetune") and {"class_path": f"policies.{changes['finetune']}"},
    }
    trainer = {"precision": changes.get("precision", "32-true"), "callbacks": changes.get("callbacks")}
    return {"model": model, "trainer": trainer}


def ad_hoc(folder):
    """Runs as they come about in a week: one base with three seeds, and ideas tried once."""
    for seed in range(3):
        make_run(folder, "unet_camvid", seed, config=network())
    for changes in (
        {"lr": 1e-4},
        {"lr": 1e-2},
        {"backbone": "resnet50"},
        {"loss": "DiceLoss"},
        {"finetune": "Frozen"},
    ):
        make_run(folder, "unet_camvid", 0, config=network(**changes))


def test_names_say_what_is_different(tmp_path):
    ad_hoc(tmp_path)
    (section,) = compare([tmp_path]).sections
    named = {group.name for group in section.groups}
    assert named == {"unet_camvid", "lr 1e-4", "lr 0.01", "resnet50", "Dice", "Frozen"}
    assert section.settings == [
        "model.network.backbone",
        "model.finetune",
        "model.loss",
        "model.optimizer.lr",
    ]
    base = next(row for row in section.rows() if row["experiment"] == "unet_camvid")
    assert (
        list(base["settings"].values()) == ["resnet34", "Full", "CrossEntropy", "1e-3"] and base["seeds"] == 3
    )
    for layout in (tables.text, tables.markdown, tables.csv, tables.latex):
        assert all(word in layout(compare([tmp_path])) for word in ("CrossEntropy", "Full", "finetune"))


def test_logging_and_automatic_precision_make_no_other_group(tmp_path):
    monitor = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
    stopping = {"class_path": "lightning_seg.callbacks.early_stopping.EarlyStopping"}
    make_run(tmp_path, seed=0, config=network())
    make_run(tmp_path, seed=1, config=network(precision="bf16-mixed", callbacks=[monitor]))
    make_run(tmp_path, seed=2, config=network() | {"wandb": {"mode": "offline"}, "slurm": {"hours": 3}})
    (group,) = compare([tmp_path]).sections[0].groups
    assert group.seeds == 3 and "precision (32-true / bf16-mixed)" in group.remark
    chosen = make_run(tmp_path, seed=3, config=network(precision="bf16-mixed"))
    (chosen / ENVIRONMENT).write_text('{"command": ["exp", "x", "--trainer.precision=bf16-mixed"]}')
    make_run(tmp_path, seed=4, config=network(callbacks=[monitor, stopping]))
    assert len(compare([tmp_path]).sections[0].groups) == 3


def test_groups_that_differ_in_more_than_they_are_grouped_by_say_so(tmp_path):
    ad_hoc(tmp_path)
    (section,) = compare([tmp_path], ["finetune"]).sections
    sizes = {group.name: (len(group.records), group.seeds) for group in section.groups}
    assert sizes == {"Full": (7, 3), "Frozen": (1, 1)}
    assert "The runs of Full also differ in backbone, loss, lr" in section.remark
    assert "7 and 1 runs" in section.sentence(1)
    assert len(compare([tmp_path], ["loss,lr"]).sections[0].groups) == 4


def test_runs_can_be_chosen(tmp_path):
    ad_hoc(tmp_path)
    make_run(tmp_path, "tagged", config=network() | {"wandb": {"tags": ["paper"]}})
    assert len(compare([tmp_path], where=["lr=1e-3"]).records) == 7
    assert len(compare([tmp_path], where=["lr=0.001", "loss=dice"]).records) == 1
    assert names(compare([tmp_path], tags=["paper"])) == [["tagged"]]
    for wrong in ({"where": ["lr=5"]}, {"where": ["lr"]}, {"tags": ["nothing"]}, {"metric": "nonsense"}):
        with pytest.raises(UserError, match=r"--(where|tag|metric)"):
            compare([tmp_path], **wrong)
    top = compare([tmp_path], top=2)
    assert len(list(csv.DictReader(io.StringIO(tables.csv(top))))) < 8 and "2 of 7 groups" in top.remarks[-1]
    assert top.sections[0].comparisons == 21
    renamed = compare([tmp_path], rename={"unet_camvid": "U-Net", "lr": "rate"}).sections[0]
    assert {"U-Net", "U-Net rate 1e-4"} <= {group.name for group in renamed.groups}
    with pytest.raises(UserError, match="one name"):
        compare([tmp_path], rename={"unet_camvid Dice": "x", "unet_camvid Frozen": "x"})


def test_rows_can_be_sorted(tmp_path):
    ad_hoc(tmp_path)
    comparison = compare([tmp_path])
    values = [row["settings"]["model.optimizer.lr"] for row in tables.ordered(comparison.sections[0], "lr")]
    assert values == ["1e-4", "1e-3", "1e-3", "1e-3", "1e-3", "0.01"]
    rows = tables.ordered(comparison.sections[0], "-images_per_second")
    speeds = [row["images_per_second"] for row in rows]
    assert speeds == sorted(speeds, reverse=True)
    with pytest.raises(UserError, match="--sort nothing"):
        tables.text(comparison, "nothing")


def with_scores(run, **scores):
    test = json.loads((run / TEST_SCORES).read_text())
    test["scores"] |= scores
    (run / TEST_SCORES).write_text(json.dumps(test))


def test_other_metrics(tmp_path):
    for seed in range(3):
        for i, name in enumerate(("a", "b")):
            with_scores(
                make_run(tmp_path, name, seed), mask_ap=0.3 + 0.1 * i + 0.01 * seed, hd95=10.0 * i + seed
            )
    (section,) = compare([tmp_path]).sections  # objects are compared by average precision
    assert section.measure.name == "mask_ap" and section.groups[0].name == "b"
    assert section.rows()[0]["score"] == pytest.approx(41) and "cover other seeds only" in section.remark
    assert section.rows()[1]["verdict"] == "worse" and section.rows()[1]["interval_covers"] == "seeds"
    (section,) = compare([tmp_path], metric="hd95").sections
    assert [group.name for group in section.groups] == ["a", "b"] and section.ranks == [1, 2]
    assert "b is 10.0 hd95 worse than a" in section.sentence(1)
    (dice,) = compare([tmp_path], metric="dice").sections
    assert dice.sample.value.shape == (2, 4) and dice.measure.title == "Dice %"
    assert dice.sample.value[0, 0] >= dice.sample.value[1, 0]
    (speed,) = compare([tmp_path], metric="images_per_second").sections
    assert speed.rows()[0]["score"] > 25


def test_average_precision_has_an_interval_over_images_where_runs_recorded_it(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        for i, name in enumerate(("a", "b")):
            run = make_run(tmp_path, name, seed)
            with_scores(run, mask_ap=0.3 + 0.2 * i + 0.01 * seed)
            with np.load(run / TEST_IMAGES) as file:
                arrays = dict(file)
            left_out = 0.3 + 0.2 * i + rng.normal(0, 0.002, 20)
            np.savez_compressed(run / TEST_IMAGES, **arrays, mask_ap_left_out=left_out)
    (section,) = compare([tmp_path]).sections
    assert section.measure.name == "mask_ap" and section.rows()[0]["interval_covers"] == "images and seeds"
    assert "2 seeds, 20 images" in section.sentence(1) and "seeds only" not in section.remark
    assert section.sample.difference(0, 1).images[0] > 0


def segments(rng, quality, images=20, classes=3):
    """Draw what each image adds to panoptic quality: up to four segments of each class, most of them found."""
    there = rng.integers(0, 5, (images, classes))
    found = rng.binomial(there, quality)
    iou = found * rng.uniform(0.6, 0.9, found.shape)
    return np.stack([iou, found, rng.binomial(2, 0.3, found.shape), there - found], -1)


def test_panoptic_quality_has_paired_intervals_for_each_class(tmp_path):
    fields = {"segments": "SegmentRules()", "things": ["class 1", "class 2"]}
    counts = {}
    for name, quality in (("eomt", 0.9), ("unsure", 0.4)):
        for seed in (0, 1, 2):
            run = make_run(tmp_path, name, seed, protocol=fields)
            rows = counts[name, seed] = segments(np.random.default_rng([len(name), seed]), quality)
            with np.load(run / TEST_IMAGES) as file:
                arrays = dict(file)
            np.savez_compressed(run / TEST_IMAGES, **arrays, panoptic=rows)
            values = PanopticQuality().scores(rows)
            things = float(values["pq_per_class"][1:].mean())
            with_scores(run, **{k: values[k] for k in ("pq", "sq", "rq")}, pq_things=things, mask_ap=0.5)
    section = compare([tmp_path]).sections[0]
    first = section.rows()[0]
    assert (
        section.measure.label == "PQ"
        and first["experiment"] == "eomt"
        and first["interval_covers"] == "images and seeds"
    )
    per_class = np.mean(
        [PanopticQuality().scores(counts["eomt", s])["pq_per_class"] for s in (0, 1, 2)], axis=0
    )
    assert [*first["classes"].values()] == pytest.approx(100 * per_class)
    # The jackknife of the difference by hand, of one seed each: images left out of both at once.
    left = [
        [PanopticQuality().scores(np.delete(counts[g, 0], i, 0))["pq"] for i in range(20)]
        for g in ("eomt", "unsure")
    ]
    by_hand = 19 / 20 * ((d := np.subtract(*left)) - d.mean()) @ (d - d.mean())
    one_each = compare([min((tmp_path / g).iterdir()) for g in ("eomt", "unsure")]).sections[0]
    assert one_each.sample.difference(0, 1).images[0] == pytest.approx(by_hand)
    assert "class 0" in section.class_sentence(1) and "PQ %" in tables.text(compare([tmp_path]))
    things = compare([tmp_path], metric="pq_things").sections[0]
    assert things.measure.label == "PQ of things"
    assert (
        things.rows()[0]["score"] == pytest.approx(100 * per_class[1:].mean())
        and things.sample.images == "20 images"
    )


def test_neighbors_are_left_out_together_where_the_data_set_says_so(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        for name in ("a", "b"):
            counts = simulate(rng, images=60, true=np.random.default_rng(1).gamma(2, 500, (60, 3)).round())
            make_run(tmp_path, name, seed, counts=counts, protocol={"sequence": seed == 0})
    (section,) = compare([tmp_path]).sections
    assert "60 images in 10 blocks of neighbors" in section.sentence(1)
    (section,) = compare([tmp_path], block=1).sections
    assert section.sample.images == "60 images"


def test_trials_of_a_search_are_counted_and_not_listed(runs):
    for seed in range(3):
        make_run(runs, "searches/lr", seed, tested=False)
    found = compare([runs])
    assert found.remarks == ["3 trials of searches/lr not tested, as is meant"]
    make_run(runs, "searches/lr", 3)  # one was tested, because somebody asked
    assert "searches/lr" in {name for section in names(compare([runs])) for name in section}


def test_images_of_one_patient_are_left_out_together(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        for name in ("a", "b"):
            run = make_run(tmp_path, name, seed, counts=simulate(rng, images=60))
            if seed == 0:  # the other was tested by an earlier version
                with np.load(run / TEST_IMAGES) as file:
                    np.savez(run / TEST_IMAGES, **file, groups=np.arange(60) % 15)
    (section,) = compare([tmp_path]).sections
    assert "60 images in 15 blocks" in section.sentence(1)


def test_means_over_different_numbers_of_classes_say_so(tmp_path):
    counts = simulate(np.random.default_rng(0))
    counts[:, 2] = 0
    other = counts.copy()
    other[0, 2, 1] = 5  # predicted, though it is nowhere
    make_run(tmp_path, "a", counts=counts)
    make_run(tmp_path, "b", counts=other)
    (section,) = compare([tmp_path]).sections
    assert "means are over different numbers of classes" in section.remark and "a 2, b 3" in section.remark
    make_run(tmp_path, "b", 1, counts=counts)  # runs of one group may differ in it, too
    make_run(tmp_path, "a", 1, counts=counts)
    assert "a 2, b 2 / 3" in compare([tmp_path]).sections[0].remark


def test_every_group_of_mixed_code_is_named(tmp_path):
    for name in "abcdefg":
        for seed in range(2):
            facts = make_run(tmp_path, name, seed) / ENVIRONMENT
            facts.write_text(json.dumps(json.loads(facts.read_text()) | {"commit": str(seed) * 7}))
    (section,) = compare([tmp_path]).sections
    known = [group.name for group in section.groups]
    assert f"The runs of {known[4]} differ in commit (0000000 / 1111111)." in section.remark
    assert f"So do runs within {known[5]}, {known[6]}, in the same or other things." in section.remark


def test_many_groups_are_ranked_by_the_intervals_that_are_shown(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        for seed in range(3):
            counts = simulate(rng, -0.004 * i, images=60, seed_noise=0.005, true=np.full((60, 3), 900.0))
            make_run(tmp_path, f"e{i:02d}", seed, counts=counts)
    (section,) = compare([tmp_path]).sections
    rows = section.rows()
    assert rows[-1]["rank"] > 1 and rows[-1]["verdict"] == "worse"
    for row in rows[1:]:
        outside = row["difference_high"] < 0 or row["difference_low"] > 0
        assert outside == (row["verdict"] == "worse") == (row["p"] < 0.05) and (
            not outside or row["rank"] > 1
        )
        assert 0 <= row["low"] <= row["score"] <= row["high"] <= 100
    assert section.summary.startswith("Contenders for the best: e0")
    assert [i for i in section.differences] == list(range(1, 12))  # the contenders first


@pytest.mark.parametrize("arguments", [["--color"], ["--csv", "--latex"], ["--block", "two"], ["nowhere"]])
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
