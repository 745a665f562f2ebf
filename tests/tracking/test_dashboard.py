"""A dashboard shows the runs it was made for, is published where there is an account, and written down where not."""

import json
import os
import re
import subprocess

import pytest
import yaml

from lightning_seg.cli import main as cli
from lightning_seg.errors import UserError
from lightning_seg.runs.records import find, read
from lightning_seg.tracking.dashboard import TRAINING, Dashboard, describe, load, report, workspace
from tests.processes import forked_python
from tests.runs.made_runs import make_run


@pytest.fixture
def runs(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "runs", "unet", seed, lr=0.1)
        make_run(tmp_path / "runs", "unet", seed, lr=0.2)
        make_run(tmp_path / "runs", "deeplab", seed, config={"wandb": {"group": "ours", "entity": None}})
    (tmp_path / "runs" / "broken" / "20260101-000000-ffff").mkdir(parents=True)
    return tmp_path / "runs"


def test_describes_the_runs(runs):
    found = describe([read(path) for path in find([runs])])
    assert sorted(found.groups) == ["ours", "unet"]
    assert (found.project, found.entity) == ("lightning_seg", None)
    assert found.classes == ["class 0", "class 1", "class 2"]
    assert found.settings == ["lr"] and found.group_by == "variant"


def test_runs_of_several_projects_are_refused(runs):
    make_run(runs, "other", config={"wandb": {"project": "p"}})
    with pytest.raises(UserError, match="expected runs of one W&B project, got 2"):
        describe([read(path) for path in find([runs])])


def test_without_an_account_the_specification_is_written_and_can_be_read(runs, home, tmp_path, capsys):
    file = tmp_path / "board.yaml"
    arguments = ["--title=Mine", "--group-by=data.init_args.fold", f"--output={file}"]
    assert cli.main(["dashboard", str(runs), *arguments]) == 0
    out = capsys.readouterr().out
    assert "no W&B account known" in out and f"lightning-seg dashboard {file}" in out
    read_again = load(file)
    assert (read_again.title, read_again.group_by) == ("Mine", "data.init_args.fold")
    assert read_again.settings == ["lr"]
    assert cli.main(["dashboard", str(file), f"--output={tmp_path / 'again.yaml'}"]) == 0
    assert load(tmp_path / "again.yaml") == read_again


def test_a_file_that_is_no_specification_is_refused(tmp_path):
    for text in ("{", "- 1", "color: red"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(
            UserError, match="no specification of a dashboard; expected .* project, entity, title"
        ):
            load(tmp_path / "x.yaml")


def panels(spec: dict) -> dict[str, list[tuple[str, dict]]]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {s["name"]: [(panel["viewType"], panel["config"]) for panel in s["panels"]] for s in sections}


def columns_of(runs: dict) -> list[str]:
    """The pinned columns, wherever W&B keeps them."""
    return re.findall(r"(?:summary|config):[\w/]+", json.dumps(runs))


def test_what_a_band_is_made_of_is_said(home):
    assert "over their seeds" in report(Dashboard(entity="someone")).description
    by_lr = report(Dashboard(entity="someone", group_by="lr")).description
    assert "same lr are one curve, whatever else differs" in by_lr and "not over seeds" in by_lr


def test_published_and_read_back_from_the_server(runs, server, tmp_path):
    """As a user has it: the command in a process of its own, then wandb-workspaces reads what the server has."""
    (tmp_path / "d.yaml").write_text(
        yaml.safe_dump({"groups": ["a", "b"], "classes": ["x"], "settings": ["m.lr"]})
    )
    command = [forked_python(), "-m", "lightning_seg", "dashboard", str(tmp_path / "d.yaml"), "--title=T"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    urls = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert urls.keys() == {"workspace", "report"} and all(url.startswith(server.url) for url in urls.values())
    assert server.unknown == []
    views = {view["type"]: json.loads(view["spec"]) for view in server.views.values()}
    assert {view["entityName"] for view in server.views.values()} == {"someone"}
    shown = panels(views["project-view"])
    assert [config["metrics"] for _, config in shown["Curves"]] == [
        ["val/miou"],
        ["val/loss"],
        ["train/loss"],
    ]
    for _, config in shown["Curves"]:  # one curve a variant, a band over its seeds
        assert (config["groupBy"], config["groupArea"]) == ("variant.value", "stddev")
    assert [config["metrics"][0] for _, config in shown["Training"]] == [*TRAINING]
    assert [config["metrics"] for _, config in shown["Classes"]] == [["test/miou"], ["test/iou/x"]]
    speed = shown["Speed and accuracy"][0][1]
    assert (speed["xAxis"], speed["yAxis"]) == ("summary:train/images_per_second", "summary:test/miou")
    (axes, comparer) = shown["Settings"]
    assert [axis["accessor"] for axis in axes[1]["columns"]] == [
        "config:settings.value.m.lr",
        "summary:test/miou",
    ]
    assert comparer == ("Run Comparer", {"diffOnly": True})
    assert shown["Pictures"][0][1]["mediaKeys"] == ["val/pictures", "test/pictures"]
    (runs_shown,) = views["project-view"]["section"]["runSets"]
    columns = ["summary:test/miou", "config:lr", "config:backbone", "config:finetune", "config:params"]
    assert {*columns, "summary:train/images_per_second", "summary:best_epoch"} <= {*columns_of(runs_shown)}
    (only,) = runs_shown["filters"]["filters"]
    assert (only["key"]["name"], only["value"]) == ("group", ["a", "b"])

    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    assert [section.name for section in ws.Workspace.from_url(urls["workspace"]).sections] == list(shown)
    again = wr.Report.from_url(urls["report"])
    assert again.title == "T"
    assert [block.text for block in again.blocks if isinstance(block, wr.H2)] == list(shown)
    assert os.environ["WANDB_BASE_URL"] == server.url


def test_built_without_a_server(home):
    made = Dashboard(entity="someone", classes=[f"c{i}" for i in range(150)], settings=[])
    assert len(workspace(made).sections) == 6
    assert len(report(made).blocks) == 13
