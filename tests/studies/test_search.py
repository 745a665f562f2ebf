"""A search is the same in Optuna's hands and in W&B's, goes on where it stopped, and leaves ordinary runs."""

import csv
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lightning_seg.cli import main as cli
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file
from lightning_seg.runs.records import find, read
from lightning_seg.studies import search as searching
from lightning_seg.studies import search_results
from lightning_seg.studies.parameters import suggest
from lightning_seg.studies.search import SEARCHES, Best, load, open_study
from lightning_seg.tracking import dashboard
from lightning_seg.tracking.transaction_log import read_log
from lightning_seg.tracking.wandb_logger import SAMPLES
from tests.processes import forked_python
from tests.tracking.fake_wandb import KEY, FakeWandb

# Stands for the command exp: its score is best at lr=0.01.
OBJECTIVE = """
import math, os, sys, time, yaml
from pathlib import Path
given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
lr = float(given["optimizer.lr"])
if lr > 0.5:
    sys.exit("lr is too high")
run = Path(given["runs"], given["name"], f"20260101-000000-{time.time_ns() % 2**16:04x}")
seed = int(given.get("seed_everything", -1))
run.mkdir(parents=True)
config = {"optimizer": {"lr": lr}, "wandb": {"tags": [given["wandb.tags+"]], "group": given["wandb.group"]}}
(run / "config.yaml").write_text(yaml.safe_dump(config | {"kind": given["kind"], "seed_everything": seed}))
if 0 <= seed < 1000:
    (run / "test.json").write_text('{"protocol": {}, "scores": {"miou": %s}}' % (0.5 + seed / 100))
for i in range(1, 4):
    with (run / "metrics.csv").open("a") as file:
        file.write("step,epoch,val/miou\\n" * (i == 1))
        file.write(f"{i},{i},{(1 - abs(math.log10(lr) + 2) / 10) * min(i, 2) / 2}\\n")
    time.sleep(float(given.get("wait", 0)))
if "WANDB_SWEEP_ID" in os.environ:
    from lightning_seg.tracking.wandb_run import WandbSettings
    with WandbSettings().start(run, config) as opened:
        opened.logger.log_metrics({"val/miou": 0.5}, 0)
"""


@pytest.fixture
def file(tmp_path):
    """Writes the file of a search whose trials take no time."""
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    content = {
        "program": "objective.py",
        "command": ["${interpreter}", str(tmp_path / "objective.py"), "${args}"],
        "method": "random",
        "metric": {"name": "val/miou", "goal": "maximize"},
        "run_cap": 3,
        "parameters": {
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
            "kind": {"values": ["a", [1, 2]]},
        },
    }
    path = tmp_path / "lr.yaml"

    def write(**changes):
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write


def trials(tmp_path):
    study = open_study(load(tmp_path / "lr.yaml"), tmp_path / "runs" / "searches" / "lr")
    return {
        state: [t for t in study.trials if t.state.name == state] for state in ("COMPLETE", "PRUNED", "FAIL")
    }


def test_runs_as_many_trials_as_wanted_and_goes_on(file, tmp_path, capsys):
    path, runs = file(), tmp_path / "runs"
    assert cli.main(["search", str(path), f"--runs={runs}"]) == 0
    first = capsys.readouterr().out
    assert cli.main(["search", str(path), f"--runs={runs}", "--trials=5", "--wait=0"]) == 0
    second = capsys.readouterr().out
    done = trials(tmp_path)["COMPLETE"]
    made = [re.findall(r"^trial (\d+): val/miou", out, re.MULTILINE) for out in (first, second)]
    assert made == [["0", "1", "2"], ["3", "4"]]
    assert [t.number for t in done] == list(range(5))
    for trial in done:
        lr = trial.params["optimizer.lr"]
        assert trial.value == pytest.approx(1 - abs(math.log10(lr) + 2) / 10)
        record = read(Path(trial.user_attrs["run"]))
        assert record.config["optimizer"]["lr"] == pytest.approx(lr)
        assert (
            record.tags == [f"lr-trial-{trial.number}"] and record.config["wandb"]["group"] == "searches/lr"
        )
        assert record.config["kind"] in ("a", "[1, 2]")
    assert len(find([runs])) == 5
    best = max(done, key=lambda t: t.value)
    assert f"best of 5: trial {best.number}" in second
    (again,) = [line for line in second.splitlines() if line.startswith("again:")]
    assert f"--optimizer.lr={best.params['optimizer.lr']}" in again and "--wait=0" in again
    assert again.startswith(f"again: python {tmp_path / 'objective.py'} ")
    assert cli.main(["search", str(path), f"--runs={runs}"]) == 0  # there are enough
    assert len(trials(tmp_path)["COMPLETE"]) == 5


