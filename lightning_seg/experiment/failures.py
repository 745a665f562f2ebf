"""What goes wrong outside the program, in words that say what to do."""

import errno
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import lightning_seg
from lightning_seg.callbacks.checkpointing import Stopped
from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG, ENVIRONMENT, LAST_CHECKPOINT, resume_command
from lightning_seg.runs.provenance import package_commit

_MEMORY = re.compile(r"out of memory|can('t|not) allocate memory", re.IGNORECASE)
_WORKER = re.compile(r"DataLoader worker .*(killed|exited unexpectedly)", re.DOTALL)
_ENDED = re.compile(r"DataLoader worker .*killed by signal: (Terminated|Interrupt|Hangup)", re.DOTALL)
_TRAINED = re.compile(r"You restored a checkpoint with current_epoch=(\d+)")
_INTERVAL = re.compile(r"`val_check_interval` \((\d+)\) must be .* number of the training batches \((\d+)\)")
_FRACTION = re.compile(
    r"You requested to check ([\d.e-]+) of the `\w+` but [\d.e-]+ \* (\d+) < 1\. Please increase the `(\w+)`"
)
_PROCESS = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|gloo|NCCL|ProcessGroup|TCPStore", re.IGNORECASE
)
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def friendly_errors(
    trainer: Trainer, data: SegmentationData, run: Callable[[], Path], resumes: bool = True
) -> Iterator[None]:
    """Turn what the machine does to a run into errors that say what to do.

    Args:
        trainer: That the block trains or tests with.
        data: That it trains or tests on.
        run: Returns the run directory.
        resumes: Whether the block is of a training, which `lightning-seg resume` continues; else the command is to be
            given again.

    Raises:
        UserError: Out of memory, a data worker or another process that died, a disk that cannot be written; fewer
            epochs than the run already has, or more batches between validations than there are.
    """
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, MemoryError, OSError, ValueError, MisconfigurationException) as error:
        explanation = _explain(error, trainer, data, run, resumes)
        if explanation is None:
            raise
        raise UserError(explanation) from error


@contextmanager
def print_resume_hint(trainer: Trainer, run: Callable[[], Path]) -> Iterator[None]:
    """Say how to continue a run that a signal ends.

    Args:
        trainer: That the block trains or tests with.
        run: Returns the run directory.
    """
    try:
        yield
    except SystemExit as stop:
        if trainer.is_global_zero:
            print(
                f"\n{stop if isinstance(stop, Stopped) else 'stopped'} after step {trainer.global_step};"
                f" {resume_command(run())} continues",
                flush=True,
            )
        if stop.code is None:  # Lightning's, between two batches of the test
            raise Stopped(signal.SIGTERM, trainer.is_global_zero) from None
        raise


@contextmanager
def errors_of_settings() -> Iterator[None]:
    """Turn whatever classes of users and libraries raise about their arguments into a user's error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = f"{type(error).__name__}: {error}"
        hint = "LIGHTNING_SEG_TRACEBACK=1 shows where"
        raise UserError(f"these settings cannot be built: {reason}\n{hint}.") from error


def does_not_fit(run: Path, error: BaseException) -> str:
    """Say that a checkpoint has other weights than the network."""
    what = " ".join(str(error).partition(":\n")[2].split())
    return f"the checkpoint of {run} does not fit the network of its settings: {what[:300]}{_made_by(run)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_MEMORY.search(str(error)))


@contextmanager
def note_version_mismatch(run: Path | None) -> Iterator[None]:
    """Add to a user's error that another version of the program made the run, if it did."""
    try:
        yield
    except UserError as error:
        if run is None:
            raise
        raise UserError(f"{error}{_made_by(run)}") from error


