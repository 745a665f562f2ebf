"""Class paths in experiment files and on command lines: short names, and what is wrong with those that lead nowhere.

A name without dots is looked up among the public classes of this package and in the libraries' modules where such a
class is usually found. So its meaning depends on nothing but the setting it stands in, whatever was imported before.
"""

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lightning_seg import IGNORE_INDEX, PUBLIC
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import refuse_doubles
from lightning_seg.runs.directory import JsonObject

# Where the class of a setting is looked up: packages of this one, and modules of libraries.
_LOSSES = ("lightning_seg.training.losses", "lightning_seg.training.multi_label_losses", "torch.nn")
_METRICS = ("torchmetrics", "torchmetrics.classification", "torchmetrics.segmentation")
PLACES: dict[str, tuple[str, ...]] = {
    "task": ("lightning_seg.tasks",),
    "data": ("lightning_seg.data.datasets",),
    "network": ("lightning_seg.networks",),
    "upsampling": ("lightning_seg.networks.upsampling",),
    "loss": _LOSSES,
    "losses": _LOSSES,
    "optimizer": ("torch.optim",),
    "lr_scheduler": ("lightning_seg.training.schedules", "torch.optim.lr_scheduler"),
    "finetune": ("lightning_seg.training.finetune",),
    "inference": ("lightning_seg.inference",),
    "postprocess": ("lightning_seg.postprocess",),
    "metrics": ("lightning_seg.metrics", *_METRICS),
    "transforms": ("lightning_seg.data.transforms", "torchvision.transforms.v2"),
    "color": ("lightning_seg.data.transforms.color",),
    "mix": ("lightning_seg.data.transforms.mixing", "lightning_seg.data.instances"),
    "callbacks": ("lightning_seg.callbacks", "lightning.pytorch.callbacks"),
    "logger": ("lightning.pytorch.loggers",),
    "profiler": ("lightning.pytorch.profilers",),
    "strategy": ("lightning_seg.training.fsdp", "lightning.pytorch.strategies"),
    "plugins": ("lightning.pytorch.plugins",),
}
_HELPERS = ("init_args", "dict_kwargs")
_FOLDERS: dict[str, None] = {}  # of the user's own modules, for the experiment that was read last


def expand_settings(settings: Any, key: str = "") -> Any:
    """Return settings with a full class path for each short name.

    Args:
        settings: What a YAML file holds, or a part of it.
        key: The setting that a part belongs to, as in ``model.loss``.

    Raises:
        UserError: A short name means several classes, or a class path leads nowhere.
    """
    if isinstance(settings, dict):
        odd = [str(k) for k in settings if k not in ("class_path", *_HELPERS)] if key else []
        if odd and isinstance(settings.get("class_path"), str) and not key.endswith("init_args"):
            raise UserError(
                f"{key}: beside class_path there are {odd[0]!r}, but arguments of a class stand below init_args."
            )
        settings = {k: expand_settings(value, f"{key}.{k}".lstrip(".")) for k, value in settings.items()}
        return _ignoring(settings, key)
    if isinstance(settings, list):
        return [expand_settings(value, key) for value in settings]
    if not isinstance(settings, str):
        return settings
    path = _expand(settings, key)
    stated = _ignoring({"class_path": path}, key)
    return stated if "init_args" in stated else path


