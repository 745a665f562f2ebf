"""How the commands read their arguments: one parser, and the types of options that several commands have."""

import argparse
import difflib
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file, known_experiments

SETTINGS = "Further --key=value are settings of the experiment; 'lightning-seg fit --help' lists them."


class Arguments(argparse.ArgumentParser):
    """Reads the arguments of a command; a wrong one is reported in one line.

    Args:
        prog: The words that call the command.
        description: What it does.
        example: A command line of it.
        settings: Whether it also takes settings of the experiment, ``--key=value``.
    """

    def __init__(self, prog: str, description: str, example: str = "", settings: bool = False) -> None:
        self._flags: set[str] = set()
        self._takes_settings = settings
        paragraphs = [textwrap.fill(SETTINGS, 100)] * settings + [f"example: {example}"] * bool(example)
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, 100),
            epilog="\n\n".join(paragraphs),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument, and note the names of an option."""
        self._flags |= {name for name in names if name.startswith("-")}
        return super().add_argument(*names, **options)

    def add_experiment(self) -> None:
        """Add the argument that names an experiment, and ``-c FILE``."""
        self.add_argument(
            "experiment",
            nargs="?",
            metavar="NAME",
            help="an experiment in experiments/ or of the project, or a YAML file",
        )
        self.add_argument(
            "-c",
            "--config",
            action="append",
            default=[],
            metavar="FILE",
            help="the YAML file, instead of NAME",
        )

    def add_run(self) -> None:
        """Add the argument that names a run."""
        self.add_argument("run", metavar="RUN", help="a run directory, or an experiment's for its latest run")

    def format_usage(self) -> str:
        """Say that settings may follow."""
        return self._with_settings(super().format_usage())

    def format_help(self) -> str:
        """Say in the usage that settings may follow."""
        usage, rest = super().format_usage(), super().format_help()
        return self._with_settings(usage) + rest.removeprefix(usage)

    def _with_settings(self, usage: str) -> str:
        return usage.rstrip("\n") + " [--key=value ...]" * self._takes_settings + "\n"

    def parse_with_settings(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Split arguments into those of the command and settings of the experiment, ``--key=value`` or ``--key value``.

        With `add_experiment` the settings begin with the experiment's ``-c FILE``.
        """
        own: list[str] = []
        settings: list[str] = []
        words = list(arguments)
        while words:
            word = words.pop(0)
            name = word.split("=")[0]
            if not word.startswith("--") or name in self._flags:
                own.append(word)
                continue
            if close := difflib.get_close_matches(name, self._flags, n=1, cutoff=0.85):
                self.error(f"unknown option {name}. Did you mean {close[0]}?")
            settings.append(word)
            if "=" not in word and words and not words[0].startswith("--"):
                settings.append(words.pop(0))
        options = self.parse_args(own)
        if "experiment" in options:
            settings = [*config_arguments(options.experiment, options.config), *settings]
        return options, settings

    def error(self, message: str) -> NoReturn:
        """Raise the error for `lightning_seg.cli.main.main` to print."""
        raise UserError(f"{message.rstrip('.')}. '{self.prog} --help' explains the options.")


def config_arguments(name: str | None, files: Sequence[str] = ()) -> list[str]:
    """Return ``-c FILE`` of an experiment.

    Args:
        name: A name in ``experiments/``, or the path of a YAML file.
        files: The files of ``-c``, if it was given instead.

    Raises:
        UserError: Neither, or there is no such experiment.
    """
    if name is None and not files:
        raise UserError(f"which experiment? {known_experiments()}")
    named = [] if name is None else [str(experiment_file(name))]
    return [word for file in [*named, *files] for word in ("-c", file)]


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a number with a lower limit."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return number


def size(text: str) -> tuple[int, int]:
    """Read ``HEIGHTxWIDTH``, in pixels."""
    try:
        height, width = (int(length) for length in text.split("x"))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH, such as 512x512; got {text!r}") from None
    return height, width


def folder(text: str) -> Path:
    """Check that a folder has a name; an empty one would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; name a folder")
    return Path(text)


def output_file(text: str) -> Path:
    """Check that a file can be written, before the work whose result it is to hold."""
    path = Path(text)
    place = path.absolute().parent
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; name a file")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; expected the name of a file")
    if not place.is_dir():
        raise argparse.ArgumentTypeError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else place, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written: no permission")
    return path


def picture_file(text: str) -> Path:
    """Check that a picture can be written: see `output_file`; the ending says in what format."""
    from PIL import Image

    path = output_file(text)
    known = [ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE]
    if path.suffix.lower() not in known:
        raise argparse.ArgumentTypeError(f"{path} must end in .png, .jpg or another format of pictures")
    return path
