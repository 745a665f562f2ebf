"""An ablation plans its runs, makes each once whatever happens, and answers with what was planned."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lightning_seg.analysis.compare import compare
from lightning_seg.cli.main import main
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG, ENVIRONMENT, METRICS, TEST_SCORES
from lightning_seg.runs.records import read
from lightning_seg.studies import launch, slurm_jobs
from lightning_seg.studies.ablation import answer
from lightning_seg.studies.plan import Ablation, Slot, as_long, load
from tests.faults.programs import Program, run
from tests.processes import forked_python
from tests.runs.made_runs import make_run, simulate

SHIPPED = sorted(Path("experiments/ablations").glob("*.yaml"))

# Stands in for the program: a run is two lines and a test, without training.
FAKE = """
import json, pathlib, sys, time
command, *rest = sys.argv[1:]
options = dict(a.lstrip("-").split("=", 1) for a in rest if "=" in a)
if command == "exp":
    run = pathlib.Path(options["runs"], options["name"], f"{time.time_ns()}")
    run.mkdir(parents=True)
    config = {"name": options["name"], "seed_everything": int(options["seed_everything"]), "lr": options["lr"]}
    (run / "config.yaml").write_text(json.dumps(config))
else:
    run = pathlib.Path(rest[0])
    config = json.loads((run / "config.yaml").read_text())
with open("starts", "a") as file:
    file.write(f"{command} {config['name']} {config['seed_everything']}\\n")
print("training", flush=True)
if config["lr"] == "bad" and not pathlib.Path("mended").exists():
    raise FloatingPointError("the loss is not finite")
time.sleep(float(options.get("sleep", 0.05)) if command == "exp" else 0)
(run / "test.json").write_text(json.dumps({"protocol": {}, "scores": {"miou": 0.5}}))
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(FAKE)
    monkeypatch.setattr(launch, "PROGRAM", [sys.executable, "-S", "fake.py"])
    return tmp_path


def slot(variant="a", seed=0, lr="0.1", sleep=0.05):
    arguments = (f"--lr={lr}", f"--sleep={sleep}", f"--name=study/{variant}", "--runs=runs")
    return Slot(Path("runs/study"), variant, seed, (*arguments, f"--seed_everything={seed}"), {"lr": lr})


def starts():
    return Path("starts").read_text().splitlines()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


# The YAML


def write(content, name="study.yaml"):
    Path(name).write_text(yaml.safe_dump({"experiment": "base.yaml", **content}))
    Path("base.yaml").touch()
    return name


def test_what_the_yaml_says(workplace):
    ablation = load(
        write(
            {
                "seeds": 2,
                "baseline": "plain",
                "block": 10,
                "settings": {"trainer.max_epochs": 3},
                "variants": {
                    "plain": {},
                    "list": ["lr=1", "--wd=2"],
                    "grid": {"a.b": None, "grid": {"x.lr": [0.1, 0.2], "y.optimizer": ["torch.optim.SGD"]}},
                },
            }
        )
    )
    epochs = "--trainer.max_epochs=3"
    assert ablation.variants == {
        "plain": (epochs,),
        "list": (epochs, "--lr=1", "--wd=2"),
        "grid-lr=0.1-optimizer=SGD": (epochs, "--a.b=null", "--x.lr=0.1", "--y.optimizer=torch.optim.SGD"),
        "grid-lr=0.2-optimizer=SGD": (epochs, "--a.b=null", "--x.lr=0.2", "--y.optimizer=torch.optim.SGD"),
    }
    assert (ablation.name, ablation.seeds, ablation.baseline, ablation.block) == (
        "study",
        (0, 1),
        "plain",
        10,
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"variants": {"a": 3}}, "variant a must be a mapping KEY: VALUE or a list of KEY=VALUE, got 3"),
        ({"variants": {"a/b": {}}}, "'a/b' must be named once, with letters"),
        ({"variants": {"a": {}}, "baseline": "b"}, "baseline 'b' is none of the variants a"),
        ({"variants": {"a": {}}, "sets": 3}, "there is no 'sets'; expected some of experiment, seeds"),
        ({"variants": {"a": {"grid": [1]}}}, r"grid of a must be \{KEY: \[VALUE"),
        (
            {},
            "must say what is varied: 'variants: {NAME: {KEY: VALUE}}', several experiments, or 'train_share",
        ),
    ],
)
def test_a_wrong_yaml_is_named(workplace, content, says):
    with pytest.raises(UserError, match=says):
        load(write(content))


