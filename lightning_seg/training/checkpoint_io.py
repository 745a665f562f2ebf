"""Atomic checkpoint files: complete or absent, the previous one kept, damage detected."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch.serialization import MAP_LOCATION

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.tensor_file import damage_of, why_unreadable
from lightning_seg.runs.directory import BEST_CHECKPOINT, LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, resume_command

LAST, PREVIOUS = Path(LAST_CHECKPOINT).name, Path(PREVIOUS_CHECKPOINT).name

Checkpoint = dict[str, Any]
"""What Lightning saves: weights, and states of optimizers, loops and callbacks, each of a shape of its own."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it once it is on the disk; reads plain types only.

    Whenever the program is killed, and whatever the disk does, there is a whole checkpoint: the new one or the one
    before, which `last.ckpt` leaves behind as `previous.ckpt`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            UserError: It cannot be written; what was there before is untouched.
        """
        path = Path(path)
        unfinished = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))
            unfinished.replace(path)
            _sync(path.parent)
        except (OSError, RuntimeError) as error:
            reason = _reason(error)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            run = path.parent.parent
            raise UserError(
                f"the checkpoint {path} cannot be written: {reason}.\nWhat was saved before is untouched. Make room"
                f" (or the folder writable), then {resume_command(run)} continues."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: MAP_LOCATION = "cpu", weights_only: bool | None = True
    ) -> Checkpoint:
        """Read a checkpoint; see `read`."""
        return read(path, map_location)


def read(path: str | Path, map_location: MAP_LOCATION = "cpu") -> Checkpoint:
    """Read a checkpoint without running any code that it may contain.

    Args:
        path: The file.
        map_location: Where the tensors go, as for `torch.load`.

    Raises:
        UserError: It is missing, damaged, or holds something else than tensors and plain types.
    """
    if damage := damage_of(Path(path)):
        raise UserError(f"the checkpoint {path} {damage}.")
    try:
        out: Checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        return out
    except Exception as error:  # a foreign zip file fails in many ways
        raise UserError(
            f"{path} is no checkpoint of tensors and plain types: {why_unreadable(error)}"
        ) from None


def newest(run: Path) -> Path | None:
    """Find the newest whole checkpoint of a run; damaged ones are passed over with a warning.

    Args:
        run: The run directory.

    Returns:
        The file, or None if none was ever written.

    Raises:
        UserError: All are damaged.
    """
    present = [run / name for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, BEST_CHECKPOINT)]
    present = [file for file in present if file.exists()]
    for file in present:
        damage = damage_of(file)
        if damage is None:
            return file
        rank_zero_warn(f"{file} {damage}; the checkpoint before it is taken instead")
    if present:
        raise UserError(
            f"all checkpoints of {run} are damaged. To train it again from the beginning, delete"
            f" {run / LAST_CHECKPOINT} and those beside it, then {resume_command(run)}."
        )
    return None


def _sync(folder: Path) -> None:
    """Put the names of a folder on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The operating system's own words; torch's writer may put its own error on top of them."""
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error).split("\n")[0]
