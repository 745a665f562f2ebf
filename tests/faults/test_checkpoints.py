"""Checkpoints: whole or not there, the one before kept, damage noticed, no code in them ever run."""

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from lightning_seg.errors import UserError
from lightning_seg.training.checkpoint_io import SafeCheckpointIO, newest, read

STATE = {"state_dict": {"weight": torch.arange(3000.0)}, "global_step": 3}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def save(run, step, name="last"):
    path = run / f"checkpoints/{name}.ckpt"
    SafeCheckpointIO().save_checkpoint({**STATE, "global_step": step}, path)
    return path


def test_what_is_written_is_read_back_and_the_one_before_is_kept(run):
    for step in (1, 2, 3):
        save(run, step)
    save(run, 2, "best")
    steps = {path.name: read(path)["global_step"] for path in (run / "checkpoints").iterdir()}
    assert steps == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 2}
    assert torch.equal(read(run / "checkpoints/last.ckpt")["state_dict"]["weight"], torch.arange(3000.0))
    assert newest(run) == run / "checkpoints/last.ckpt"


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(run):
    """Through a link to /dev/full every write meets the real error of a full disk."""
    path = save(run, 1)
    path.with_name("last.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="last.ckpt cannot be written: No space left on device") as caught:
        save(run, 2)
    assert f"'lightning-seg resume {run}' continues" in str(caught.value)
    assert read(path)["global_step"] == 1 and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_file_that_may_not_grow_further_is_no_checkpoint(run):
    """A quota or limit ends the file after some blocks; torch's writer reports that in words of its own."""
    path = save(run, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(UserError, match="cannot be written: File too large"):
            save(run, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read(path)["global_step"] == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        SafeCheckpointIO().save_checkpoint(STATE, tmp_path / "file/checkpoints/last.ckpt")


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "text"])
def test_damage_is_noticed_and_the_one_before_taken(run, damage):
    save(run, 1)
    path = save(run, 2)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1  # torch itself would load this
    harmed = {"truncated": content[:-300], "empty": b"", "flipped": content, "text": b"not a checkpoint"}
    path.write_bytes(harmed[damage])
    with pytest.raises(UserError, match=r"last.ckpt is damaged"):
        read(path)
    with pytest.warns(UserWarning, match="last.ckpt is damaged .* the checkpoint before it is taken"):
        assert newest(run) == run / "checkpoints/previous.ckpt"
    (run / "checkpoints/previous.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="all checkpoints of .* are damaged"):
        newest(run)


def test_between_two_renames_the_previous_one_counts(run):
    save(run, 1)
    save(run, 2)
    (run / "checkpoints/last.ckpt").unlink()
    assert newest(run) == run / "checkpoints/previous.ckpt"
    assert newest(run / "nothing") is None


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("/tmp/executed-from-a-checkpoint"),))


def test_code_in_a_checkpoint_is_not_run(run):
    marker = Path("/tmp/executed-from-a-checkpoint")
    assert pickle.loads(pickle.dumps(Evil())) is None and marker.exists()  # it would do it
    os.remove(marker)
    path = run / "checkpoints/last.ckpt"
    torch.save({**STATE, "callbacks": Evil()}, path)
    with pytest.raises(UserError, match="no checkpoint of tensors and plain types"):
        read(path)
    with pytest.raises(UserError, match="no checkpoint of tensors and plain types"):
        SafeCheckpointIO().load_checkpoint(path, weights_only=False)  # whatever the caller wishes
    assert not marker.exists()
