"""Experiment files: their names, and reading them. Imports nothing heavy."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import JsonObject

EXPERIMENTS = Path("experiments")
_CHECKOUT = Path(__file__).parents[2]
# Those that come with the project, where the package runs from its checkout; in site-packages nothing is beside it.
SHIPPED = _CHECKOUT / EXPERIMENTS if (_CHECKOUT / "pyproject.toml").is_file() else None
_NO_KEYS = {f"tag:yaml.org,2002:{kind}" for kind in ("float", "bool", "null")}  # 1.5 would become 1, true 1
MOST_VALUES = 100_000  # in an experiment file with its references resolved


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as people mean it: 1e-3 is a number, as in YAML 1.2 and in the parser of the command line."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def experiment_names(folder: Path = EXPERIMENTS) -> list[str]:
    """Return the names of the files in ``experiments/``, or in a folder below it."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def experiment_file(name: str, folder: Path = EXPERIMENTS, kind: str = "experiment") -> Path:
    """Find the YAML file of an experiment, or of what lies in a folder below ``experiments/``.

    Args:
        name: A name in the folder, else among those that come with the project, or the path of a YAML file.
        folder: The folder.
        kind: What its files are, for messages.

    Raises:
        UserError: There is no such file; the message lists those there are.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else folder / f"{name}.yaml"
    if path.is_file():
        return path
    shipped = _shipped(folder)
    if shipped and not is_path and (file := shipped / f"{name}.yaml").is_file():
        return file
    names, others = experiment_names(folder), _shipped_names(folder)
    if not names and not others:
        raise UserError(f"no {kind} {name!r}. {known_experiments(folder, kind)}")
    close = difflib.get_close_matches(name, [*names, *others], n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"no {kind} {name!r} ({path} does not exist).{hint} {known_experiments(folder, kind)}")


def known_experiments(folder: Path = EXPERIMENTS, kind: str = "experiment") -> str:
    """Say which experiments there are, here and with the project, or how to come to one.

    Args:
        folder: ``experiments/``, or a folder below it.
        kind: What its files are.
    """
    here, project = ", ".join(experiment_names(folder)), ", ".join(_shipped_names(folder))
    if not here and not project:
        plural = "searches" if kind == "search" else f"{kind}s"
        begin = ", or begin here: lightning-seg new NAME." if folder == EXPERIMENTS else "."
        where = f"There is no folder {folder}/ with {plural} here."
        return f"{where} Go to the one that has it, or name the YAML itself{begin}"
    known = {"There are": here, "With the project come": project}
    return " ".join(f"{where}: {names}." for where, names in known.items() if names)


def _shipped(folder: Path) -> Path | None:
    """Return the project's own folder of that name."""
    return SHIPPED / folder.relative_to(EXPERIMENTS) if SHIPPED else None


def _shipped_names(folder: Path) -> list[str]:
    """Return the names of the project's files that are not in the folder here."""
    if (shipped := _shipped(folder)) is None:
        return []
    own = shipped.glob("own/*.yaml") if folder == EXPERIMENTS else ()
    found = {file.relative_to(shipped).with_suffix("").as_posix() for file in [*shipped.glob("*.yaml"), *own]}
    return sorted(found - {*experiment_names(folder)})


def read_files(args: Sequence[str]) -> dict[Path, JsonObject]:
    """Read the files that arguments name, ``-c FILE``.

    Raises:
        UserError: A file cannot be read; see `read_settings`.
    """
    files = {}
    for arg, following in zip(args, [*args[1:], ""], strict=False):
        name, equals, value = arg.partition("=")
        if name in ("-c", "--config"):
            file = Path(value if equals else following)
            files[file] = read_settings(file)
    return files


def read_settings(file: Path) -> JsonObject:
    """Read an experiment file, refusing what YAML allows and nobody means or survives.

    Raises:
        UserError: It is no YAML, a setting stands in it twice, or its references unfold without end.
    """
    try:
        text = file.read_text(encoding="utf-8")
        sizes: dict[int, int] = {}
        if (root := yaml.compose(text, Loader)) and _size(root, sizes, ()) > MOST_VALUES:
            raise _Refused(root, f"these references unfold to more than {MOST_VALUES} values")
        settings = yaml.load(text, Loader) or {}
        if not isinstance(settings, dict):
            raise UserError(
                f"{file} must hold settings, `name: value`; it holds a {type(settings).__name__}."
            )
        return settings
    except _Refused as error:
        raise UserError(f"{file}, line {error.line}: {error}.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{file} is nested too deeply.") from None


def that_differ(args: Sequence[str], files: Mapping[Path, JsonObject]) -> list[str]:
    """Leave out arguments that only repeat what the experiment's files say, so that they make no other experiment.

    Args:
        args: ``-c FILE [--key=value ...]``.
        files: The files, already read; a later one counts.
    """
    kept: list[str] = []
    for arg in args:
        key, equals, text = arg.removeprefix("--").partition("=")
        if arg.startswith("--") and equals:
            said = [value for s in files.values() if (value := _at(s, key.split("."))) is not None]
            try:
                if said and yaml.load(text, Loader) == said[-1]:
                    continue
            except (yaml.YAMLError, ValueError):
                pass  # the parser has its own words for it
        kept.append(arg)
    return kept


def _at(settings: object, path: Sequence[str]) -> object:
    for name in path:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def refuse_doubles(text: str, setting: str) -> None:
    """Refuse a value of the command line in which a name or number has two values.

    Raises:
        UserError: It has; the parser would keep the last.
    """
    try:
        if (root := yaml.compose(text, Loader)) is not None:
            _size(root, {}, ())
    except _Refused as error:
        raise UserError(f"{setting}: {error} in {text}.") from None
    except (yaml.YAMLError, RecursionError):
        return  # for the parser to refuse


class _Refused(Exception):
    def __init__(self, node: yaml.Node, why: str) -> None:
        super().__init__(why)
        self.line = node.start_mark.line + 1


def _size(node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Count the values in a part of a file, those of what it refers to included."""
    if id(node) in above:
        raise _Refused(node, "this refers to itself")
    if id(node) not in sizes:
        parts = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
            seen = set()
            for name, _ in node.value:
                if name.tag in _NO_KEYS:
                    raise _Refused(name, f"{name.value!r} cannot name a setting; quote it if it is a word")
                if isinstance(name, yaml.ScalarNode) and name.value in seen:
                    raise _Refused(name, f"{name.value!r} stands there a second time")
                seen.add(name.value if isinstance(name, yaml.ScalarNode) else None)
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        sizes[id(node)] = 1 + sum(_size(part, sizes, (*above, id(node))) for part in parts)
    return sizes[id(node)]
