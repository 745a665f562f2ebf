"""What CONTRIBUTING.md and the files for tools name is there, and all name one version."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_files_that_contributing_names_exist():
    named = set(re.findall(r"`([\w./-]+/[\w./-]*|[A-Z]+\.md)`", TEXT))
    files = {name for name in named if "NAME" not in name}
    assert len(files) > 25
    assert not [name for name in files if not (ROOT / name).exists()]
    folders = {name.rpartition("/")[0] for name in named if "NAME" in name}
    assert not [name for name in folders if not (ROOT / name).is_dir()]


def test_base_classes_that_contributing_names_exist():
    rows = [[cell.strip() for cell in line.split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
    source = "\n".join(path.read_text() for path in (ROOT / "lightning_seg").rglob("*.py"))
    classes = {
        name for row in rows[1:] for cell in row[3:5] for name in re.findall(r"`([A-Z]\w+[a-z])`", cell)
    }
    assert {"Network", "PixelLoss", "SegmentationData", "FocalLoss"} <= classes
    assert not [name for name in classes if not re.search(rf"^class {name}\b", source, re.MULTILINE)]


def test_its_import_order_holds_all_packages():
    block = re.search(r"```\n(errors.*?)```", TEXT, re.DOTALL)
    assert block is not None
    packages = {p.parent.name for p in (ROOT / "lightning_seg").glob("*/__init__.py")}
    assert set(re.findall(r"\w+", block[1])) == packages | {"errors"}


def test_version_and_license_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert f"\n## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_hooks_and_workflow_call_what_is_there():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]  # no network
    requirements = " ".join(PROJECT["optional-dependencies"]["dev"])
    for hook in hooks["repos"][0]["hooks"]:
        program = re.match(r"\.venv/bin/(\w+)", hook["entry"])
        assert program and program[1] in requirements
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]["steps"]
    assert steps[-1]["run"] == "bash .ci/run" and (ROOT / ".ci/run").is_file()
