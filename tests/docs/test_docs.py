"""What the documents name is there."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


def test_every_fault_has_its_test():
    named = re.findall(r"`((?:\w+/)+\w+\.py)(?:::(\w+))?`", (ROOT / "docs/faults.md").read_text())
    missing = [
        (file, test) for file, test in named
        if f"def {test or ''}" not in (ROOT / "tests" / file).read_text()
    ]  # fmt: skip
    assert len(named) > 30 and not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_class_paths_are_there(document):
    """Names such as lightning_seg.training.losses.CrossEntropy, in text or YAML."""
    from importlib import import_module

    missing = []
    for name in set(re.findall(r"\blightning_seg(?:\.[a-z_0-9]+)+\.[A-Z]\w*", document.read_text())):
        module, _, attribute = name.rpartition(".")
        if not hasattr(import_module(module), attribute):
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_there(document):
    from lightning_seg.cli.main import COMMANDS

    commands = set(re.findall(r"\blightning-seg ([a-z][a-z-]*)\b", document.read_text()))
    assert commands <= set(COMMANDS), commands - set(COMMANDS)


def test_every_experiment_is_named():
    text = "".join(document.read_text() for document in DOCUMENTS)
    missing = [path.stem for path in (ROOT / "experiments").rglob("*.yaml") if f"{path.stem}" not in text]
    assert not missing


def test_examples_of_ones_own_experiment_run_as_they_are_written(tmp_path):
    import numpy as np
    import torch
    from PIL import Image

    made = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_experiment.md").read_text(), re.S):
        exec(block, made)
    (tmp_path / "train").mkdir()
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "train/a.jpg")
    Image.fromarray(np.ones((5, 4), np.uint8)).save(tmp_path / "train/a.png")
    kitchen = made["Kitchen"](str(tmp_path), batch_size=1, crop_size=(4, 4))
    image, mask = kitchen.read(kitchen.samples("train")[0])
    assert image.shape == (5, 4, 3) and (mask == 1).all()
    network = made["Shallow"](3, "test_resnet", weights=False)
    assert network(torch.zeros(2, 3, 33, 40)).shape == (2, 3, 33, 40)


def test_files_named_in_the_guide_to_the_code_are_there():
    text = (ROOT / "docs/house.md").read_text()
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text)
    missing = [file for file in named if not (ROOT / "lightning_seg" / file).exists()]
    assert len(named) > 30 and not [file for file in missing if not (ROOT / file).exists()]


def test_every_page_is_in_the_navigation_once():
    pages = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    there = [str(path.relative_to(ROOT / "docs")) for path in DOCUMENTS[1:]]
    assert sorted(pages) == sorted(there)


def test_the_check_of_the_site_finds_dead_links_and_other_hosts(tmp_path):
    check = importlib.util.spec_from_file_location("check_site", ROOT / "docs/scripts/check_site.py")
    module = importlib.util.module_from_spec(check)
    check.loader.exec_module(module)
    (tmp_path / "a.html").write_text(
        '<h1 id="x"><a href="b.html#y">1</a><a href="#x">2</a><a href="https://h.org">3</a>'
    )
    (tmp_path / "b.html").write_text(
        '<script src="https://h.org/s.js"></script><img src="c.png"><a href="a.html">4</a>'
    )
    assert [line.split(" ")[:3] for line in module.faults(tmp_path)] == [
        ["a.html", "links", "to"], ["b.html", "loads", "https://h.org/s.js"], ["b.html", "links", "to"],
    ]  # fmt: skip


def test_six_parts_of_ones_own_run_as_they_are_written(tmp_path, monkeypatch, capsys):
    """A network, a loss, a metric, a policy, a callback and a data set, in two files of a folder."""
    import json
    import sys

    import numpy as np
    from PIL import Image

    from lightning_seg.cli.main import main

    text = (ROOT / "docs/own_code.md").read_text()
    files = dict(re.findall(r"```\w+\n# (experiments/cups\.\w+)\n(.*?)```", text, re.S))
    (tmp_path / "experiments").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        (tmp_path / "data/cups" / split).mkdir(parents=True)
        for number in range(8 if split == "train" else 2):
            path = tmp_path / "data/cups" / split / f"{number}.jpg"
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
            mask = rng.integers(0, 3, (40, 48)).astype(np.uint8)
            mask[:3] = 255
            Image.fromarray(mask).save(path.with_suffix(".png"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        quick = [
            "--trainer.accelerator=cpu",
            "--trainer.devices=1",
            "--data.init_args.num_workers=0",
            "--tracking=[]",
        ]
        assert main(["exp", "cups", *quick]) == 0
    finally:
        sys.modules.pop("cups", None)
    said = capsys.readouterr().out
    assert "loss     SmoothedLoss is given class numbers (B, H, W), ignored pixels as 255" in said
    assert "metric   ImagesRight is given labels, one image at a time; ignored pixels do not count" in said
    assert re.search(r"backbone\.0 .* frozen +no\n", said) and re.search(r"backbone\.1 .* yes\n", said)
    assert "epoch 2: " in said and "is the hardest class" in said
    (written,) = tmp_path.glob("runs/cups/*/test.json")
    assert json.loads(written.read_text())["scores"]["ImagesRight"] == 0
    assert sum(len(content.splitlines()) for content in files.values()) == 80


def test_the_page_of_keys_is_what_the_parser_knows():
    spec = importlib.util.spec_from_file_location("keys", ROOT / "docs/scripts/keys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    foreign = ("| `trainer.", "| `checkpoint.")  # whose words are those of the installed version of Lightning
    now, written = (
        [line.split("|")[1] if line.startswith(foreign) else line for line in text.splitlines()]
        for text in (module.keys(), (ROOT / "docs/keys.md").read_text())
    )
    assert len(now) > 150 and now == written, "python docs/scripts/keys.py writes it"


def test_quoted_messages_are_those_of_the_code():
    def text(node):
        if isinstance(node, ast.JoinedStr):
            return "".join(
                "\0" if isinstance(part, ast.FormattedValue) else text(part) for part in node.values
            )
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "\0"

    said = "\n".join(
        text(node)
        for path in (ROOT / "lightning_seg").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    )
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    missing = [
        row for row in rows
        if not re.search("[^\n]*?".join(re.escape(part) for part in row.split("...")), said)
    ]  # fmt: skip
    assert len(rows) > 30 and not missing
