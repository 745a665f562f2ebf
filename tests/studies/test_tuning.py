"""A tuned ablation chooses settings by validation, with seeds of its own, and tests fresh runs once."""

import csv
import itertools
import pickle
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from lightning_seg.cli import ablation as command
from lightning_seg.cli.main import main
from lightning_seg.errors import UserError
from lightning_seg.studies import launch, slurm_jobs, study
from lightning_seg.studies import tuning as rules
from lightning_seg.studies.axes import cells
from lightning_seg.studies.plan import load
from lightning_seg.studies.study import Study
from lightning_seg.studies.tuning import (
    FIRST_SEED,
    beyond,
    brackets,
    edges,
    points,
    rank_at_rung,
    read_tuning,
)
from lightning_seg.studies.variant_tuning import _validations
from tests.studies import simulate_tuning
from tests.studies.made_study import LR, Learners, no_parser

GRID = {LR: [1e-4, 1e-3, 1e-2]}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    no_parser(monkeypatch)
    return tmp_path


def write(**content):
    variants = {"full": {}, "frozen": {"model.finetune": "Frozen"}}
    study = {"experiment": "base.yaml", "seeds": 2, "baseline": "full", "variants": variants, **content}
    Path("study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    Path("base.yaml").touch()
    return "study.yaml"


def run(monkeypatch, learners, *options):
    monkeypatch.setattr(launch, "run_here", learners)
    return main(["ablation", "study.yaml", *options])


def tuning(content, reported=(0, 1, 2)):
    return read_tuning(content, "study.yaml: tune", reported)


# What the YAML says


def test_the_short_form_is_a_grid_and_its_numbers_are_numbers():
    found = tuning({LR: ["1e-4", 0.001], "model.optimizer": [{"class_path": "torch.optim.SGD"}, "AdamW"]})
    assert found.is_grid and found.seeds == (FIRST_SEED,) and found.extend == 0
    assert [p.label for p in points(found)] == [
        "lr=0.0001-optimizer=SGD",
        "lr=0.0001-optimizer=AdamW",
        "lr=0.001-optimizer=SGD",
        "lr=0.001-optimizer=AdamW",
    ]
    assert points(found)[0].overrides == [
        f"--{LR}=0.0001",
        '--model.optimizer={"class_path": "torch.optim.SGD"}',
    ]


def test_the_long_form():
    found = tuning({"settings": GRID, "seeds": 2, "by": "val/dice", "extend": 1, "early_stop": "hyperband"})
    assert (found.seeds, found.by, found.extend, found.early_stop) == ((1000, 1001), "val/dice", 1, True)


def test_choices_of_one_name_are_told_apart():
    assert (
        len(
            {
                p.label
                for p in points(tuning({"a.b": [{"class_path": "X"}, {"class_path": "X", "init_args": 1}]}))
            }
        )
        == 2
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1], r"must be \{SETTING: \[VALUE"),
        ({LR: 3}, "needs a list of values, or a range"),
        ({LR: []}, "needs a list of values, or a range"),
        ({"settings": GRID, "sets": 1}, "there is no 'sets'; expected some of settings, seeds, by"),
        ({"settings": GRID, "seeds": [1000, 2]}, "seed 2 would both choose settings and be reported"),
        (
            {"settings": GRID, "by": "test/miou"},
            "a score of the validation split, such as val/miou, not test/miou",
        ),
        ({"settings": {LR: {"min": 1e-4, "max": 1e-2}}}, "say how many trials"),
        ({"settings": {LR: {"min": 1, "max": 0}}, "trials": 3}, "min must be below max"),
        (
            {"settings": {LR: {"min": 0, "max": 1, "distribution": "log_uniform_values"}}, "trials": 3},
            "above 0",
        ),
        ({"settings": GRID, "trials": 2, "extend": 1}, "extend goes beyond the edge of a whole grid"),
        ({"settings": GRID, "trials": "many"}, "trials must be a whole number"),
        ({"settings": GRID, "minutes": -1}, "minutes must be a number above 0"),
        ({"settings": GRID, "early_stop": "asha"}, "early_stop must be hyperband"),
        ({"settings": GRID, "goal": "less"}, "goal must be minimize or maximize, got 'less'"),
        ({"settings": GRID, "seeds": [1000, 1000]}, "each seed counts once"),
        ({LR: [0.1], "extend": 1}, "beside extend the settings stand under their own key"),
        (
            {"data.init_args.val_split": ["test", "val"]},
            "it says which images are trained on, choose and are",
        ),
        ({"data.init_args.fold": [0, 1]}, "data.init_args.fold cannot be tuned"),
        ({"seed_everything": [0, 1]}, "seeds are listed under tune's seeds"),
        (
            {"settings": {LR: {"min": 1e-5, "max": 0.1, "log": True}}, "trials": 3},
            "knows no 'log'.*distribution: log_uniform_values",
        ),
        ({"settings": {LR: {"min": 0, "max": 1, "q": 0.1}}, "trials": 3}, "distribution: q_uniform"),
        (
            {"settings": {LR: {"min": 0, "max": 1, "q": 0, "distribution": "q_uniform"}}, "trials": 3},
            "the step q must be above 0",
        ),
    ],
)
def test_a_wrong_tune_is_named(content, says):
    with pytest.raises(UserError, match=says):
        tuning(content)


