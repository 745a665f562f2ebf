"""Networks and data modules of other libraries in experiment files, such as ``segmentation_models_pytorch.Unet``.

They become an `Adapter` or `ForeignData`. What stands under ``init_args`` is the module's own, what stands beside it
the adapter's: ``backbone``, ``class_names``, ``mean`` and so on. Files and arguments are put together here, as the
parser knows nothing of the arguments of the module.
"""

import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.foreign import ForeignData
from lightning_seg.errors import UserError
from lightning_seg.experiment.class_paths import expand_settings
from lightning_seg.experiment.files import Loader
from lightning_seg.networks.adapters import Adapter
from lightning_seg.networks.foreign import complete, is_foreign, knows, normalization
from lightning_seg.runs.directory import JsonObject


@dataclass(frozen=True)
class _Kind:
    """A setting that takes foreign classes, and what adapts them."""

    key: str
    adapter: type
    is_foreign: Callable[[object], bool]
    kept: tuple[str, ...]  # of the adapter's settings, with another class

    @property
    def path(self) -> str:
        return f"{self.adapter.__module__}.{self.adapter.__name__}"

    @property
    def own(self) -> frozenset[str]:
        hidden = {"num_classes", "in_channels", "module", "arguments", "instances"}
        return frozenset(inspect.signature(self.adapter).parameters) - hidden


def _is_foreign_data(target: object) -> bool:
    if not isinstance(target, type):
        return callable(target)
    return issubclass(target, LightningDataModule) and not issubclass(target, SegmentationData)


_KINDS = (
    _Kind("model.network", Adapter, is_foreign, ("backbone", "stride")),
    _Kind("data", ForeignData, _is_foreign_data, ("class_names", "palette", "ignore_index")),
)


def adapt_parts(
    files: Mapping[Path, JsonObject], arguments: Sequence[str]
) -> tuple[dict[Path, JsonObject], list[str]]:
    """Return settings and arguments in which parts of other libraries are wrapped; others as they are.

    Args:
        files: The settings of experiment files; later ones override earlier ones.
        arguments: Of the command line; they override all files.

    Raises:
        UserError: The part has no argument of a name, or a name leads nowhere.
    """
    adapted, left = dict(files), list(arguments)
    for kind in _KINDS:
        part = _Part(kind)
        words = kind.key.split(".")
        for settings in adapted.values():
            part.take(_at(settings, words))
        others = []
        option = f"--{kind.key}"
        for name, value, used in _options(left):
            if name in (option, f"{option}.class_path"):
                part.take(value if name == option else {"class_path": value})
            elif name.startswith(f"{option}.") and not name.endswith(".help"):
                part.set(name.removeprefix(f"{option}."), value)
            else:
                others += used
        if part.was_foreign:
            adapted = {file: _without(settings, words) for file, settings in adapted.items()}
            left = [*others, f"{option}={json.dumps(part.resolved())}"]
    return adapted, left


class _Part:
    """The settings of a part as one file or argument after the other decides them."""

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.path = ""
        self.given: JsonObject = {}  # what the part itself takes
        self.beside: JsonObject = {}  # what the adapter takes
        self.foreign = self.was_foreign = self.wrapped = False

    def take(self, settings: Any) -> None:
        """Take what a file or one argument says of the part."""
        settings = {"class_path": settings} if isinstance(settings, str) else settings
        if not isinstance(settings, Mapping):
            return  # for the parser to refuse
        given = dict(settings.get("init_args") or {})
        beside = {k: v for k, v in settings.items() if k not in ("class_path", "init_args", "dict_kwargs")}
        path = settings.get("class_path")
        if isinstance(path, str):
            path = expand_settings(path, self.kind.key)
            self.wrapped = path == self.kind.path
            if self.wrapped:
                module = given.pop("module", None)
                inner = module if isinstance(module, Mapping) else {"class_path": module}
                path = expand_settings(inner.get("class_path") or self.path, self.kind.key)
                arguments = given.pop("arguments", None) or {}
                beside, given = given, {**(inner.get("init_args") or {}), **arguments}
            self._become(path)
        self.given |= given | (settings.get("dict_kwargs") or {})
        self.beside |= beside

    def set(self, key: str, value: Any) -> None:
        """Take one setting of the part, by its name within it."""
        words = key.split(".")
        if key in ("init_args", "dict_kwargs") or (key == "init_args.arguments" and self.wrapped):
            if not isinstance(value, Mapping | None):
                raise UserError(
                    f"{self.kind.key}.{key} holds settings by their names, {{NAME: VALUE}}; got {value!r}."
                )
            for name, inner in (value or {}).items():
                self.set(f"{key}.{name}", inner)
            return
        where = self.beside
        if words[0] in ("init_args", "dict_kwargs"):
            words = words[1:]
            its_own = (
                self.foreign
                and words[0] in self.kind.own
                and (self.wrapped or not knows(self.path, words[0]))
            )
            where = self.beside if its_own else self.given
        if words[0] == "module" and self.wrapped:
            return self.take(value)
        words = words[1:] if words[0] == "arguments" and self.wrapped else words
        for word in words[:-1]:
            inner = where.get(word)
            where[word] = where = dict(inner) if isinstance(inner, Mapping) else {}
        where[words[-1]] = value

    def resolved(self) -> JsonObject:
        """Return the settings as the parser takes them."""
        if not self.foreign:
            return {"class_path": self.path, "init_args": self.given}
        if unknown := sorted(self.beside.keys() - self.kind.own):
            raise UserError(
                f"{self.kind.key}.{unknown[0]}: beside class_path and init_args stand"
                f" {', '.join(sorted(self.kind.own))}; what {self.path} itself takes stands under init_args."
            )
        own = dict(self.beside)
        if self.kind.adapter is Adapter and not (own.get("mean") and own.get("std")):
            usual = normalization(self.path, self.given)
            own |= {name: own.get(name) or [*of] for name, of in zip(("mean", "std"), usual, strict=True)}
        arguments = complete(self.path, self.given, self.kind.key)
        return {
            "class_path": self.kind.path,
            "init_args": {"module": self.path, "arguments": arguments, **own},
        }

    def _become(self, path: str) -> None:
        if path != self.path:
            try:
                target = pkgutil.resolve_name(path)
            except (ImportError, AttributeError, ValueError):
                target = None  # for the parser to refuse
            self.foreign = self.kind.is_foreign(target)
            self.was_foreign |= self.foreign
            # As the parser does for classes of this package: what the new one has, too, stays.
            self.given = {k: v for k, v in self.given.items() if target is not None and knows(path, k)}
            self.beside = {k: v for k, v in self.beside.items() if self.foreign and k in self.kind.kept}
        self.path = path


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, Any, list[str]]]:
    """Yield the name and the value of each option, and the words that it was given by."""
    words = list(arguments)
    while words:
        option, equals, text = words[0].partition("=")
        used = 1
        if option.startswith("--") and not equals and len(words) > 1 and not words[1].startswith("--"):
            text, used = words[1], 2
        try:
            value = yaml.load(text, Loader)
        except yaml.YAMLError:
            value = text
        yield option, value, words[:used]
        words = words[used:]


def _at(settings: JsonObject, words: Sequence[str]) -> Any:
    found: Any = settings
    for word in words:
        found = found.get(word) if isinstance(found, Mapping) else None
    return found


def _without(settings: JsonObject, words: Sequence[str]) -> JsonObject:
    if not isinstance(settings, Mapping) or words[0] not in settings:
        return settings
    rest = {key: value for key, value in settings.items() if key != words[0]}
    return rest if len(words) == 1 else rest | {words[0]: _without(settings[words[0]], words[1:])}
