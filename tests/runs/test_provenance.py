"""The code that made a run is known, wherever the shell stood, with all that was not committed of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_seg.runs import provenance
from lightning_seg.runs.provenance import CODE_PATCH, USER_CODE_PATCH, Repository, package_commit, record_code


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder, **files):
    """Make a repository with one commit; a file ``a_py`` is called ``a.py``."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    for name, text in files.items():
        (folder / name.replace("_py", ".py")).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.fixture
def package(tmp_path):
    """A repository that holds a package, and ignores ``data``."""
    top = repository(tmp_path / "source", a_py="a = 1\n", b_py="b = 1\n")
    (top / "package").mkdir()
    (top / "package" / "__init__.py").write_text("")
    (top / ".gitignore").write_text("/data/\n")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "package")
    return top / "package"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "experiment" / "20260101-000000-abcd"
    folder.mkdir(parents=True)
    return folder


def test_the_commit_is_that_of_the_package_and_not_of_where_the_shell_stands(
    package, run, tmp_path, monkeypatch
):
    elsewhere = repository(tmp_path / "elsewhere", x_py="x = 1\n")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))  # as inside a hook
    head = git(package.parent, "--git-dir=.git", "rev-parse", "HEAD")
    assert package_commit(package) == head
    facts = record_code(run, package=package)
    assert (facts["commit"], facts["dirty"]) == (head, False)
    assert "patch" not in facts and not (run / CODE_PATCH).exists()


def test_the_patch_holds_all_that_is_not_committed_and_applies(package, run, tmp_path):
    top = package.parent
    (top / "a.py").write_text("a = 2\n")
    (top / "b.py").unlink()
    (package / "staged.py").write_text("s = 1\n")
    git(top, "add", "package/staged.py")
    (package / "staged.py").write_text("s = 2\n")
    (top / "new *.py").write_text("n = 1\n")
    (top / "überall.bin").write_bytes(bytes(range(256)))
    (top / "data").mkdir()
    (top / "data" / "ignored.py").write_text("")
    before = git(top, "status", "--porcelain")
    facts = record_code(run, package=package)
    assert git(top, "status", "--porcelain") == before  # nothing was staged or written
    assert facts["dirty"] and facts["patch"] == CODE_PATCH and "patch_left_out" not in facts
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(top), str(clone))
    git(clone, "checkout", "-q", facts["commit"])
    git(clone, "apply", str(run / CODE_PATCH))
    files = {p.relative_to(clone) for p in clone.rglob("*") if p.is_file() and ".git" not in p.parts}
    assert files == {
        *map(Path, ("a.py", ".gitignore", "new *.py", "überall.bin")),
        *map(Path, ("package/__init__.py", "package/staged.py")),
    }
    assert all((clone / file).read_bytes() == (top / file).read_bytes() for file in files)


def test_the_same_changes_have_the_same_digest(package, run):
    (package / "new.py").write_text("n = 1\n")
    first = record_code(run, package=package)["patch_sha256"]
    assert record_code(run, package=package)["patch_sha256"] == first
    (package / "new.py").write_text("n = 2\n")
    assert record_code(run, package=package)["patch_sha256"] != first


