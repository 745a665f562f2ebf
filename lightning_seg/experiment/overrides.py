"""Settings given in Python as the command line would give them."""

import inspect
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

import yaml
from lightning.pytorch.utilities import rank_zero_only

from lightning_seg import PUBLIC
from lightning_seg.errors import UserError

Plain = str | int | float | bool | None | list["Plain"] | dict[str | int, "Plain"]


def options_of(overrides: Mapping[str, object]) -> list[str]:
    """Return settings as options of the command line, ``--key=value``.

    Args:
        overrides: Values by key, with dots (``model.optimizer.init_args.lr``) or nested in dictionaries. A part of
            the network, the data or the training is a class, or a `functools.partial` of it with its arguments.

    Raises:
        UserError: A value is an object that YAML cannot hold.
    """
    return [f"--{key}={_text(value)}" for key, value in _leaves(plain(overrides), "")]


def plain(value: object, key: str = "") -> Plain:
    """Return settings as a YAML file would hold them.

    Args:
        value: A setting; see `options_of`.
        key: Its key, for errors.

    Raises:
        UserError: It is an object that YAML cannot hold.
    """
    if isinstance(value, partial):
        arguments = dict(inspect.signature(value.func).bind_partial(*value.args, **value.keywords).arguments)
        arguments |= arguments.pop("kwargs", {}) if "kwargs" not in value.keywords else {}
        return {"class_path": class_path(value.func), "init_args": plain(arguments, key)}
    if isinstance(value, type):
        return class_path(value)
    if isinstance(value, Mapping):
        return {
            k if isinstance(k, int) else str(k): plain(v, f"{key}.{k}".lstrip(".")) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item, key) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return class_path(value)
    name = type(value).__name__
    raise UserError(
        f"{key}: an object of {name} cannot be written into a run's config.yaml, by which the run is loaded and"
        f" continued. Give its class with its arguments: functools.partial({name}, ...)."
    )


def class_path(part: object) -> str:
    """Return the path by which a YAML file names a class, or a function: the shortest that leads to it."""
    module, name = str(getattr(part, "__module__", "")), str(getattr(part, "__qualname__", ""))
    if PUBLIC.get(name) == module:
        return name
    if module == "__main__" and not rank_zero_only.rank:  # type: ignore[attr-defined]
        print(
            f"note     {name} is defined in this script or notebook: only here can its runs be loaded and continued,"
            " unless it moves into a module"
        )
    words = module.split(".")
    for end in range(1, len(words)):
        shorter = ".".join(words[:end])
        if getattr(sys.modules.get(shorter) or import_module(shorter), name, None) is part:
            return f"{shorter}.{name}"
    return f"{module}.{name}"


def _leaves(value: Plain, key: str) -> list[tuple[str, Plain]]:
    """List settings by their keys with dots; a part named with its class is one of them, and so is a value."""
    group = isinstance(value, dict) and "class_path" not in value
    if isinstance(value, dict) and (not key or (group and ("." not in key or set(value) == {"init_args"}))):
        return [leaf for k, v in value.items() for leaf in _leaves(v, f"{key}.{k}".lstrip("."))]
    if isinstance(value, dict) and key.endswith(".init_args"):
        return [leaf for k, v in value.items() for leaf in _leaves(v, f"{key}.{k}")]
    return [(key, value)]


def _text(value: Plain) -> str:
    """Write a value as one word of a command line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).removesuffix("\n...\n").strip()