def test_trials_are_a_table_and_a_picture_and_the_setting_that_matters_is_named(file, tmp_path, capsys):
    from PIL import Image

    assert cli.main(["search", str(file(run_cap=8)), f"--runs={tmp_path / 'runs'}"]) == 0
    out, folder = capsys.readouterr().out, tmp_path / "runs" / "searches" / "lr"
    head, *rows = csv.reader((folder / "trials.csv").open())
    assert head == ["trial", "state", "val/miou", "kind", "optimizer.lr", "run"] and len(rows) == 8
    values = [float(row[2]) for row in rows]
    assert values == sorted(values, reverse=True) and all(Path(row[-1]).is_dir() for row in rows)
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:4] == ["trial", "state", "val/miou", "kind"])
    assert [line.split()[0] for line in lines[at + 1 : at + 9]] == [row[0] for row in rows]
    shares = re.search(r"importance of the settings among 8 finished trials:.* lr (\d+)%", out)
    assert shares and int(shares[1]) > 50  # the objective looks at nothing else
    assert Image.open(folder / "parallel.png").size[0] > 500


def test_the_best_is_tested_with_seeds_in_one_command_and_trials_are_not(file, tmp_path, capsys):
    command = ["search", str(file()), f"--runs={tmp_path / 'runs'}"]
    assert cli.main([*command, "--repeat=2"]) == 0
    first = capsys.readouterr().out
    runs = [read(path) for path in find([tmp_path / "runs" / "lr-best"])]
    assert {run.seed for run in runs} == {0, 1} and {run.status for run in runs} == {"tested"}
    best = max(trials(tmp_path)["COMPLETE"], key=lambda t: t.value)
    assert {run.config["optimizer"]["lr"] for run in runs} == {best.params["optimizer.lr"]}
    assert {run.config["wandb"]["group"] for run in runs} == {"lr-best"}
    assert "test mIoU 50.50 % ± 0.71 (standard deviation) over 2 seeds" in first
    assert cli.main([*command, "--repeat=3"]) == 0  # two of them are there
    assert len(find([tmp_path / "runs" / "lr-best"])) == 3
    capsys.readouterr()
    assert cli.main([*command, "--repeat=1", "--trainer.max_epochs=30"]) == 0  # other settings are other runs
    assert len(find([tmp_path / "runs" / "lr-best"])) == 4
    assert "--trainer.max_epochs=30 --seed_everything=1000" in capsys.readouterr().out
    assert {read(path).status for path in find([tmp_path / "runs" / "searches"])} == {"not tested"}


def test_a_trial_is_only_trained_with_a_seed_that_is_not_reported(file, tmp_path, monkeypatch):
    made = []

    def begin(command, **options):
        made.append(command)
        return subprocess.Popen([sys.executable, str(tmp_path / "objective.py"), *command[4:]], **options)

    names = ("DEVNULL", "STDOUT", "TimeoutExpired")
    fake = SimpleNamespace(Popen=begin, **{name: getattr(subprocess, name) for name in names})
    monkeypatch.setattr(searching, "subprocess", fake)
    path = file(command=["${env}", "lightning-seg", "exp", "${args}"], run_cap=1)
    assert cli.main(["search", str(path), f"--runs={tmp_path / 'runs'}"]) == 0
    ((*program, command, first),) = [words[:5] for words in made]
    assert program[1:] == ["-m", "lightning_seg"] and command == "fit" and first.startswith("--")
    assert "--seed_everything=1000" in made[0]
    (run,) = find([tmp_path / "runs" / "searches"])
    assert read(run).seed == 1000 and read(run).status == "not tested"
    made.clear()
    assert cli.main(["search", str(path), f"--runs={tmp_path / 'other'}", "--seed_everything=7"]) == 0
    assert "--seed_everything=7" in made[0] and "--seed_everything=1000" not in made[0]