def test_an_unknown_ablation_lists_those_there_are():
    with pytest.raises(UserError, match="Did you mean freeze_camvid.*upsampling_camvid"):
        load("freeze_camvit")


@pytest.mark.parametrize(
    "arguments", [["--job=2"], ["--jobs=0"], ["stray"], ["--variants=none_such"], ["--seeds=x"]]
)
def test_wrong_options(arguments, capsys):
    assert main(["ablation", "freeze_camvid", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_variant_of_every_shipped_ablation_builds(path):
    """Network, loss and data are made from the settings; data and weights are not needed for that."""
    import torch

    from lightning_seg.experiment.experiment import TaskAndData

    ablation = load(str(path))
    assert ablation.baseline in ablation.variants and len(ablation.seeds) >= 3
    assert (ablation.block or 1) > 1 or "camvid" not in path.stem
    for overrides in ablation.variants.values():
        with torch.device("meta"):  # no memory, and no time for random numbers
            built = TaskAndData(["-c", str(ablation.experiment), *overrides])
        assert built.model.network.head is not None and built.datamodule.crop_size


# How far a run is


def test_states(workplace):
    one = slot(sleep=30)
    assert one.state() == "missing" and not Path("runs").exists()  # looking leaves nothing behind
    attempt = launch.Attempt(one, one.lock(), {})
    wait_for(lambda: Path("starts").exists())
    assert slot().state() == "running"
    attempt.process.kill()
    assert "stopped after" in attempt.finish()
    assert one.state() == "half done"
    slurm_jobs.SlotJob(one)()
    assert one.state() == "done" and "another runner made it" in slurm_jobs.SlotJob(one)()
    assert slot(lr="0.2").state() == "missing"  # other settings are another run
    assert slot(seed=1).state() == "missing" and slot("b").state() == "missing"


def test_a_job_whose_run_gets_nowhere_is_not_queued_for_ever(workplace, monkeypatch):
    fake = Path("fake.py").read_text()
    killed = fake.replace('print("training", flush=True)', "import os; os.kill(os.getpid(), 9)")
    queued = []
    monkeypatch.setattr("lightning_seg.studies.slurm.requeue", lambda: queued.append(1))
    Path("fake.py").write_text(killed)
    one = slot()
    for _ in range(3):
        assert "stopped after" in slurm_jobs.SlotJob(one)()
    with pytest.raises(RuntimeError, match="ended 4 times before it had saved anything new"):
        slurm_jobs.SlotJob(one)()
    assert len(queued) == 3 and one.state() == "failed"
    checkpoint = one.run().path / "checkpoints/last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    os.utime(checkpoint, (time.time() + 5,) * 2)  # from here on it got somewhere
    assert "stopped after" in slurm_jobs.SlotJob(one)() and len(queued) == 4
    Path("fake.py").write_text(fake)
    slurm_jobs.SlotJob(one)()
    assert one.state() == "done"


def test_a_run_that_is_killed_each_time_is_not_begun_for_ever(workplace, capsys):
    fake = Path("fake.py").read_text()
    Path("fake.py").write_text(
        fake.replace('print("training", flush=True)', "import os; os.kill(os.getpid(), 9)")
    )
    lines, one = [], slot()
    for i in range(1, 5):
        launch.run_here([one], 1, lines.append)
        assert one.state() == ("failed" if i == 4 else "half done")
    assert "FAILED: it was ended 4 times before it had saved anything new" in lines[-1]
    early = fake.replace("    run.mkdir(parents=True)", "    import os; os.kill(os.getpid(), 9)")
    Path("fake.py").write_text(early)  # before there is a run directory
    two = slot("b")
    for _ in range(4):
        launch.run_here([two], 1, lines.append)
    assert two.state() == "failed"
    assert slot("b", lr="0.2").state() == "missing"


@pytest.mark.parametrize(
    ("planned", "made", "differing"),
    [
        ({"a": 1, "b.c": 2}, {"a": 1, "b.c": 2}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": 1, "new": 5}, {"a": 1, "old": 3}, []),  # another version of the program
        ({"a": None}, {"a.class_path": "X"}, ["a"]),
        ({"a.b.class_path": "X"}, {"a.b": None}, ["a.b"]),
        ({"trainer.precision": None}, {"trainer.precision": "32-true"}, []),
        ({"trainer.precision": "16"}, {"trainer.precision": "32-true"}, ["trainer.precision"]),
    ],
)
def test_differences(tmp_path, planned, made, differing):
    nested = {}
    for key, value in made.items():
        *folders, leaf = key.split(".")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = value
    (tmp_path / CONFIG).write_text(yaml.safe_dump(nested | {"seed_everything": 3}))
    assert Slot(tmp_path, "v", 0, (), planned).differences(read(tmp_path)) == differing


def test_a_lock_lasts_as_long_as_anybody_works_on_the_run(workplace):
    one = slot()
    log = one.lock()
    assert one.lock() is None
    process = subprocess.Popen(["sleep", "30"], stdout=log)
    log.close()
    assert one.lock() is None  # the process has inherited it
    process.kill()
    process.wait()
    assert one.lock() is not None


# Making runs


def test_runs_are_made_once_and_a_failure_stops_nothing(workplace):
    slots = [slot(variant, seed, lr) for seed in (0, 1) for variant, lr in (("good", "1"), ("ill", "bad"))]
    lines = []
    launch.run_here(slots, 2, lines.append)
    assert [s.state() for s in slots] == ["done", "failed"] * 2
    assert slots[1].failure == "FloatingPointError: the loss is not finite"
    assert any("ill seed 0: FAILED" in line and "the loss is not finite" in line for line in lines)
    assert sorted(starts()) == ["exp study/good 0", "exp study/good 1", "exp study/ill 0", "exp study/ill 1"]
    assert launch.seconds_of(slots[0]) is not None

    launch.run_here(slots[::2], 2, lines.append)  # done: nothing happens
    assert len(starts()) == 4
    Path("mended").touch()
    launch.run_here([slots[1]], 1, lines.append)
    assert slots[1].state() == "done" and starts()[-1] == "resume study/ill 0"


def test_a_run_that_shows_that_all_are_useless_stops_the_others(workplace):
    class Useless(Slot):
        def unusable(self):
            return "it has no curve to choose by" if self.state() == "done" else ""

    first, second = (
        Useless(s.folder, s.variant, s.seed, s.arguments, s.config) for s in (slot(), slot(seed=1, sleep=30))
    )
    said = []
    begun = time.monotonic()
    with pytest.raises(UserError, match="no curve to choose by"):
        launch.run_here([first, second], 2, said.append)
    assert time.monotonic() - begun < 25 and any("stopped after" in line for line in said)


def test_a_run_that_another_runner_has_given_up_is_left_alone(workplace):
    one, said = slot(), []
    one.log.parent.mkdir(parents=True)
    one.give_up("3. of 3 after 1 validation")
    launch.run_here([one], 1, said.append)
    assert said == ["[1/1] a seed 0: another runner made it"] and not Path("starts").exists()
    assert "another runner made it" in slurm_jobs.SlotJob(one)()


def test_two_runners_share_the_work(workplace):
    code = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.studies.test_ablation import launch, slot
        launch.PROGRAM = [{sys.executable!r}, "-S", "fake.py"]
        launch.run_here([slot(v, s, sleep=0.3) for s in range(3) for v in "ab"], 1, print)
        """
    )
    runners = [subprocess.Popen([forked_python(), "-c", code]) for _ in range(2)]
    assert [runner.wait() for runner in runners] == [0, 0]
    assert sorted(starts()) == [f"exp study/{v} {s}" for v in "ab" for s in range(3)]


def test_a_request_to_stop_reaches_the_runs(workplace):
    one, two = slot(sleep=300), slot("b")
    lines = []

    def say(line):
        lines.append(line)
        if "starts" in line:
            wait_for(lambda: Path("starts").exists() and starts())
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(UserError, match="the same command continues"):
        launch.run_here([one, two], 1, say)
    assert "stopped after" in lines[-1] and one.state() == "half done" and two.state() == "missing"
    launch.run_here([one, two], 1, lines.append)
    assert starts() == ["exp study/a 0", "resume study/a 0", "exp study/b 0"]


def test_the_machine_is_divided(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(launch, "_gpus", list)
    assert launch.shares(1) == [{}]
    assert launch.shares(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setattr(launch, "_gpus", lambda: ["0", "1", "2", "3"])
    assert [s["CUDA_VISIBLE_DEVICES"] for s in launch.shares(2)] == ["0,1", "2,3"]
    monkeypatch.setattr(launch, "_gpus", lambda: ["4", "5"])
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    shares = launch.shares(4)
    assert sorted(s["CUDA_VISIBLE_DEVICES"] for s in shares) == ["4", "4", "5", "5"]
    assert {s["OMP_NUM_THREADS"] for s in shares} == {"5"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Traceback\n  File\nValueError: no\n", "ValueError: no"),
        ("error: no folder x: expected y\ncleaning up\n", "no folder x: expected y"),
        ("torch.OutOfMemoryError: CUDA out of memory\nbye\n", "torch.OutOfMemoryError: CUDA out of memory"),
        ("Killed\n", "Killed"),
        ("", "it printed nothing"),
    ],
)
def test_the_reason_of_a_failure(tmp_path, text, reason):
    log = tmp_path / "log"
    log.write_text(f"--- now lightning-seg exp\n{text}\n--- ended after 3 s\n")
    assert launch.reason_of_failure(log) == reason


def test_time_left_is_that_of_the_same_variant(workplace):
    slots = [slot(v, s) for v in "ab" for s in range(3)]
    for one, seconds in zip(slots, (100, None, None, 30, 50, None), strict=True):
        if seconds:
            one.log.parent.mkdir(parents=True, exist_ok=True)
            # An attempt that was killed has no end; one with other settings came before.
            old = "--- x lightning-seg exp -c x\n--- ended after 999 s\n"
            one.log.write_text(
                f"{old}--- y lightning-seg exp -c x\n--- z lightning-seg resume\n--- ended after {seconds} s\n"
            )
    left = [slots[1], slots[2], slots[5]]
    assert launch.time_left(slots, left, 1) == 100 + 100 + 40
    assert launch.time_left(slots, left, 2) == 120
    assert launch.time_left(left, left, 1) is None


# The answer


def made_slots(root, shifts, seeds=3, **changes):
    found = []
    for variant, shift in shifts.items():
        for seed in range(seeds):
            config = {"name": f"study/{variant}"}
            counts = simulate(np.random.default_rng([seed, len(variant)]), shift, seed_noise=0.005)
            run = make_run(root / "study", variant, seed, counts=counts, config=config, **changes)
            found.append(Slot(root / "study", variant, seed, (), read(run).config))
    return found


ABLATION = Ablation("study", Path("base.yaml"), {"full": (), "frozen": (), "same": ()}, (0, 1, 2), "full", 2)


def test_the_answer(tmp_path, capsys):
    slots = made_slots(tmp_path, {"full": 0.2, "frozen": 0.0, "same": 0.2})
    assert {s.state() for s in slots} == {"done"}
    answer(ABLATION, slots)
    out = capsys.readouterr().out
    assert "frozen is 20." in out and "mIoU worse than full, 95 % CI" in out
    assert (
        "3 seeds, 20 images in 10 blocks of neighbors" in out and "study/" not in out.split("written to")[0]
    )
    assert "same and full are not distinguishable" in out
    assert "Held equal: training images, 656" in out and "training time" in out
    assert re.search(r"By class: class \d -\d\d\.\d ± \d", out)
    for ending in ("md", "csv", "tex", "html"):
        text = (tmp_path / f"study/answer.{ending}").read_text()
        assert "frozen" in text and ("worse than full" in text or ending == "csv")


def test_a_test_set_on_which_not_all_runs_were_scored_is_told(tmp_path, capsys):
    slots = made_slots(tmp_path, {"full": 0.2, "frozen": 0.0})
    added = [replace(slot, config=slot.config | {"test_sets": {"noise": {}}}) for slot in slots]
    answer(ABLATION, slots)
    assert "no answer for test set" not in capsys.readouterr().out
    answer(ABLATION, added)
    assert f"no answer for test set noise: {len(slots)} of {len(slots)} runs" in capsys.readouterr().out
    assert {slot.state() for slot in added} == {"half done"}
    for ending in ("md", "html"):
        assert "No answer for test set noise" in (tmp_path / f"study/answer.{ending}").read_text()


def test_a_test_set_of_another_severity_is_another_one(tmp_path):
    (slot, *_) = made_slots(tmp_path, {"full": 0.2})
    folder = slot.run().path / "test_sets/noise"
    folder.mkdir(parents=True)
    scored = {"noise": {"corruption": "noise", "severity": 3}}
    (folder / CONFIG).write_text(yaml.safe_dump({"test_sets": scored}))
    shutil.copy(slot.run().path / TEST_SCORES, folder)
    same = replace(slot, config=slot.config | {"test_sets": scored})
    assert same.state() == "done" and not same.unscored(same.run())
    numbers = {"noise": {"class_path": "Folder", "init_args": {"labels": {0: 0, 255: 1}}}}
    wants = replace(slot, config=slot.config | {"test_sets": numbers})
    passed = yaml.safe_load(wants.continuing(wants.run())[3].removeprefix("--test_sets="))
    assert passed == numbers
    (folder / CONFIG).write_text(
        yaml.safe_dump({"test_sets": json.loads(json.dumps(numbers))})
    )  # keys as texts
    assert wants.state() == "done"
    (folder / CONFIG).write_text(yaml.safe_dump({"test_sets": scored}))
    other = replace(
        slot, config=slot.config | {"test_sets": {"noise": {"corruption": "noise", "severity": 5}}}
    )
    assert other.state() == "half done"
    command, path, only, sets = other.continuing(other.run())
    assert (command, path, only) == ("test", str(slot.run().path), "--test-sets-only")
    assert yaml.safe_load(sets.removeprefix("--test_sets=")) == {
        "noise": {"corruption": "noise", "severity": 5}
    }


def test_an_incomplete_answer_says_so_and_an_older_run_does_not_count(tmp_path, capsys):
    slots = made_slots(tmp_path, {"full": 0.2, "frozen": 0.0})
    make_run(tmp_path / "study", "frozen", 0, shift=0.4, lr=0.5, config={"name": "study/frozen"})
    environment = slots[0].run().path / ENVIRONMENT
    environment.write_text(
        environment.read_text().replace('"effective_batch_size": 16', '"effective_batch_size": 8')
    )
    missing = Slot(tmp_path / "study", "frozen", 3, (), slots[0].config)
    answer(replace(ABLATION, baseline="absent"), [*slots, missing])
    out = capsys.readouterr().out
    assert "1 of 7 runs are not done: the result is preliminary" in out
    assert "frozen is 20." in out and "3 runs" in out
    assert "The runs of full also differ in batch." in out
    with pytest.raises(UserError, match="no run is done"):
        answer(ABLATION, [missing])


def test_a_test_set_is_scored_where_the_data_is_now_and_as_the_run_was_tested(tmp_path):
    (slot, *_) = made_slots(tmp_path, {"full": 0.2})
    made, run = slot.run(), slot.run().path
    config = {
        **made.config,
        "data": {"init_args": {"root": "/old"}},
        "trainer": {"limit_test_batches": 3, "devices": 1},
    }
    (run / CONFIG).write_text(yaml.safe_dump(config))
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").touch()
    moved = {
        **config,
        "data": {"init_args": {"root": "/new"}},
        "test_sets": {"x": {"corruption": "blur", "severity": 1}},
    }
    now = Slot(slot.folder, slot.variant, slot.seed, (), moved)
    assert now.state() == "half done" and now.continuing(now.run())[4:] == [
        "--trainer.limit_test_batches=3",
        f"--ckpt_path={run / 'checkpoints/last.ckpt'}",
        "--data.init_args.root=/new",
    ]
    (run / "checkpoints/best.ckpt").touch()
    assert not any("ckpt" in word for word in now.continuing(now.run()))
    now.log.parent.mkdir()
    now.fail("no such images")
    assert now.failure and not replace(now, config={**moved, "test_sets": {}}).failure


def test_being_scored_on_one_set_after_the_other_is_getting_somewhere(tmp_path):
    (slot,) = further_tests(made_slots(tmp_path, {"full": 0.2}, seeds=1), "noise")
    now, (test, *_) = time.time(), slot.run().path.glob("test_sets/*/test.json")
    slot.log.parent.mkdir()
    starts = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now - ago)) for ago in (900, 800, 700, 600)]
    slot.log.write_text("".join(f"--- {start} lightning-seg test RUN\n" for start in starts))
    os.utime(test, (now - 650, now - 650))
    for file in (slot.run().path / TEST_SCORES, slot.run().path / "checkpoints/last.ckpt"):
        if file.exists():
            os.utime(file, (now - 1000, now - 1000))
    assert launch.starts_since_saved(slot) == 1


def test_a_test_set_that_cannot_be_compared_takes_no_answer_away(tmp_path, capsys):
    slots = further_tests(made_slots(tmp_path, {"full": 0.2, "frozen": 0.0}), "noise.3", "noise.5")
    test = slots[0].run().path / "test_sets/noise.3" / TEST_SCORES
    content = json.loads(test.read_text())
    content["protocol"]["images"] = 7
    test.write_text(json.dumps(content))
    answer(replace(ABLATION, variants={"full": (), "frozen": ()}), slots)
    out = capsys.readouterr().out
    assert "no answer for test set noise.3: " in out and "written to" in out.split("test set noise.5")[1]
    assert (tmp_path / "study/answer-noise.5.md").exists() and (
        tmp_path / "study/answer-noise.5.html"
    ).exists()


def further_tests(slots, *names):
    """Write scores of test sets into runs; return their slots, which now want them."""
    sets = {name: {"corruption": "noise", "severity": 3} for name in names}
    for slot, name in itertools.product(slots, names):
        run, folder = slot.run().path, slot.run().path / "test_sets" / name
        folder.mkdir(parents=True)
        for file in (ENVIRONMENT, "test_images.npz"):
            shutil.copy(run / file, folder / file)
        config = yaml.safe_load((run / CONFIG).read_text()) | {"test_sets": sets}
        (folder / CONFIG).write_text(yaml.safe_dump(config))
        test = json.loads((run / TEST_SCORES).read_text())
        test["protocol"]["corruption"] = "noise 3"
        (folder / TEST_SCORES).write_text(json.dumps(test))
    return [replace(slot, config=slot.config | {"test_sets": sets}) for slot in slots]


def test_further_test_sets_have_answers_of_their_own(tmp_path, capsys):
    slots = further_tests(made_slots(tmp_path, {"full": 0.2, "frozen": 0.0}), "noise")
    answer(replace(ABLATION, variants={"full": (), "frozen": ()}), slots)
    out = capsys.readouterr().out
    assert "test set noise" in out and "corruption noise 3" in out.split("test set noise")[1]
    assert "corruption noise 3" in (tmp_path / "study/answer-noise.md").read_text()
    assert "corruption" not in (tmp_path / "study/answer.md").read_text()


def test_variants_of_two_ablations_are_told_apart(tmp_path):
    for study, shift in (("one", 0.0), ("two", 0.2)):
        make_run(tmp_path / study, "base", 0, shift=shift, config={"name": f"{study}/base"})
    (section,) = compare([tmp_path]).sections
    assert [group.name for group in section.groups] == ["two/base", "one/base"]
    (section,) = compare([tmp_path / "two"]).sections
    assert [group.name for group in section.groups] == ["base"]


def test_an_answer_across_protocols_is_refused(tmp_path):
    slots = made_slots(tmp_path, {"full": 0.2})
    slots += made_slots(tmp_path, {"frozen": 0.2}, protocol={"resolution": "513x513"})
    with pytest.raises(UserError, match=r"protocols differ in resolution \(original / 513x513\)"):
        answer(ABLATION, slots)


@pytest.mark.parametrize(
    ("length", "frozen"),
    [
        (
            {"max_steps": -1, "max_epochs": 12, "check_val_every_n_epoch": 4},
            ("max_epochs=30", "check_val_every_n_epoch=10"),
        ),
        # Batches are counted: the last validation is where the training ends, as it was.
        (
            {"max_steps": 100, "max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 100},
            ("max_steps=250", "val_check_interval=250"),
        ),
        (
            {"max_steps": 90, "max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 30},
            ("max_steps=225", "val_check_interval=75"),
        ),
        (
            {"max_steps": 100, "max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 30},
            ("max_steps=249", "val_check_interval=74"),
        ),
        (
            {"max_steps": -1, "max_epochs": 12, "check_val_every_n_epoch": None, "val_check_interval": 30},
            ("max_epochs=30", "val_check_interval=75"),
        ),
        # Validated every epoch, the first time after 10 steps: from now on batches are counted.
        (
            {"max_steps": 20, "max_epochs": None, "check_val_every_n_epoch": 1},
            ("max_steps=50", "check_val_every_n_epoch=null", "val_check_interval=25"),
        ),
        (
            {
                "max_steps": 20,
                "max_epochs": None,
                "check_val_every_n_epoch": 1,
                "accumulate_grad_batches": 4,
            },
            ("max_steps=50", "check_val_every_n_epoch=null", "val_check_interval=100"),
        ),
        (
            {"max_steps": 20, "max_epochs": None, "check_val_every_n_epoch": 1, "never": True},
            ("max_steps=50",),
        ),
    ],
)
def test_equal_time_gives_the_fast_more_steps(tmp_path, length, frozen):
    length, slots = dict(length), []
    validated = "" if length.pop("never", False) else "9,0,,0.5\n19,1,,0.6\n"
    for variant, speed in (("full", 10), ("frozen", 25)):
        config = {"name": f"study/{variant}", "trainer": length}
        run = make_run(tmp_path / "study", variant, 0, config=config)
        (run / METRICS).write_text(
            f"step,epoch,train/images_per_second,val/miou\n9,0,{speed},\n19,1,{speed},\n{validated}"
        )
        slots.append(Slot(tmp_path / "study", variant, 0, (), read(run).config))
    assert slots[0].run().training == (320, 20, 32)
    ablation = replace(ABLATION, variants={"full": ("--x=1",), "frozen": ()})
    assert as_long(ablation, slots, ["--y=2"]).variants == {
        "full": ("--x=1", "--y=2"),
        "frozen": ("--y=2", *(f"--trainer.{change}" for change in frozen)),
    }
    (slots[0].run().path / TEST_SCORES).unlink()
    with pytest.raises(UserError, match="full seed 0 is not done"):
        as_long(ablation, slots)


# The whole of it

TINY = {
    "seeds": 1,
    "baseline": "adam",
    "settings": {
        "model.network.init_args.backbone": "test_resnet",
        "model.network.init_args.decoder_channels": [32, 16, 16, 8, 8],
        "data.init_args": {
            "batch_size": 4,
            "crop_size": [32, 32],
            "image_size": [48, 40],
            "train_images": 80,
            "val_images": 6,
            "test_images": 20,
            "num_workers": 0,
        },
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "checkpointing.every_n_steps": 5,
        "wandb.mode": "disabled",
    },
    "variants": {
        "adam": {},
        "sgd": {"model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}},
    },
}


def test_killed_and_continued(tmp_path):
    tiny = TINY | {"experiment": str(Path("experiments/quickstart.yaml").absolute())}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    runner = Program(tmp_path, "ablation", "tiny.yaml", OMP_NUM_THREADS="1")
    wait_for(lambda: list(tmp_path.glob("runs/tiny/*/*/checkpoints/last.ckpt")), 300)
    runner.send(signal.SIGKILL)
    runner.wait()
    kill_children(tmp_path / "runs/tiny/logs")
    begun = {p.parent.name for p in tmp_path.glob("runs/tiny/*/*/config.yaml")}
    assert len(begun) == 1
    printed = run(tmp_path, "ablation", "tiny.yaml", seconds=300, OMP_NUM_THREADS="1")
    assert "half done" in printed and "continues, log" in printed
    runs = [p.parent for p in tmp_path.glob("runs/tiny/*/*/config.yaml")]
    assert len(runs) == 2 and begun < {path.name for path in runs}  # continued in place, none made twice
    for path in runs:
        assert json.loads((path / TEST_SCORES).read_text())["protocol"]["images"] == 20
    assert "adam" in printed.split("rank", 1)[1] and (tmp_path / "runs/tiny/answer.html").exists()
    # A test set that is added later: the runs that are there are scored on it, and on nothing else.
    scores = {path: (path / TEST_SCORES).stat() for path in runs}
    settings = {**TINY["settings"], "test_sets": {"noise": {"corruption": "noise", "severity": 3}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny | {"settings": settings}))
    printed = run(tmp_path, "ablation", "tiny.yaml", seconds=300, OMP_NUM_THREADS="1")
    assert printed.count("continues, log") == 2
    for path in runs:
        test = json.loads((path / "test_sets/noise" / TEST_SCORES).read_text())
        assert test["protocol"]["corruption"] == "noise 3"
        assert (path / TEST_SCORES).stat() == scores[path]
    assert "corruption noise 3" in (tmp_path / "runs/tiny/answer-noise.md").read_text()
    assert len([*tmp_path.glob("runs/tiny/*/*/config.yaml")]) == 2


def kill_children(logs):
    """Kill the processes that write into logs: those that the killed runner has left."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended
                if Path(os.readlink(process / "fd/1")).parent == logs:
                    os.kill(int(process.name), signal.SIGKILL)
