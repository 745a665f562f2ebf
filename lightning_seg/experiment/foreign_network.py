"""Networks of other libraries in experiment files: a class path such as ``segmentation_models_pytorch.Unet``.

It becomes an `Adapter`. What stands under ``init_args`` is the module's, what stands beside it the adapter's:
``backbone``, ``mean``, ``stride``, ``weights`` and so on. Files and arguments are put together here, as the parser
knows nothing of the arguments of the module.
"""

import inspect
import json
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_seg.errors import UserError
from lightning_seg.experiment.class_paths import expand_settings
from lightning_seg.experiment.files import Loader
from lightning_seg.networks.adapters import Adapter
from lightning_seg.networks.foreign import complete, is_foreign, knows, normalization
from lightning_seg.runs.directory import JsonObject

_ADAPTER = f"{Adapter.__module__}.{Adapter.__name__}"
_OWN = frozenset(inspect.signature(Adapter).parameters) - {"num_classes", "module", "arguments"}
_KEY = "--model.network"


def adapt_network(
    files: Mapping[Path, JsonObject], arguments: Sequence[str]
) -> tuple[dict[Path, JsonObject], list[str]]:
    """Return settings and arguments in which a network of another library is wrapped; others as they are.

    Args:
        files: The settings of experiment files; later ones override earlier ones.
        arguments: Of the command line; they override all files.

    Raises:
        UserError: The network has no argument of a name, or a name leads nowhere.
    """
    network = _Network()
    for settings in files.values():
        model = settings.get("model")
        if isinstance(model, Mapping) and model.get("network") is not None:
            network.take(model["network"])
    others = []
    for option, value, words in _options(arguments):
        ours = option == _KEY or option.startswith(f"{_KEY}.") and not option.endswith(".help")
        if not ours:
            others += words
        elif option in (_KEY, f"{_KEY}.class_path"):
            network.take(value if option == _KEY else {"class_path": value})
        else:
            network.set(option.removeprefix(f"{_KEY}."), value)
    if not network.was_foreign:
        return dict(files), list(arguments)
    without = {file: {**s, "model": _without_network(s.get("model"))} for file, s in files.items()}
    return without, [*others, f"{_KEY}={json.dumps(network.resolved())}"]


class _Network:
    """The settings of the network as one file or argument after the other decides them."""

    def __init__(self) -> None:
        self.path = ""
        self.given: JsonObject = {}  # what the network itself takes
        self.beside: JsonObject = {}  # what the adapter takes
        self.foreign = self.was_foreign = self.wrapped = False

    def take(self, settings: Any) -> None:
        """Take what a file or one argument says of the network."""
        settings = {"class_path": settings} if isinstance(settings, str) else settings
        if not isinstance(settings, Mapping):
            return  # for the parser to refuse
        given = dict(settings.get("init_args") or {})
        beside = {k: v for k, v in settings.items() if k not in ("class_path", "init_args", "dict_kwargs")}
        path = settings.get("class_path")
        if isinstance(path, str):
            path = expand_settings(path, "model.network")
            self.wrapped = path == _ADAPTER
            if self.wrapped:
                module = given.pop("module", None)
                inner = module if isinstance(module, Mapping) else {"class_path": module}
                path = expand_settings(inner.get("class_path") or self.path, "model.network")
                arguments = given.pop("arguments", None) or {}
                beside, given = given, {**(inner.get("init_args") or {}), **arguments}
            self._become(path)
        self.given |= given | (settings.get("dict_kwargs") or {})
        self.beside |= beside

    def set(self, key: str, value: Any) -> None:
        """Take one setting of the network, by its name within it."""
        words = key.split(".")
        where = self.beside
        if words[0] in ("init_args", "dict_kwargs"):
            words = words[1:]
            its_own = self.foreign and words[0] in _OWN and (self.wrapped or not knows(self.path, words[0]))
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
        if unknown := sorted(self.beside.keys() - _OWN):
            raise UserError(
                f"model.network.{unknown[0]}: beside class_path and init_args stand {', '.join(sorted(_OWN))}; what"
                f" {self.path} itself takes stands under init_args."
            )
        own = dict(self.beside)
        if not (own.get("mean") and own.get("std")):
            usual = normalization(self.path, self.given)
            own |= {name: own.get(name) or [*of] for name, of in zip(("mean", "std"), usual, strict=True)}
        arguments = complete(self.path, self.given)
        return {"class_path": _ADAPTER, "init_args": {"module": self.path, "arguments": arguments, **own}}

    def _become(self, path: str) -> None:
        if path != self.path:
            try:
                target = pkgutil.resolve_name(path)
            except (ImportError, AttributeError, ValueError):
                target = None  # for the parser to refuse
            self.foreign = is_foreign(target)
            self.was_foreign |= self.foreign
            # As the parser does for networks of this package: what the new one has, too, stays.
            self.given = {k: v for k, v in self.given.items() if target is not None and knows(path, k)}
            self.beside = {
                k: v for k, v in self.beside.items() if self.foreign and k in ("backbone", "stride")
            }
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


def _without_network(model: Any) -> Any:
    return {k: v for k, v in model.items() if k != "network"} if isinstance(model, Mapping) else model