def test_the_command_that_tests_is_exp(tmp_path):
    best = Best(3, 0.5, "r", 4, ["lightning-seg", "fit", "quickstart", "--a=fit", "--b.lr=0.1"])
    program = [sys.executable, "-m", "lightning_seg"]
    expected = [*program, "exp", "quickstart", "--a=fit", "--b.lr=0.1", "--name=x"]
    assert search_results._tested_command(best, ["--name=x"]) == expected


def test_several_at_once_share_the_work(file, tmp_path):
    options = ["search", str(file(run_cap=6)), f"--runs={tmp_path / 'runs'}"]
    command = [forked_python(), "-m", "lightning_seg", *options]
    with ThreadPoolExecutor(2) as pool:
        workers = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(2)))
    assert [worker.returncode for worker in workers] == [0, 0], workers[0].stderr + workers[1].stderr
    found = trials(tmp_path)["COMPLETE"]
    assert len(found) in (6, 7)  # both may have seen five
    assert len({t.user_attrs["run"] for t in found}) == len(found)


def test_a_grid_ends_when_all_of_it_is_done(file, tmp_path):
    grid = {"optimizer.lr": {"values": [0.1, 0.01]}, "kind": {"values": ["a", "b"]}, "fixed": {"value": 1}}
    path = file(method="grid", run_cap=None, parameters=grid)
    assert cli.main(["search", str(path), f"--runs={tmp_path / 'runs'}"]) == 0
    tried = {(t.params["optimizer.lr"], t.params["kind"]) for t in trials(tmp_path)["COMPLETE"]}
    assert tried == {(lr, kind) for lr in (0.1, 0.01) for kind in "ab"}