def test_trials_that_the_whole_grid_does_not_need_are_a_grid():
    found = tuning({"settings": GRID, "seeds": 1, "by": "val/miou", "extend": 1, "trials": 12})
    assert found.is_grid and found.extend == 1 and len(points(found)) == 3


def test_what_looks_like_a_number_but_is_a_name_stays_one():
    found = tuning({"trainer.precision": ["32", "bf16-mixed"], LR: ["1e-4"]})
    assert found.settings == {"trainer.precision": ["32", "bf16-mixed"], LR: [1e-4]}


def test_trials_cover_their_ranges_evenly_and_are_always_the_same():
    ranges = {
        LR: {"min": "1e-5", "max": 1e-1, "distribution": "log_uniform_values"},
        "a.n": {"min": 1, "max": 4},
    }
    found = points(tuning({"settings": ranges, "trials": 16}))
    rates, numbers = (np.array([p.values[i][1] for p in found]) for i in (0, 1))
    assert np.histogram(np.log10(rates), 4, (-5, -1))[0].tolist() == pytest.approx([4] * 4, abs=1)
    assert {*numbers.tolist()} == {1, 2, 3, 4}
    assert (
        points(tuning({"settings": ranges, "trials": 5})) == found[:5]
    )  # more trials later keep the first ones


def test_edges_and_what_lies_beyond():
    found = tuning({LR: [1e-3, 1e-2], "wd": [0.0, 0.1, 0.2], "loss": ["a", "b"]})
    tried = points(found)
    best = next(p for p in tried if p.values == ((LR, 1e-2), ("wd", 0.0), ("loss", "b")))
    assert edges(found, tried, best) == {LR: True}  # below 0 there is nothing, and a name has no edge
    assert [p.values for p in beyond(found, tried, best)] == [((LR, 0.1), ("wd", 0.0), ("loss", "b"))]
    best = next(p for p in tried if p.values == ((LR, 1e-3), ("wd", 0.2), ("loss", "a")))
    assert [dict(p.values)[LR] for p in beyond(found, tried, best)] == [1e-4, 1e-3]
    assert [dict(p.values)["wd"] for p in beyond(found, tried, best)] == [0.2, 0.3]  # as evenly as before


def test_hyperband_compares_a_third_after_a_few_validations_and_the_others_later():
    given = brackets(9, 9)
    assert {*given} == {0, 1, 2} and given.count(0) >= given.count(1) >= given.count(2)
    others = [[0.5] * 9, [0.6] * 9]
    assert rank_at_rung([0.1], others, 0) == "3. of 3 after 1 validation"
    assert rank_at_rung([0.7], others, 0) == "" == rank_at_rung([0.1] * 2, others, 1)
    assert rank_at_rung([0.1, 0.1, 0.55], others, 1) == "2. of 3 after 3 validations"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"variants": {"full": {LR: 1e-4}, "frozen": {}}}, f"variant full sets {LR}, which tune chooses"),
        ({"variants": {"a": {"grid": {LR: [1e-4, 1e-3]}}}, "baseline": None}, "variant a-lr=0.0001 sets"),
        ({"variants": {"full": {"seed_everything": 3}}}, "'seeds' says which are reported"),
        (
            {"train_share": [0.5, 1], "settings": {"data.init_args.train_share": 0.1}},
            "'train_share' of the ablation sets",
        ),
        ({"seeds": 2.5}, "seeds must be a number of seeds"),
        ({"seeds": [0, 0]}, "seeds must be a number of seeds"),
        ({"seeds": 0}, "at least 1"),
        ({"seeds": True}, "seeds must be a number of seeds"),
        ({"block": "ten"}, "block must be a whole number of images, at least 1, got 'ten'"),
    ],
)
def test_what_would_be_passed_over_without_a_word_is_refused(workplace, content, says):
    with pytest.raises(UserError, match=says):
        load(write(**{"tune": GRID, **content}))