def _made_by(run: Path) -> str:
    try:
        known = json.loads((run / ENVIRONMENT).read_text())
        version, commit = known["packages"]["lightning_seg"], known["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        version, commit = "an unknown version", None
    if version == lightning_seg.__version__ and commit in (None, package_commit()):
        return ""
    commit = f", commit {commit[:10]}" if commit else ""
    return (
        f"\n{run} was made by lightning_seg {version}{commit}, and this is another. Use that one, or change what does"
        f" not fit in {run / CONFIG}."
    )


def _explain(
    error: BaseException, trainer: Trainer, data: SegmentationData, run: Callable[[], Path], resumes: bool
) -> str | None:
    text = str(error)
    if trained := _TRAINED.match(text):
        return f"the run has already trained {trained[1]} epochs; --trainer.max_epochs must be more"
    if interval := _INTERVAL.search(text):
        return (
            f"trainer.val_check_interval must be at most {interval[2]}, the number of batches of an epoch; got"
            f" {interval[1]}. --trainer.check_val_every_n_epoch=null counts batches across epochs."
        )
    if fraction := _FRACTION.search(text):
        overfit = getattr(trainer, "overfit_batches", 0) and "test" not in fraction[3]
        name = "overfit_batches" if overfit else fraction[3]
        return (
            f"trainer.{name}={fraction[1]} is less than one of {fraction[2]} batches. Give at least"
            f" {math.ceil(1000 / int(fraction[2])) / 1000}, or a whole number of batches."
        )
    if is_out_of_memory(error):
        return _out_of_memory(trainer, data)
    if ended := _ENDED.search(text):
        return (
            f"a data worker was ended by a signal ({ended[1]}), as `timeout`, a scheduler or Ctrl-C send it."
            f" {_again(run, resumes)}"
        )
    if _WORKER.search(text):
        return (
            "a data worker was killed, most often because the machine's memory was full.\n"
            f"Try --data.init_args.num_workers={max(0, _workers(trainer) // 2)}"
            " or a smaller --data.init_args.batch_size, and look at the system's log (dmesg)."
            f"\n{_again(run, resumes)}"
        )
    if trainer.world_size > 1 and _PROCESS.search(text):
        return f"another process of this run has ended; its own error is the cause. {_again(run, resumes)}"
    if "Error(s) in loading state_dict" in text:
        return does_not_fit(run(), error)
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f" {error.filename}" if error.filename else ""
        saved = "What was saved before is whole." if resumes else "Make room there, or make it writable."
        return f"cannot write{where}: {error.strerror}. {saved} {_again(run, resumes)}"
    return None


def _out_of_memory(trainer: Trainer, data: SegmentationData) -> str:
    what = "the device is out of memory"
    if trainer.strategy.root_device.type == "cuda":
        free, total = torch.cuda.mem_get_info(trainer.strategy.root_device)
        what += f" ({torch.cuda.get_device_name()}, {total / 1e9:.0f} GB, {free / 1e9:.1f} GB free now)"
    height, width = data.crop_size
    if trainer.testing or trainer.validating or trainer.state.fn != "fit":
        window = [max(32, height), max(32, width)]
        return (
            f"{what} in evaluation, which sees images at their original size, {data.eval_batch_size} at a time."
            "\nTry --data.init_args.eval_batch_size=1 or, of a network that labels pixels,"
            f' "--model.inference={{class_path: SlidingWindow, init_args: {{size: {window}}}}}".'
            + " CUDA_VISIBLE_DEVICES= before the command computes on the processor."
            * (trainer.strategy.root_device.type == "cuda")
        )
    batch, accumulate = data.batch_size, trainer.accumulate_grad_batches
    smaller = ",".join(str(max(32, round(side * 0.7 / 32) * 32)) for side in (height, width))
    advice = f"smaller crops, --data.init_args.crop_size=[{smaller}]"
    if batch > 1:
        advice = (
            f"--data.init_args.batch_size={batch // 2} --trainer.accumulate_grad_batches={2 * accumulate}"
            f" (as many images a step), or {advice}"
        )
    return (
        f"{what} in training with {batch} crops of {height}x{width} on each device.\nTry {advice}, or"
        " --trainer.precision=bf16-mixed; 'lightning-seg find-batch-size NAME' finds the largest batch that fits."
    )


def _workers(trainer: Trainer) -> int:
    loader = trainer.train_dataloader
    return getattr(loader, "num_workers", 0)


def _again(run: Callable[[], Path], resumes: bool) -> str:
    if not resumes:
        return "Then give the command again."
    saved = (run() / LAST_CHECKPOINT).exists()
    return f"{resume_command(run())} continues." if saved else "Nothing was saved yet."


def end_with_first_process() -> None:
    """End this process when the one that started it is gone, if it is one of several of a run on this machine.

    Killed outright, the first process cannot tell the others, which might wait for it for half an hour.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        print(
            "error: the process that started this one is gone, so it ends, too", file=sys.stderr, flush=True
        )
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