def test_failing_trials_end_the_search(file, tmp_path, capsys):
    import optuna

    path = file(parameters={"optimizer.lr": {"value": 0.9}, "kind": {"value": "a"}})
    assert cli.main(["search", str(path), f"--runs={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr()
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR  # else a traceback stands before each line
    assert "3 trials in a row failed" in said.err and "trial 0: failed, see" in said.out
    assert "lr is too high" in (tmp_path / "runs" / "searches" / "lr" / "trial-000.log").read_text()
    assert len(trials(tmp_path)["FAIL"]) == 3


def test_a_curve_that_no_run_has_ends_the_search_at_its_first_trial(file, tmp_path, capsys):
    path = file(metric={"name": "val/miuo", "goal": "maximize"})
    assert cli.main(["search", str(path), f"--runs={tmp_path / 'runs'}"]) == 2
    assert "has no val/miuo, which the search is to choose by" in (said := capsys.readouterr().err)
    assert "its validations have val/miou" in said and len(find([tmp_path / "runs"])) == 1


def test_other_values_than_those_of_the_trials_that_are_there_are_refused(file, tmp_path, capsys):
    assert cli.main(["search", str(file(run_cap=1)), f"--runs={tmp_path / 'runs'}"]) == 0
    parameters = {"optimizer.lr": {"value": 0.01}, "kind": {"values": ["a", "c"]}}
    path = file(run_cap=2, parameters=parameters)
    assert cli.main(["search", str(path), f"--runs={tmp_path / 'runs'}"]) == 2
    assert "has other values than the trials that are there" in capsys.readouterr().err


def test_hopeless_trials_are_stopped_early(file, tmp_path, monkeypatch, capsys):
    import optuna

    monkeypatch.setattr(searching, "_WATCH", 0.05)
    grid = {"optimizer.lr": {"values": [0.01, 1e-8]}, "kind": {"value": "a"}}
    search = load(
        file(
            method="grid", run_cap=None, parameters=grid, early_terminate={"type": "hyperband", "min_iter": 1}
        )
    )
    (tmp_path / "runs" / "searches" / "lr").mkdir(parents=True)
    sampler = optuna.samplers.GridSampler({"optimizer.lr": [0.01, 1e-8]}, seed=0)
    study = optuna.create_study(
        direction="maximize", sampler=sampler, pruner=optuna.pruners.ThresholdPruner(lower=0.4)
    )
    searching.run(search, study, tmp_path / "runs", None, ["--wait=1"])
    states = {trial.params["optimizer.lr"]: trial for trial in study.trials}
    assert states[0.01].state.name == "COMPLETE" and states[0.01].value == pytest.approx(1)
    assert states[1e-8].state.name == "PRUNED" and states[1e-8].intermediate_values == {1: pytest.approx(0.2)}
    assert "stopped after 1 validations" in capsys.readouterr().out


def test_trials_are_averaged_over_seeds_that_are_not_those_reported(file, tmp_path, capsys):
    grid = {"optimizer.lr": {"values": [0.01]}, "kind": {"value": "a"}}
    search = load(file(method="grid", run_cap=None, parameters=grid))
    study = open_study(search, tmp_path / "runs/searches/lr")
    searching.run(search, study, tmp_path / "runs", None, seeds=2)
    (trial,) = study.trials
    runs = [read(path) for path in find([tmp_path / "runs"])]
    assert sorted(run.seed for run in runs) == [1000, 1001]
    best = [run.curves()["val/miou"][:, 2].max() for run in runs]
    assert trial.value == pytest.approx(sum(best) / 2)
    assert {p.name for p in (tmp_path / "runs/searches/lr").glob("*.log")} == {
        "trial-000-seed-1000.log",
        "trial-000-seed-1001.log",
    }
    with pytest.raises(UserError, match=r"averaged over 2 seed\(s\): say --seeds=2"):
        searching.run(search, study, tmp_path / "runs", None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "annealing"}, "method must be bayes, random or grid, not 'annealing'"),
        ({"command": ["lightning-seg", "exp"]}, r"the command must have \$\{args\}"),
        ({"metric": {}}, "no search: expected a W&B sweep configuration"),
        (
            {"parameters": {"lr": {"distribution": "beta", "min": 0, "max": 1}}},
            "lr has the distribution beta",
        ),
        ({"parameters": {"lr": {"distribution": "q_uniform", "min": 0}}}, r"lr \(q_uniform\) needs max"),
        ({"parameters": {"lr": {"min": 0, "max": 1}}, "method": "grid"}, "lr has no list of values"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file, changes, says):
    with pytest.raises(UserError, match=says):
        load(file(**changes))


def test_what_is_wrong_with_the_command_is_said(file, tmp_path, capsys):
    path = str(file(run_cap=None))
    for arguments, says in (
        (["nosuch"], "no search 'nosuch'"),
        ([path], "how many trials?"),
        ([path, "lr=1"], "unrecognized arguments: lr=1"),
    ):
        assert cli.main(["search", *arguments, f"--runs={tmp_path / 'runs'}"]) == 2
        assert says in capsys.readouterr().err


def test_distributions_are_those_of_wandb():
    import optuna

    parameters = {
        "constant": {"value": [1]},
        "choice": {"values": ["x", None, True]},
        "list": {"values": [[1, 2], [3]]},
        "int": {"min": 1, "max": 3},
        "float": {"min": 0.0, "max": 1},
        "step": {"distribution": "q_uniform", "min": 0, "max": 10, "q": 2.5},
        "log": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(study.ask(), parameters) for _ in range(200)]
    assert all(d["constant"] == [1] for d in drawn)
    assert {d["choice"] for d in drawn} == {"x", None, True}
    assert {d["list"] for d in drawn} == {"[1, 2]", "[3]"}
    assert {d["int"] for d in drawn} == {1, 2, 3}
    assert {d["step"] for d in drawn} == {0, 2.5, 5, 7.5, 10}
    assert all(0 <= d["float"] <= 1 and 1e-4 <= d["log"] <= 1e-2 for d in drawn)
    assert 0.4 < sum(d["log"] < 1e-3 for d in drawn) / 200 < 0.6


def test_the_same_file_by_wandbs_own_sweep_and_agent(file, home, tmp_path):
    """The agent of W&B runs the command with the settings that the server chose."""
    with FakeWandb() as server:
        # The agent's ${interpreter} is the python of the PATH, this one if its environment is activated.
        path = os.pathsep.join([str(Path(forked_python()).parent), os.environ["PATH"]])
        os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "PATH": path}
        command = file().read_text()
        settings = yaml.safe_load(command)
        settings["command"] += [
            "--name=lr",
            f"--runs={tmp_path / 'runs'}",
            "--wandb.group=g",
            "--wandb.tags+=t",
        ]
        (tmp_path / "lr.yaml").write_text(yaml.safe_dump(settings))
        impatient = "from wandb import wandb_agent as w; from wandb.cli.cli import cli; w.Agent.POLL_INTERVAL = 0.2; cli()"
        wandb = [forked_python(), "-c", impatient]
        options = {
            "cwd": tmp_path,
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "timeout": 120,
        }
        made = subprocess.run([*wandb, "sweep", "--project=p", "lr.yaml"], **options)
        assert made.returncode == 0, made.stderr
        assert server.sweeps["sweep0"] == settings
        args = {"optimizer.lr": {"value": 0.01}, "kind": {"value": [1, 2]}}
        server.commands = [{"type": "run", "run_id": "r1", "args": args, "program": "objective.py"}]
        done = subprocess.run([*wandb, "agent", "someone/p/sweep0"], **options)
        assert done.returncode == 0, done.stderr
    (run,) = find([tmp_path / "runs"])
    assert read(run).config["optimizer"]["lr"] == 0.01 and read(run).config["kind"] == "[1, 2]"
    assert server.runs["r1"].history[0]["val/miou"] == 0.5 and server.runs["r1"].sweep == "sweep0"
    assert server.unknown == []