def test_a_variant_that_is_not_tuned_may_say_what_others_tune(workplace):
    own = {"full": {LR: 1e-4, "tune": None}, "frozen": {}}
    assert load(write(tune=GRID, variants=own)).variants["full"] == (f"--{LR}=0.0001",)


def test_names_that_are_numbers_and_shares_that_yaml_takes_for_text(workplace):
    found = load(write(variants={8: {}, 16: {}}, baseline=8, train_share=["5e-1", 1]))
    assert found.baseline == "8" and found.train_shares == (0.5, 1.0)


def test_cells_of_one_name_are_refused(workplace):
    with pytest.raises(UserError, match="would both be study/share0.5, in one folder"):
        cells(load(write(train_share=[0.5000001, 0.5])))


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (
            ("train+val", "val[:0.5]", "test"),
            r"10 of the 10 images of data.init_args.val_split=val\[:0.5\] are trained on",
        ),
        (
            ("train+val[0.6:]", "val[:0.5]", "val[0.5:]"),
            r"8 of the 10 images of data.init_args.test_split=val\[0.5:\] are",
        ),
        (("train", "val[:0.5]", "val[0.5:]"), ""),
    ],
)
def test_images_that_choose_or_are_tested_are_not_trained_on(splits, says):
    given = dict(zip(("train_split", "val_split", "test_split"), splits, strict=True))
    size = [f"--data.init_args.{key}={value}" for key, value in {**given, "val_images": 20}.items()]
    arguments = ["-c", "experiments/quickstart.yaml", *size]
    config = {"data": {"init_args": {**given, "fold": None}}}
    if says:
        with pytest.raises(UserError, match=says):
            study._refuse_test_images(arguments, config, "full")
    else:
        study._refuse_test_images(arguments, config, "full")


def test_training_images_do_not_choose():
    settings = {"data": {"init_args": {"train_split": "train+val", "val_split": "val", "test_split": "test"}}}
    with pytest.raises(UserError, match="the split val is trained on"):
        study._refuse_test_images((), settings, "full")


# The two phases


@pytest.mark.parametrize(
    ("by", "goal"),
    [
        ("val/hd95", {}),
        ("val/spread", {"goal": "minimize"}),
        ("val/spread/car", {"goal": "minimize"}),  # of one class
    ],
)
def test_less_may_be_better(workplace, monkeypatch, by, goal):
    class Distances(Learners):
        def make(self, slot):
            super().make(slot)
            rate = slot.config["model"]["optimizer"]["init_args"]["lr"]
            file = max(slot.home.glob("*/metrics.csv"))
            value = 5 if rate == 1e-3 else 15
            file.write_text(f"step,epoch,{by},train/images_per_second\n9,0,{value},100\n")

    write(tune={"settings": GRID, "by": by, **goal})
    run(monkeypatch, Distances(best={"full": -3, "frozen": -3}, top={"full": 0.4, "frozen": 0.4}))
    found = Study(load("study.yaml"), Path("runs")).chosen()
    assert {name: one.best.label for name, one in found.items()} == dict.fromkeys(found, "lr=0.001")
    assert len(found) == 2


def test_a_choice_without_a_number_is_the_worst_and_ends_no_variant(workplace, monkeypatch, capsys):
    class Diverging(Learners):
        def make(self, slot):
            super().make(slot)
            if slot.config["model"]["optimizer"]["init_args"]["lr"] == 1e-2 and "tuning" in slot.name:
                file = max(slot.home.glob("*/metrics.csv"))
                file.write_text("step,epoch,val/miou,train/images_per_second\n9,0,nan,100\n")

    write(tune=GRID)
    assert run(monkeypatch, Diverging(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})) == 0
    out = capsys.readouterr().out
    assert "full: 1 of 3 choices failed and counted as worst" in out and "lr 1e-3" in out


