"""The command line. This module imports nothing heavy: a command pays only for what it uses."""

import difflib
import importlib
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lightning_seg.errors import ExitCode, UserError


class Command(NamedTuple):
    """A command; its module is imported when it is called.

    Attributes:
        name: Of the command. That of its module in `lightning_seg.cli` has ``_`` for ``-``; its ``main`` takes the
            arguments after the name.
        arguments: They, in short.
        help: What it does, in a line.
    """

    name: str
    arguments: str
    help: str


GROUPS = {
    "train": (
        Command(
            "new", "NAME", "write an experiment of your own to start from: YAML, network, loss, metric, data"
        ),
        Command("exp", "NAME", "train experiments/NAME.yaml, then test the best checkpoint"),
        Command("resume", "RUN", "continue a run that was stopped or killed, exactly where it was"),
        Command("cross-validate", "NAME K", "K runs, one a fold; then mean, spread, pooled score, baseline"),
        Command("fit", "NAME", "train only; 'fit --help' lists every key of YAML and command line"),
        Command("search", "FILE", "search for the best settings by a W&B sweep file, with Optuna"),
        Command("find-lr", "NAME", "raise the learning rate step by step, suggest one, draw the curve"),
        Command("find-batch-size", "NAME", "find the largest batch that fits into the device's memory"),
    ),
    "look at the data": (
        Command("check-data", "NAME", "read every image and mask, report what is wrong, draw the classes"),
        Command("preview-data", "NAME", "draw augmented training samples as the network sees them"),
    ),
    "evaluate and use": (
        Command("test", "RUN", "test the best checkpoint of a run again"),
        Command("validate", "RUN", "the same on the validation split"),
        Command(
            "predict", "RUN IMAGES", "masks and overlays for a folder of images, or one image of any size"
        ),
        Command("ensemble", "RUN RUN ...", "average the probabilities of runs; the result is a run, tested"),
        Command("postprocess", "RUN", "what a CRF, morphology ... change, and whether that is certain"),
        Command("calibrate", "RUN", "fit a temperature; reliability diagram, expected calibration error"),
        Command("export", "RUN|NAME", "write a network that runs without this package, checked"),
        Command("demo", "RUN [RUN2]", "drop an image into a local page, see the mask"),
    ),
    "compare": (
        Command("ablation", "NAME", "variants x seeds as resumable runs, then which is better, how certain"),
        Command("compare", "[RUNS ...]", "rank runs with intervals, say which differences are real"),
        Command("runs", "[COMMAND]", "list, show, tag and delete runs; disk use; prune old checkpoints"),
        Command("sync", "[RUNS ...]", "upload offline runs to W&B, checked; --to mlflow, --to tensorboard"),
        Command("dashboard", "[RUNS ...]", "make a W&B workspace and report for runs"),
    ),
    "look at the network": (
        Command("profile", "NAME|RUN ...", "parameters, multiply-adds, memory, speed, receptive field"),
        Command("features", "RUN IMAGE", "draw the feature maps of an image"),
        Command("bench", "WHAT", "ratios to bare loops and other libraries, measured on this machine"),
    ),
}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}
RENAMED = {
    "lr": "find-lr",
    "batch-size": "find-batch-size",
    "folds": "cross-validate",
    "check": "check-data",
    "preview": "preview-data",
    "describe": "profile",
}

_HEAD = """\
usage: lightning-seg COMMAND ...

'lightning-seg COMMAND --help' explains a command, its options and an example.
"""
_TAIL = """
RUN is runs/<experiment>/<id>, or runs/<experiment> for its latest run. NAME may be the path of a YAML file.
Every key of the YAML can be given on the command line; 'lightning-seg fit --help' lists them. For example
  lightning-seg exp unet_camvid --trainer.devices=2 --data.init_args.batch_size=8

exit codes
  0        done
  1        done, but something is wrong: bad files, failed runs, incomplete uploads, lost speed; or a crash
  2        not done: the error says what to change; LIGHTNING_SEG_TRACEBACK=1 shows where it came from
  128 + N  ended by signal N, such as 130 after Ctrl-C
"""


def usage() -> str:
    """Return the help that lists all commands."""
    return "\n".join([_HEAD, *(_section(title, group) for title, group in GROUPS.items())]) + _TAIL


def _section(title: str, group: Sequence[Command]) -> str:
    rows = [f"  {f'{command.name} {command.arguments}':<26} {command.help}\n" for command in group]
    return "".join([f"{title}\n", *rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; those of the process unless given.

    Returns:
        The exit code, see `lightning_seg.errors.ExitCode`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # into a file, too: a log shows how far a run is
    try:
        try:
            if not arguments or arguments[0] in ("-h", "--help", "help"):
                print(usage(), end="")
                return ExitCode.DONE
            return _command(arguments[0])(arguments[1:]) or ExitCode.DONE
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _failed(error, str(error))
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return ExitCode.SIGNAL + signal.SIGPIPE
    except OSError as error:
        if error.filename is None:  # no file of the user's
            raise
        return _failed(error, f"{error.filename}: {error.strerror}.")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.SIGNAL + signal.SIGINT


def _command(name: str) -> Callable[[list[str]], int | None]:
    """Import what runs a command; no other command is imported."""
    if name in RENAMED:
        raise UserError(
            f"the command {name!r} is called {RENAMED[name]!r}: lightning-seg {RENAMED[name]} ..."
        )
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown command {name!r}.{hint} 'lightning-seg --help' lists the commands.")
    function: Callable[[list[str]], int | None] = importlib.import_module(
        f"lightning_seg.cli.{name.replace('-', '_')}"
    ).main
    return function


def _failed(error: Exception, message: str) -> int:
    """Report an error that is the user's to mend."""
    if os.environ.get("LIGHTNING_SEG_TRACEBACK"):
        raise error
    print(f"error: {message}", file=sys.stderr)
    return ExitCode.USER_ERROR


def _nobody_reads() -> bool:
    """Whether it is standard output whose reader has gone, as in ``| head``; what is left for it is dropped."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not poll.poll(0):  # an error or a hang-up would be reported without being asked for
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # or Python complains when it exits
    return True