@pytest.mark.parametrize("path", sorted(SEARCHES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_searches_can_be_read(path):
    search = load(path)
    assert search.trials and search.metric == "val/miou"
    names = [word for word in search.command if not word.startswith(("-", "$"))]
    assert names[:2] == ["lightning-seg", "fit"] and experiment_file(names[2]).is_file()


def test_a_real_trial(tmp_path, capsys, monkeypatch):
    """Trains a network, small as it is: the settings reach it, and its score comes back."""
    monkeypatch.setattr(sys, "executable", forked_python())
    small = """
        --trainer.limit_train_batches=2 --trainer.limit_val_batches=1 --trainer.limit_test_batches=2
        --trainer.max_epochs=1 --trainer.num_sanity_val_steps=0 --trainer.log_every_n_steps=1
        --data.init_args.num_workers=0 --data.init_args.batch_size=2 --data.init_args.crop_size=[32,32]
        --model.network.init_args.backbone=test_resnet --trainer.accelerator=cpu --trainer.devices=1
    """
    arguments = textwrap.dedent(small).split()
    command = ["search", "quickstart", "--trials=1", "--repeat=1", f"--runs={tmp_path}"]
    assert cli.main([*command, *arguments]) == 0, (
        tmp_path / "searches" / "quickstart" / "trial-000.log"
    ).read_text()
    (run,) = find([tmp_path / "searches"])
    record = read(run)
    assert record.tags == ["quickstart-trial-0"] and record.status == "not tested"
    lr = record.config["model"]["optimizer"]["init_args"]["lr"]
    assert f"lr={lr}" in capsys.readouterr().out.splitlines()[0]
    (run,) = find([tmp_path / "quickstart-best"])
    assert read(run).config["model"]["optimizer"]["init_args"]["lr"] == lr
    _check_dashboard(run)


def _check_dashboard(run):
    """Everything that a dashboard shows is logged by a real run, under that name."""
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    logged, config, groups = set(), {}, set()
    for record in read_log(log):
        kind = record.WhichOneof("record_type")
        if kind in ("history", "summary"):
            items = record.history.item if kind == "history" else record.summary.update
            logged |= {".".join(item.nested_key) or item.key for item in items}
        elif kind in ("run", "config"):
            updates = record.run.config.update if kind == "run" else record.config.update
            config |= {item.key: json.loads(item.value_json) for item in updates if item.key}
            groups.add(record.run.run_group)
    shown = dashboard.describe([read(run)])
    assert set(shown.groups) <= groups
    assert shown.classes == ["background", "circle", "square", "triangle", "star", "cross"]
    curves = {*dashboard.CURVES, *dashboard.TRAINING, dashboard.SCORE, dashboard.STEP, SAMPLES}
    curves.add(dashboard.BEST_EPOCH)
    assert curves | {f"test/iou/{name}" for name in shown.classes} <= logged
    for name in (*dashboard.PICTURES, dashboard.TABLE, dashboard.IMAGES, dashboard.CONFUSION):
        assert any(key == name or key.startswith(f"{name}.") for key in logged), name
    assert config[shown.group_by].startswith("quickstart-best · ") and config["params"] > 1e5
    assert config["experiment"] == "quickstart-best" and {*dashboard.PINNED} <= {*config}
    assert dashboard.BEST in logged or "val/miou" in logged
