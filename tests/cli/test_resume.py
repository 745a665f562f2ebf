"""``resume`` ends as the run was begun: trained only, or tested."""

import json

import pytest

from lightning_seg.cli.main import main
from lightning_seg.runs.directory import ENVIRONMENT
from tests.runs.made_runs import make_run


@pytest.mark.parametrize(
    ("command", "options", "tested"),
    [("exp", [], True), ("fit", [], False), ("exp", ["--no-test"], False), ("resume", [], True)],
)
def test_what_was_begun_without_a_test_is_not_tested(tmp_path, monkeypatch, capsys, command, options, tested):
    run = make_run(tmp_path, tested=False)
    facts = json.loads((run / ENVIRONMENT).read_text())
    (run / ENVIRONMENT).write_text(json.dumps(facts | {"command": [command, "base"]}))
    asked = []
    monkeypatch.setattr(
        "lightning_seg.experiment.training.resume", lambda *_, then_test: asked.append(then_test)
    )
    assert main(["resume", str(run), *options]) == 0
    assert asked == [tested]
    assert ("not tested, as it was begun by fit" in capsys.readouterr().out) == (command == "fit")