def _ignoring(settings: JsonObject, key: str) -> JsonObject:
    """State `ignore_index` for a loss or a metric that has this argument and is not given it."""
    path, given = settings.get("class_path"), settings.get("init_args") or {}
    setting = key.rpartition(".")[2].rstrip("+")
    if (
        setting not in ("loss", "losses", "metrics")
        or not isinstance(path, str)
        or not isinstance(given, dict)
    ):
        return settings
    try:
        known = inspect.signature(pkgutil.resolve_name(path)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return settings  # for the parser to refuse
    if "ignore_index" not in known or "ignore_index" in given:
        return settings
    return settings | {"init_args": {**given, "ignore_index": IGNORE_INDEX}}


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """Return ``--key=value`` and ``--key value`` with a full class path for each short name.

    Raises:
        UserError: As `expand_settings`.
    """
    expanded, key = [], ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument.startswith("--"):
            key = "" if equals else option[2:]
            expanded.append(f"{option}={_expand_text(value, option[2:])}" if equals else argument)
        else:
            expanded.append(_expand_text(argument, key) if key else argument)
            key = ""
    return expanded


def named_classes(files: Iterable[JsonObject], arguments: Sequence[str]) -> list[type]:
    """Return the classes that settings of files and arguments name by class path or short name."""
    found: list[type] = []

    def look(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, part in value.items():
                look(part, key if name == "class_path" else f"{key}.{name}")
        elif isinstance(value, list):
            for part in value:
                look(part, key)
        elif isinstance(value, str):
            with suppress(UserError, ImportError, AttributeError, ValueError):
                named = pkgutil.resolve_name(_expand(value, f"{key}.class_path"))
                found.extend([named] if isinstance(named, type) else [])

    for settings in files:
        look(settings, "")
    for argument in arguments:
        option, _, value = argument.partition("=")
        if option.startswith("--"):
            look(value, option[2:].removesuffix(".class_path"))
    return found


def resolve_class(path: str, key: str) -> Any:
    """Import what a short name or a class path names.

    Raises:
        UserError: As `expand_settings`, or there is no such class.
    """
    path = expand_settings(path, key)
    with suppress(ImportError, AttributeError, ValueError):
        return pkgutil.resolve_name(path)
    raise UserError(no_such_class(key, path))


def no_such_class(key: str, name: str) -> str:
    """Say that a setting knows no class by a short name, and which is the nearest."""
    known = _named_in(PLACES.get(key.rpartition(".")[2], ()))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = (
        f" Did you mean {close[0]}?"
        if close
        else " Classes that docs/api.md does not list need their class path."
    )
    return f"{key}: there is no class {name!r}.{hint}"


def _expand_text(text: str, key: str) -> str:
    if text.lstrip()[:1] in ("{", "["):
        refuse_doubles(text, f"--{key}")
    try:
        value = get_loader("yaml")(text) if text.lstrip()[:1] in ("{", "[") else text
    except yaml.YAMLError:
        return text  # for the parser to refuse
    expanded = expand_settings(value, key)
    if expanded == value or isinstance(expanded, str):
        return str(expanded) if isinstance(expanded, str) else text
    return yaml.safe_dump(expanded, default_flow_style=True, width=sys.maxsize, sort_keys=False).strip()


def _expand(text: str, key: str) -> str:
    words = [word.rstrip("+") for word in key.removesuffix(".help").split(".") if word not in _HELPERS]
    is_path = words[-1] == "class_path"
    setting = words[-2] if is_path and len(words) > 1 else words[-1]
    places = PLACES.get(setting)
    if places is None and not is_path or text.endswith((".yaml", ".yml", ".json")):
        return text
    if text.isidentifier():
        paths = _named_in(places or dict.fromkeys(p for ps in PLACES.values() for p in ps)).get(text, [])
        if len(paths) > 1:  # libraries export a class in two places
            paths = [*{id(_import(path)): path for path in reversed(paths)}.values()]
        if len(paths) > 1:
            raise UserError(f"{key}: {text} may be {' or '.join(sorted(paths))}: write one of them.")
        return paths[0] if paths else text
    stated = is_path or not set(_HELPERS) & set(key.split("."))
    if stated and "." in text and all(word.isidentifier() for word in text.split(".")):
        _check(text, key, places or ())
    return text


def _check(path: str, key: str, places: tuple[str, ...]) -> None:
    """Import a class path to see that it leads to something, and say why not."""
    module, _, name = path.rpartition(".")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{key}: {module} cannot be imported: {error}.") from error
        with suppress(ImportError, AttributeError, ValueError):
            pkgutil.resolve_name(path)  # a class within a class
            return
        where = f"no module {error.name!r}"
        if "." not in error.name:
            where += (
                "; modules are looked for in the current folder, in experiments/ and beside the YAML, too"
            )
        raise UserError(f"{key}: {where}.{_nearest(path, _named_in(places), _in_folders())}") from error
    except Exception as error:  # a module may fail in any way
        raise UserError(f"{key}: {module} cannot be imported: {_last_line(error)}.") from error
    if not hasattr(found, name):
        others = [f"{module}.{n}" for n in dir(found) if isinstance(getattr(found, n), type)]
        raise UserError(f"{key}: {module} has no {name!r}.{_nearest(path, {}, others)}")


def _in_folders() -> list[str]:
    """Return the class paths of what the user's own modules define, which are read and not imported."""
    found = []
    for file in (file for folder in _FOLDERS for file in Path(folder).glob("*.py")):
        with suppress(OSError, UnicodeDecodeError):
            names = re.findall(r"^(?:class|def) (\w+)", file.read_text(encoding="utf-8"), re.M)
            found += [f"{file.stem}.{name}" for name in names]
    return found


def _last_line(error: Exception) -> str:
    """Say what an import has raised, and in which line of which file."""
    text = f"{type(error).__name__}: {error}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or isinstance(error, SyntaxError):
        return text
    return f"{text} ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"


def _nearest(path: str, known: dict[str, list[str]], more: Iterable[str] = ()) -> str:
    name = path.rpartition(".")[2]
    if name in PUBLIC:
        return f" Did you mean {PUBLIC[name]}.{name}?"
    full = [*more, *(place for places in known.values() for place in places)]
    close = difflib.get_close_matches(path, full, n=1, cutoff=0.75)
    if not close:
        close = [known[n][0] for n in difflib.get_close_matches(name, known, n=1, cutoff=0.75)]
    return f" Did you mean {close[0]}?" if close else ""


def _named_in(places: Iterable[str]) -> dict[str, list[str]]:
    """Return the full paths of each class that is found in some places, by its short name."""
    found: dict[str, list[str]] = {}
    for place in places:
        if place.startswith("lightning_seg."):
            inside = [n for n, module in PUBLIC.items() if f"{module}.".startswith(f"{place}.")]
            paths = {n: f"{PUBLIC[n]}.{n}" for n in inside}
        else:
            members = vars(importlib.import_module(place))
            paths = {
                n: f"{place}.{n}" for n, m in members.items() if isinstance(m, type) and not n.startswith("_")
            }
        for name, path in paths.items():
            found.setdefault(name, []).append(path)
    return found


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def make_importable(files: Mapping[Path, JsonObject], arguments: Sequence[str] = ()) -> None:
    """Let class paths name modules in the current folder, in its ``experiments/`` and beside experiment files.

    What is installed comes first: a file here hides no library.

    Args:
        files: The settings of experiment files; they may state further folders as ``modules``.
        arguments: Those of the command line, which may do so, too.
    """
    stated = [folder for settings in files.values() for folder in settings.get("modules") or []]
    for given in (a.removeprefix("--modules=") for a in arguments if a.startswith("--modules=")):
        stated += re.findall(r"[^\[\],'\" ]+", given)
    _FOLDERS.clear()  # those of an experiment that was read before in this process
    for folder in (*_here(), *(file.absolute().parent for file in files), *map(Path, stated)):
        if folder.is_dir():
            _FOLDERS[str(folder)] = None
            if str(folder) not in sys.path:
                sys.path.append(str(folder))


def folders_of_modules() -> list[str]:
    """Return the folders elsewhere from which modules were imported, which a run has to state to be continued."""
    here = _here()
    elsewhere = [folder for folder in _FOLDERS if Path(folder) not in here]
    used = {_folder(module) for module in [*sys.modules.values()]} if elsewhere else set()
    return [folder for folder in elsewhere if folder in used]


def _here() -> tuple[Path, Path]:
    return Path.cwd(), Path("experiments").absolute()


def _folder(module: object) -> str | None:
    """The folder of a module, or that of the package which it is."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    folder, name = os.path.split(file)
    return os.path.dirname(folder) if name == "__init__.py" else folder
