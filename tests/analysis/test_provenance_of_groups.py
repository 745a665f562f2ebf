"""Runs of one group that are of different code are told apart."""

from pathlib import Path

from lightning_seg.analysis.settings import provenance
from lightning_seg.runs.records import Record


def made_by(**facts):
    return Record(Path("r"), {}, {"commit": "0123456789", "dirty": False, **facts}, {})


def test_one_commit_with_two_patches_is_two_programs():
    first = made_by(dirty=True, patch_sha256="aaaaaaaa")
    assert provenance([first, made_by(dirty=True, patch_sha256="aaaaaaaa")]) == ""
    said = provenance([made_by(), first, made_by(dirty=True, patch_sha256="bbbbbbbb")])
    assert said == (
        "commit (0123456 / 0123456 with uncommitted changes aaaaaa / 0123456 with uncommitted changes bbbbbb)"
    )


def test_the_users_code_counts_and_old_runs_are_read():
    assert provenance(
        [made_by(user_code=[{"commit": "a" * 9}]), made_by(user_code=[{"commit": "b" * 9}])]
    ) == ("your code (aaaaaaa / bbbbbbb)")
    old = Record(Path("r"), {}, {"commit": "0123456789", "uncommitted_changes": True}, {})
    assert "with uncommitted changes" in provenance([made_by(), old])