def test_what_is_too_large_is_left_out_with_a_word(package, run, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_FILE_LIMIT", 1000)
    (package / "new.py").write_text("n = 1\n")
    for i in range(22):
        (package / f"weights{i:02}.bin").write_bytes(bytes(1001))
    facts = record_code(run, package=package)
    assert facts["patch_left_out"] == 22
    text = (run / CODE_PATCH).read_text()
    assert "Left out, because it is too large: package/weights00.bin" in text and "And 2 more files." in text
    git(package.parent, "clone", "-q", ".", str(tmp_path / "clone"))
    git(tmp_path / "clone", "apply", str(run / CODE_PATCH))
    assert (tmp_path / "clone" / "package" / "new.py").read_text() == "n = 1\n"
    monkeypatch.setattr(provenance, "_FILE_LIMIT", 1)
    facts = record_code(run, package=package)
    assert facts["dirty"] and facts["patch_left_out"] == 23
    monkeypatch.setattr(provenance, "_FILE_LIMIT", 10_000)
    monkeypatch.setattr(provenance, "_PATCH_LIMIT", 5_000)
    assert record_code(run, package=package)["patch_left_out"] == 18


def test_runs_inside_the_repository_do_not_make_it_dirty(package):
    run = package.parent / "results" / "experiment" / "20260101-000000-abcd"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("step\n")
    assert not record_code(run, package=package)["dirty"]
    (package / "new.py").write_text("")
    assert record_code(run, package=package)["dirty"]


def test_runs_of_a_study_lie_a_folder_deeper_and_are_no_code_either(package):
    root = package.parent / "results"
    for variant in ("base", "other"):
        run = root / "study" / variant / "20260101-000000-abcd"
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text("step\n")
    assert not record_code(run, package=package, runs=root)["dirty"]


@pytest.mark.parametrize("broken", ["diff", "ls-files", "read-tree"])
def test_what_git_cannot_tell_is_not_called_clean(package, run, tmp_path, monkeypatch, capsys, broken):
    (package / "new.py").write_text("n = 1\n")
    real = shutil.which("git")
    own = tmp_path / "bin" / "git"
    own.parent.mkdir()
    asked = f'case " $* " in *" --error-unmatch "*) ;; *" {broken} "*) exit 128;; esac'
    own.write_text(f'#!/bin/sh\n{asked}\nexec {real} "$@"\n')
    own.chmod(0o755)
    head = git(package.parent, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", f"{own.parent}:{os.environ['PATH']}")
    facts = record_code(run, package=package)
    assert facts["commit"] == head and facts["dirty"] is None and "patch" not in facts
    assert "whether all code is committed is not known: git" in capsys.readouterr().err


def test_the_users_code_is_recorded_beside_the_package(package, run, tmp_path, monkeypatch):
    mine = repository(tmp_path / "mine", my_net_py="n = 1\n")
    (mine / "my_net.py").write_text("n = 2\n")
    sub = mine / "experiments"
    sub.mkdir()
    monkeypatch.setattr(provenance, "_imported", lambda: [])
    facts = record_code(run, [sub], package=package)
    (code,) = facts["user_code"]
    assert (
        not facts["dirty"]
        and code["folder"] == str(mine)
        and code["dirty"]
        and code["patch"] == USER_CODE_PATCH
    )
    assert code["commit"] == git(mine, "rev-parse", "HEAD")
    assert "+n = 2" in (run / USER_CODE_PATCH).read_text()
    assert "user_code" not in record_code(run, [package], package=package)


def test_a_module_of_the_users_that_is_imported_is_the_users_code(run, tmp_path):
    """In a process of its own, started in a third folder that is a repository, too."""
    mine = repository(tmp_path / "mine", my_net_py="n = 1\n")
    third = repository(tmp_path / "third", x_py="")
    ours = tmp_path / "ours"
    shutil.copytree(
        Path(provenance.__file__).parents[1], ours / "lightning_seg", ignore=lambda *_: ["__pycache__"]
    )
    git(ours, "init", "-q")
    git(ours, "add", "-A")
    git(ours, "commit", "-q", "-m", "ours")
    code = (
        "import json, pathlib, sys, my_net\nfrom lightning_seg.runs.provenance import record_code\n"
        "print(json.dumps(record_code(pathlib.Path(sys.argv[1]))))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        env=os.environ | {"PYTHONPATH": f"{ours}:{mine}", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=third,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    facts = json.loads(out)
    assert (facts["commit"], facts["dirty"]) == (git(ours, "rev-parse", "HEAD"), False)
    assert [c["folder"] for c in facts["user_code"]] == [str(mine)]


def test_a_package_installed_inside_a_repository_is_not_of_that_repository(package, run):
    installed = package.parent / "data" / "site-packages" / "package"  # ignored there
    shutil.copytree(package, installed)
    assert package_commit(installed) is None
    facts = record_code(run, package=installed)
    assert facts["commit"] is None and not facts["dirty"]


def test_no_git_no_repository_and_no_commit_are_no_errors(package, run, tmp_path, monkeypatch):
    (tmp_path / "loose").mkdir()
    assert Repository.of(tmp_path / "loose") is None
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    assert Repository.of(tmp_path / "empty") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert package_commit(package) is None
