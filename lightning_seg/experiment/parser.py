"""The parser of experiment files: a wrong setting is answered in a line or two."""

import difflib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Never

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lightning_seg.errors import UserError, did_you_mean, parameters_of, without_noise
from lightning_seg.experiment.class_paths import (
    expand_arguments,
    expand_settings,
    named_classes,
    no_such_class,
)
from lightning_seg.experiment.foreign_parts import adapt_parts
from lightning_seg.runs.directory import JsonObject

_LIMITS = (
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
)
_MEMORY = "in_memory"
_LENGTHS = {"T_0", "T_max", "total_iters"}  # what torch calls a number of steps
_NUMBER = re.compile(r"Expected an? (int|float)\b")
_NOT_ACCEPTED = re.compile(r"(?:Group '([\w.]+)' does not accept o|O)ption '([\w.]+)'")
# What jsonargparse says of a name without dots that is no class it knows.
_UNKNOWN = r'Parser key "([\w.]+)":.*dot import path string: (\w+)$'


# Lightning's defaults that are enumerations, such as Timer's, in config.yaml.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


class Parser(LightningArgumentParser):
    """Knows classes by short names, and reports a wrong setting in a line or two, with the nearest right one.

    Args:
        *args: As of LightningArgumentParser.
        files: The settings of files, already read, that arguments may name.
        **kwargs: As of LightningArgumentParser.
    """

    def __init__(self, *args: Any, files: Mapping[Path, JsonObject] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._files = files or {}
        self._args: Sequence[str] = ()

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Namespace | None = None, **kwargs: Any
    ) -> Namespace:
        """Parse arguments, with the full class path in place of each short name."""
        self._args = args
        for arg in args if self._files else ():
            if arg.startswith("--") and (key := arg.split("=")[0].lstrip("-")):
                self._refuse_unknown(key, "the command line")
        self._files, args = adapt_parts(self._files, args)
        parsed = super().parse_args(expand_arguments(args), namespace, **kwargs)
        for name, value in _whole_numbers(args, self._files).items():
            if parsed["trainer"].get(name) == value:
                parsed["trainer"][name] = value
        return parsed

    def instantiate_classes(self, cfg: Namespace, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Build the objects; limits of the trainer that are whole numbers stay so (see `_whole_numbers`)."""
        built = super().instantiate_classes(cfg, **kwargs)
        for name in _LIMITS if "trainer" in cfg else ():
            if isinstance(cfg["trainer"].get(name), int) and built["trainer"][name] == cfg["trainer"][name]:
                built["trainer"][name] = cfg["trainer"][name]
        return built

    def error(self, message: str, ex: Exception | None = None) -> Never:  # type: ignore[override]
        """Raise the error for `lightning_seg.cli.main.main` to print."""
        message = without_noise(message)
        message = re.sub(
            r"Key must be a string, got: (\S+)\.",
            r"a mapping of numbers (\1: ...) belongs to no setting of this class",
            message,
        )
        if (option := _NOT_ACCEPTED.search(message)) and not any(
            str(file) in message for file in self._files
        ):
            path = ".".join(filter(None, option.groups()))
            where = next((str(file) for file, settings in self._files.items() if _holds(settings, path)), "")
            message = f"{where}: {message}" if where else message
        known = {name for a in self._actions if a.dest for name in (a.dest, a.dest.rpartition(".")[2])}
        for cls in named_classes(self._files.values(), self._args):
            known |= parameters_of(cls)
        if option and 'key "model.lr_scheduler"' in message and option[2] in _of_schedules():
            leave = "Leave it out" if option[2] in _LENGTHS else "Choose a class where it is"
            raise UserError(
                f"model.lr_scheduler: {option[2]} cannot be given: the second argument of a schedule is the number of "
                f"steps of the training, and is filled in. {leave}, or one of lightning_seg.training.schedules: "
                "Poly, Cosine, MultiStep, OneCycle, Plateau, Constant."
            ) from None
        if (unknown := re.search(_UNKNOWN, message, re.DOTALL | re.MULTILINE)) and not _NUMBER.search(
            message
        ):
            raise UserError(no_such_class(*unknown.groups())) from None
        hint = did_you_mean(option[2] if option else message, known)
        raise UserError(f"{message}{hint}\n'lightning-seg fit --help' lists the settings.") from None

    def parse_path(self, path: Any, *args: Any, _fail_no_subcommand: bool = True, **kwargs: Any) -> Namespace:
        """Take the settings of a file as they were read before; jsonargparse calls it for ``-c FILE``."""
        for key in self._files[Path(path)]:
            self._refuse_unknown(str(key), str(path))
        try:
            return self.parse_object(expand_settings(self._files[Path(path)]), *args, **kwargs)
        except UserError as error:
            raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None

    def parse_string(self, cfg_str: str, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Take settings that are in no file; see `in_memory`."""
        given = yaml.safe_load(cfg_str)
        if isinstance(given, dict) and given.keys() == {_MEMORY}:
            return self.parse_path(given[_MEMORY], *args, **kwargs)
        return super().parse_string(cfg_str, *args, **kwargs)

    def _refuse_unknown(self, key: str, place: str) -> None:
        """Refuse a setting whose first word is none; jsonargparse names only what is below it."""
        first = key.split(".")[0].rstrip("+")
        known = {action.dest.split(".")[0] for action in self._actions if action.dest}
        if first in known or key.endswith(".help") or f"--{first}" in self._option_string_actions:
            return
        close = difflib.get_close_matches(first, ("model", "data", "trainer"), n=1)
        close = close or difflib.get_close_matches(first, known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(sorted(known - {'help'}))}."
        raise UserError(f"{place}: there is no setting {first!r}. {hint}")


def in_memory(file: Path) -> str:
    """Return what stands after ``-c`` for settings that the parser was given as those of a file which is not there."""
    return f"{{{_MEMORY}: {json.dumps(str(file))}}}"


def _of_schedules() -> set[str]:
    """Names of the second arguments of torch's schedules, in whose place the number of steps comes."""
    kinds = [kind for kind in vars(lr_scheduler).values() if isinstance(kind, type)]
    parameters = [[*inspect.signature(kind).parameters] for kind in kinds if issubclass(kind, LRScheduler)]
    return {names[1] for names in parameters if len(names) > 1}


def _holds(settings: Any, path: str) -> bool:
    """Whether settings have one of this path, or of the end of it, as jsonargparse names it."""
    if isinstance(settings, list):
        return any(_holds(part, path) for part in settings)
    if not isinstance(settings, Mapping):
        return False
    first, _, rest = path.partition(".")
    if path in settings or (first in settings and (not rest or _holds(settings[first], rest))):
        return True
    return any(_holds(part, path) for part in settings.values())


def _whole_numbers(args: Sequence[str], files: Mapping[Path, JsonObject]) -> dict[str, int]:
    """Find the trainer's limits that are given as whole numbers: so many batches, where 1.0 means all of them.

    Their type is `int | float`, and Python has one object for that and for `float | int`: where a library was imported
    that writes it so, such as MONAI, 1 would be parsed as 1.0.
    """
    given: JsonObject = {}
    for settings in files.values():
        trainer = settings.get("trainer")
        given |= trainer if isinstance(trainer, dict) else {}
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name.startswith("--trainer."):
            given[name.removeprefix("--trainer.")] = value if equals else following
    whole = {
        name: str(given[name]) for name in _LIMITS if name in given and not isinstance(given[name], bool)
    }
    return {name: int(text) for name, text in whole.items() if text.isdecimal()}