def test_where_nothing_can_be_chosen_the_reason_is_told(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    write(tune={"settings": GRID, "by": "val/miuo"})
    assert run(monkeypatch, learners) == 2
    assert "has no val/miuo to choose by; its validations have val/miou" in capsys.readouterr().err


def test_a_curve_that_no_run_has_stops_the_study_at_its_first_run(workplace, monkeypatch, capsys):
    class Untested(Learners):
        def __call__(self, slots, jobs, say):
            raise AssertionError("more runs are begun")

    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    write(tune={"settings": GRID, "by": "val/miuo"})
    (slot, *_) = Study(load("study.yaml"), Path("runs")).tuning_slots()
    assert not slot.unusable()
    learners.make(slot)
    assert "(tuning) has no val/miuo to choose by; its validations have val/miou: name one" in slot.unusable()
    assert run(monkeypatch, Untested(best={}, top={})) == 2
    assert "has no val/miuo to choose by" in capsys.readouterr().err
    write(tune={"settings": GRID, "by": "val/miou"})
    assert run(monkeypatch, learners) == 0 and learners.made.count(slot.name) == 1


def test_what_chooses_is_not_begun_anew_for_a_test_set(workplace):
    write(tune=GRID)
    slot, other, *_ = Study(load("study.yaml"), Path("runs")).tuning_slots()
    slot.log.parent.mkdir(parents=True)
    slot.give_up("3. of 3")
    other.fail("no memory")
    write(tune=GRID, settings={"test_sets.x": "{corruption: noise, severity: 3}"})
    for one in (slot, other):
        one.config["test_sets"] = {"x": {"corruption": "noise", "severity": 3}}
    assert slot.given_up == "3. of 3" and other.failure == "no memory"


def test_a_curve_that_one_variant_alone_lacks_takes_nothing_from_the_others(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    write(variants={"full": {"tune": GRID}, "frozen": {"tune": {"settings": GRID, "by": "val/miuo"}}})
    assert run(monkeypatch, learners) == 1
    out = capsys.readouterr().out
    assert "has no val/miuo to choose by" in out and "written to runs/study/answer.md" in out
    assert "full seed 0" in learners.made


def test_a_variant_that_lacks_what_is_tuned_is_told_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tune = {"model.loss.init_args.alpha": [0.1, 0.2]}
    variants = {"a": {"model.loss": "TverskyLoss"}, "b": {"model.loss": "CrossEntropy"}}
    write(experiment="quickstart", baseline="a", tune=tune, variants=variants)
    assert main(["ablation", "study.yaml", "--plan"]) == 2
    error = capsys.readouterr().err
    assert "variant b alpha=0.1" in error and "needs a 'tune' of its own, or 'tune: null'" in error


def test_a_variant_that_hardly_trains_at_any_choice_is_told_before_it_is_called_worse(
    workplace, monkeypatch, capsys
):
    write(tune=GRID)
    run(monkeypatch, Learners(best={"full": -3, "frozen": -3}, top={"full": 0.4, "frozen": 0.12}))
    out = capsys.readouterr().out
    assert (
        "Warning: at its best frozen has val/miou 0.1198, and full 0.3992: among what was tried it hardly trains"
        in out
    )
    assert "give it a tune of its own" in Path("runs/study/answer.md").read_text()


def test_as_many_validations_as_the_settings_say():
    def count(**trainer):
        return _validations({"trainer": trainer})

    assert count(max_epochs=12, check_val_every_n_epoch=3) == 4
    assert count(max_epochs=12, check_val_every_n_epoch=1, val_check_interval=0.25) == 48
    assert count(max_steps=100, check_val_every_n_epoch=None, val_check_interval=50) == 2
    assert (
        count(max_steps=100, check_val_every_n_epoch=None, val_check_interval=50, accumulate_grad_batches=4)
        == 8
    )
    assert count(max_steps=100, max_epochs=-1) == 27  # how long an epoch is nobody knows yet


def test_within_minutes_a_variant_of_which_nothing_trains_is_given_up(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    bad = {"tune": {"settings": {LR: {"min": 2, "max": 9}}, "minutes": 60}}
    write(variants={"full": {LR: 1e-3}, "frozen": bad})
    assert run(monkeypatch, learners) == 1
    assert len([name for name in learners.made if "tuning" in name]) == 3
    assert "frozen cannot be tuned: all 3 choices failed" in capsys.readouterr().out


def test_some_variants_and_other_seeds_of_a_tuned_ablation(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    write(tune=GRID)
    assert run(monkeypatch, learners, "--variants=frozen", "--seeds=5") == 0
    assert {name.split()[0] for name in learners.made} == {"frozen"}
    assert run(monkeypatch, learners, "--seeds=1000") == 2
    assert "--seeds: 1000 chooses settings, so it cannot be reported" in capsys.readouterr().err
    assert run(monkeypatch, learners, "--seed_everything=7") == 2
    assert "--seeds=0,1 says which seeds are reported" in capsys.readouterr().err


def test_who_chooses_anew_after_a_test_is_told_that_it_was_tested(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    write(tune={LR: [1e-4]})
    run(monkeypatch, learners)
    assert "had been tested before" not in capsys.readouterr().out
    write(tune=GRID)
    run(monkeypatch, learners)
    out = capsys.readouterr().out
    assert "full: 2 runs with other settings had been tested before" in out


def test_each_variant_gets_its_own_rate_and_the_test_sees_only_fresh_runs(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    write(tune=GRID)
    assert run(monkeypatch, learners, "--plan") == 0 and not learners.made
    assert "6 runs choose settings, then 2 variants x 2 seed(s) = 4 runs" in capsys.readouterr().out
    assert run(monkeypatch, learners) == 0
    out = capsys.readouterr().out
    assert len(learners.made) == 10 == len({*learners.made})
    assert [name for name in learners.made if "tuning" in name] == learners.made[:6]
    tested = {p.parent for p in Path("runs").rglob("test.json")}
    assert {p.parent.name for p in tested} == {"full", "frozen"} and len(tested) == 4
    answer = Path("runs/study/answer.md").read_text()
    for text in (out, answer):
        assert "lr 1e-3" in text and "lr 0.01" in text
        assert "mean over seed 1000; runs with the fresh seeds 0, 1" in text
        assert "Equal tuning budget: 3 runs for each variant." in text
        assert "frozen is best at the edge" in text and "A larger extend (now 0)" in text
    assert "| frozen | lr 0.01 |" in answer and "1,000" in answer and "2.00" in answer
    assert "answer-tuning.svg" in answer and Path("runs/study/answer-tuning.svg").exists()
    assert "How each variant was tuned" in Path("runs/study/answer.html").read_text()


def test_beyond_the_edge(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -6, "frozen": -3}, top={"full": 0.4, "frozen": 0.4})
    write(tune={"settings": GRID, "extend": 2})
    assert run(monkeypatch, learners) == 0
    out = capsys.readouterr().out
    assert "3 + 2 beyond" in out and "full is best at the edge of what was tried, lr 1e-6" in out
    assert "Tuning budgets are not equal, in runs: full 5, frozen 3." in out
    learners = Learners(best={"full": 2, "frozen": -3}, top={"full": 0.4, "frozen": 0.4})
    write(
        tune={"settings": {LR: [0.1, 1.0]}, "extend": 1},
        variants={"full": {}, "frozen": {"tune": None, LR: 0.01}},
    )
    assert run(monkeypatch, learners) == 1  # beyond 1 the loss is not finite
    out = capsys.readouterr().out
    assert "full: 1 of 3 choices failed and counted as worst" in out
    assert "Budgets are not equal: frozen was not tuned." in out
    assert learners.made.count("full lr=10.0 seed 1000 (tuning)") == 1  # and is not tried again unasked
    assert run(monkeypatch, learners, "--retry") == 1
    assert learners.made.count("full lr=10.0 seed 1000 (tuning)") == 2


def test_stopped_anywhere_and_repeated_it_gives_the_same_answer(workplace, monkeypatch):
    content = {"tune": {"settings": GRID, "seeds": 2, "extend": 1}, "seeds": 2}
    write(**content)
    best = {"best": {"full": -4, "frozen": -2.6}, "top": {"full": 0.4, "frozen": 0.35}}
    whole = Learners(**best)
    run(monkeypatch, whole)
    reference = scores(Path("runs/study/answer.csv"))
    total = len(whole.made)
    for number, stops in enumerate(([3, 0, 4, 1, 5], [total])):
        made = []
        for step in itertools.chain(stops, [None]):
            learners = Learners(**best, stop_after=step)
            try:
                run(monkeypatch, learners, "--runs=again")
            except KeyboardInterrupt:
                pass
            made += learners.made
        assert sorted(made) == sorted(whole.made)
        assert scores(Path("again/study/answer.csv")) == reference
        Path("again").rename(f"again-{number}")


def scores(file):
    names = ("level", "experiment", "seed", "score", "difference", "verdict")
    return sorted([row[name] for name in names] for row in csv.DictReader(file.open()))


def test_a_search_within_minutes_gives_slow_variants_fewer_trials(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -3}, top={"full": 0.4, "frozen": 0.4})
    ranges = {LR: {"min": 1e-5, "max": 1e-1, "distribution": "log_uniform_values"}}
    write(tune={"settings": ranges, "minutes": 1})  # a run takes 91 steps of 16 images, 100 a second
    assert run(monkeypatch, learners) == 0
    assert len([name for name in learners.made if name.startswith("full") and "tuning" in name]) == 5
    assert "Equal limit of tuning: 1 minute of training for each variant; spent: " in capsys.readouterr().out


def test_a_variant_that_cannot_be_tuned_does_not_stop_the_others(workplace, monkeypatch, capsys):
    learners = Learners(best={"full": -3, "frozen": -3}, top={"full": 0.4, "frozen": 0.4})
    write(variants={"full": {}, "frozen": {"tune": {LR: [2.0, 3.0]}}}, tune=GRID)
    assert run(monkeypatch, learners) == 1
    out = capsys.readouterr().out
    assert "frozen cannot be tuned: all 2 choices failed, the first by the loss is not finite" in out
    assert "full" in out.split("rank" if "rank" in out else "experiment")[1]


def test_a_tuned_setting_cannot_be_given_on_the_command_line(workplace):
    with pytest.raises(UserError, match="is tuned: take it from the command line"):
        Study(load(write(tune=GRID)), Path("runs"), [f"--{LR}=1"]).tuning_slots()


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (("val", "val"), "the split val is what the test scores"),
        (("train+val", "val"), "the split val is what"),
        (("val", "none"), "without a split none they are what"),
    ],
)
def test_images_that_will_be_tested_do_not_choose(splits, says):
    config = {"data": {"init_args": dict(zip(("val_split", "test_split"), splits, strict=True))}}
    with pytest.raises(UserError, match=says):
        study._refuse_test_images(("-c", "experiments/quickstart.yaml"), config, "full")


def test_waiting_for_another_runner(workplace, monkeypatch):
    """One runner holds a run that the choice waits for; the other waits and then goes on."""
    write(tune=GRID)
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    held = Study(load("study.yaml"), Path("runs")).tuning_slots()[0]
    log = held.lock()

    def sleep(seconds):
        learners.make(held)
        log.close()

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert run(monkeypatch, learners) == 0
    assert len(learners.made) == 10 == len({*learners.made})


def test_a_shared_rate_names_the_wrong_winner_and_tuning_the_right_one():
    """A few of the simulations of `simulate_tuning`, which makes a thousand."""
    found = simulate_tuning.shares(40)
    assert found["rate 1e-1 for both: wrong"] > 0.9 and found["rate 1e-3 for both: right"] > 0.9
    assert found["tuned: right"] > 0.5 and found["tuned: wrong"] == 0
    assert found["tuned, both equal: falsely certain"] <= 0.15


# Several experiments, several shares of the training images


def test_experiments_and_shares_are_answered_one_by_one_and_together(workplace, monkeypatch, capsys):
    for name in "ab":
        Path(f"{name}.yaml").touch()
    best, top = {"full": -3, "frozen": -3}, {"full": 0.3, "frozen": 0.1}
    learners = Learners(best, top)
    write(experiment=["a.yaml", "b.yaml"], train_share=[0.1, 1], tune={LR: [1e-3, 1e-2]}, seeds=2)
    assert run(monkeypatch, learners, "--plan") == 0
    assert "16 to run, 16 when their settings are chosen" in capsys.readouterr().out
    assert run(monkeypatch, learners) == 0
    out = capsys.readouterr().out
    assert {p.parent.name for p in Path("runs/study").glob("*/answer.md")} == {
        "a-share0.1", "a-share1", "b-share0.1", "b-share1"
    }  # fmt: skip
    text = Path("runs/study/answer.md").read_text()
    assert "full has the best mean rank; it keeps it in 4 of 4 cases" in text and "Kendall's tau 1.00" in text
    row = next(line for line in text.splitlines() if line.startswith("| full"))
    assert row.count("±") == 4 and row.endswith("| 1.00 | 1.00 | 1 to 1 |")
    assert "answer-labels.svg" in text and "b: mIoU" in Path("runs/study/answer-labels.svg").read_text()
    assert "(a-share0.1/answer.md)" in text and "All experiments together" in out


def test_a_wrong_axis_is_named(workplace):
    for wrong in ([0], [1, 1], 0.5, ["x"]):
        with pytest.raises(UserError, match="train_share a list of numbers above 0 and up to 1"):
            load(write(train_share=wrong))


# Giving up, and SLURM

FAKE = """
import json, pathlib, sys, time
options = dict(a.lstrip("-").split("=", 1) for a in sys.argv[2:] if "=" in a)
lr = float(options["model.optimizer.init_args.lr"])
run = pathlib.Path(options["runs"], options["name"], f"{time.time_ns()}")
run.mkdir(parents=True)
config = {"seed_everything": int(options["seed_everything"]), "model": {"optimizer": {"init_args": {"lr": lr}}}}
(run / "config.yaml").write_text(json.dumps(config))
curve = "step,epoch,val/miou\\n"
for i in range(9):
    curve += f"{i},{i},{lr}\\n"
    (run / "metrics.csv").write_text(curve)
    time.sleep(0 if lr > 0.5 else 30 * (i > 2))
(run / "environment.json").write_text(json.dumps({"trained": True}))
"""


def test_a_hopeless_run_is_given_up_and_its_choice_is_out(workplace, monkeypatch):
    Path("fake.py").write_text(FAKE)
    monkeypatch.setattr(launch, "PROGRAM", [sys.executable, "-S", "fake.py"])
    monkeypatch.setattr(launch, "_LOOK", 0.05)
    # The last is the best: however slowly it runs, it is not hopeless.
    tune = {"settings": {LR: [0.8, 0.1, 0.9]}, "early_stop": "hyperband", "seeds": 2}
    ablation = load(write(variants={"full": {}}, tune=tune))
    found = Study(ablation, Path("runs"))
    monkeypatch.setattr(rules, "brackets", lambda count, validations: [0] * count)
    lines = []
    while left := [s for s in found.tuning_slots() if s.state() in ("missing", "half done")]:
        launch.run_here(left[:1], 1, lines.append)
    states = {slot.name: slot.state() for slot in found.tuning_slots()}
    assert states["full lr=0.1 seed 1000 (tuning)"] == "given up"
    assert "full lr=0.1 seed 1001 (tuning)" not in states  # its other seed is not even begun
    assert any("given up after" in line and "2. of 2 after 3 validations" in line for line in lines)
    chosen = found.chosen()["full"]
    assert chosen.best.label == "lr=0.9" and [t.state for t in chosen.tried] == ["done", "given up", "done"]
    assert pickle.loads(pickle.dumps(found.tuning_slots()[0])).name  # a SLURM job takes it along


def test_slurm_gets_an_array_and_a_job_that_submits_what_waits_for_it(workplace, monkeypatch, capsys):
    arrays, after = [], []

    def submit(slots, jobs, say):
        arrays.append([slot.name for slot in slots])
        return [f"{len(arrays)}_{i}" for i in range(len(slots))]

    monkeypatch.setattr(slurm_jobs, "submit", submit)
    monkeypatch.setattr(slurm_jobs, "submit_after", lambda *given: after.append(given) or "7")
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    write(tune=GRID)
    assert run(monkeypatch, learners, "--launcher=slurm", "--jobs=2") == 0
    assert len(arrays[0]) == 6 and all("(tuning)" in name for name in arrays[0])
    config, folder, ids, arguments = after[0]
    assert ids == [f"1_{i}" for i in range(6)] and folder == Path("runs/study")
    assert arguments == ["ablation", "study.yaml", "--launcher=slurm", "--jobs=2"]
    for slot in Study(load("study.yaml"), Path("runs")).tuning_slots():
        learners.make(slot)
    assert run(monkeypatch, learners, *arguments[2:]) == 0  # what that job does
    assert len(arrays[1]) == 4 and not any("(tuning)" in name for name in arrays[1]) and len(after) == 1
    assert "SLURM job 7 looks at them when they are done" in capsys.readouterr().out


def test_a_choice_that_always_fails_holds_up_no_jobs_of_those_chosen(workplace, monkeypatch):
    arrays, after = [], []
    monkeypatch.setattr(
        slurm_jobs, "submit", lambda slots, *_: arrays.append([s.name for s in slots]) or ["1_0"]
    )
    monkeypatch.setattr(slurm_jobs, "submit_after", lambda *given: after.append(given[3]) or "7")
    write(tune={LR: [1e-3, 2]})  # 2 fails
    learners = Learners(best={"full": -3, "frozen": -2}, top={"full": 0.4, "frozen": 0.4})
    for slot in Study(load("study.yaml"), Path("runs")).tuning_slots():
        learners.make(slot)
    assert run(monkeypatch, learners, "--launcher=slurm", "--retry") == 0
    assert len(arrays[0]) == 2 and after == [["ablation", "study.yaml", "--launcher=slurm"]]
    assert run(monkeypatch, learners, "--launcher=slurm") == 0  # what that job does
    assert len(arrays[1]) == 4 and not any("(tuning)" in name for name in arrays[1])


def test_equal_time_goes_to_slurm_too_and_leaves_out_what_could_not_be_tuned(workplace, monkeypatch, capsys):
    arrays = []
    monkeypatch.setattr(
        slurm_jobs, "submit", lambda slots, *_: arrays.append([s.name for s in slots]) or ["1_0"]
    )
    write(variants={"full": {LR: 1e-3}, "frozen": {"tune": {LR: [2, 3]}}, "slow": {LR: 1e-4}})  # 2 and 3 fail
    learners = Learners(
        best=dict.fromkeys(("full", "frozen", "slow"), -3), top=dict.fromkeys(("full", "slow"), 0.4)
    )
    monkeypatch.setattr("lightning_seg.studies.plan._lengthened", lambda *_: ["--trainer.max_epochs=5"])
    assert run(monkeypatch, learners) == 1
    assert run(monkeypatch, learners, "--equal=time", "--launcher=slurm") == 0
    assert {name.split()[0] for name in arrays[-1]} == {"slow"} and len(arrays[-1]) == 2
    assert run(monkeypatch, learners, "--equal=time") == 1  # one variant cannot be tuned
    assert "answer-equal-time.md" in capsys.readouterr().out


def test_a_run_that_fails_again_is_tried_once_more_and_no_more(workplace, monkeypatch, capsys):
    class Failing(Learners):
        def make(self, slot):
            if slot.variant == "frozen":
                self.made.append(slot.name)
                slot.log.parent.mkdir(parents=True, exist_ok=True)
                slot.fail("the loss is not finite")
            else:
                super().make(slot)

    learners = Failing(best={"full": -3}, top={"full": 0.4})
    write(variants={"full": {LR: 1e-3}, "frozen": {LR: 1e-3}})
    assert run(monkeypatch, learners) == 1
    assert run(monkeypatch, learners, "--retry") == 1
    assert learners.made.count("frozen seed 0") == 2
    assert (
        "frozen seed 0 failed: the loss is not finite (runs/study/logs/frozen-seed0.log)"
        in capsys.readouterr().out
    )


def test_variants_that_ask_for_other_resources_are_arrays_of_their_own(workplace, monkeypatch):
    arrays, said = [], []

    @contextmanager
    def submission(folder, name, wanted, nodes, tasks, gpus, **more):
        jobs = []
        arrays.append((wanted.cpus_per_task, wanted.hours, gpus, jobs))
        yield SimpleNamespace(
            batch=nullcontext,
            submit=lambda job: SimpleNamespace(
                job_id=f"{len(arrays)}_{len(jobs)}", kept=jobs.append(job.slot.variant)
            ),
        )

    monkeypatch.setattr("lightning_seg.studies.slurm.submission", submission)
    write(
        variants={
            "full": {"slurm.hours": 9},
            "frozen": {"trainer.devices": 2, "trainer.accelerator": "gpu"},
            "small": {"slurm.hours": 9},
        }
    )
    slots = Study(load("study.yaml"), Path("runs")).slots()
    for slot in slots:
        slot.config["slurm"].setdefault("cpus_per_task", 4)
        slot.config["slurm"].setdefault("hours", 24)
    ids = slurm_jobs.submit(slots, 3, said.append)
    assert [array[:3] for array in arrays] == [(4, 9, 0), (8, 24, 2)] and len(ids) == len(slots) == 6
    assert [{*array[3]} for array in arrays] == [{"full", "small"}, {"frozen"}]
    assert len(said) == 2 and "3 at a time" in said[0]


def test_the_job_in_between_waits_for_the_array(workplace, monkeypatch):
    asked = {}

    @contextmanager
    def submission(folder, name, wanted, nodes, tasks, gpus):
        asked.update(folder=folder, name=name, wanted=wanted)
        yield SimpleNamespace(submit=lambda job: SimpleNamespace(job_id=9, job=asked.setdefault("job", job)))

    monkeypatch.setattr("lightning_seg.studies.slurm.submission", submission)
    config = {"slurm": {"hours": 24, "cpus_per_task": 8, "options": {"account": "vision"}}}
    assert slurm_jobs.submit_after(config, Path("runs/study"), ["12_0", "12_1"], ["ablation", "study"]) == "9"
    assert asked["wanted"].options == {"account": "vision", "dependency": "afterany:12"}
    assert asked["wanted"].cpus_per_task == 1 and asked["wanted"].hours == 1
    Path("fake.py").write_text("import sys, pathlib; pathlib.Path('said').write_text(' '.join(sys.argv[1:]))")
    monkeypatch.setattr(launch, "PROGRAM", [sys.executable, "-S", "fake.py"])
    asked["job"]()
    assert Path("said").read_text() == "ablation study"
