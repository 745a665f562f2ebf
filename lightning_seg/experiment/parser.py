"""The parser of experiment files: a wrong setting is answered in a line or two."""

import difflib
import inspect
import re
from pathlib import Path
from typing import Any, Never

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError
from lightning_seg.networks.base import BackboneNetwork


class Parser(LightningArgumentParser):
    """Reports a wrong setting in a line or two, with the nearest right one, instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> Never:  # type: ignore[override]
        """Raise the error for `lightning_seg.cli.main.main` to print."""
        message = _plain(message)
        words = [word.strip("'\"").lstrip("-").split("=")[0] for word in message.split()]
        close = next((c for c in (self._closest(word) for word in words) if c), None)
        hint = f"\nDid you mean {close}?" if close else ""
        raise UserError(f"{message.strip()}{hint}\n'lightning-seg fit --help' lists the settings.") from None

    def _closest(self, word: str) -> str | None:
        """Find the setting nearest to a misspelt one, by its full or its last name."""
        known = {a.dest for a in self._actions if a.dest}
        leaf = word.rsplit(".", 1)[-1]
        for base in (BackboneNetwork, SegmentationData):
            for cls in _subclasses(base):
                known |= set(inspect.signature(cls).parameters)
        if word in known or len(leaf) < 3 or not leaf.isidentifier():
            return None
        return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.8)), None)


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_VALUES = 100_000  # in an experiment file with its references resolved


def read_settings(file: Path) -> Any:
    """Read an experiment file, refusing what YAML allows and nobody means or survives.

    Raises:
        UserError: It is no YAML, a setting stands in it twice, or its references unfold without end.
    """
    try:
        text = file.read_text(encoding="utf-8")
        sizes: dict[int, int] = {}
        if (root := yaml.compose(text, LOADER)) and _size(root, sizes, ()) > MOST_VALUES:
            raise _Refused(root, f"these references unfold to more than {MOST_VALUES} values")
        return yaml.load(text, LOADER)
    except _Refused as error:
        raise UserError(f"{file}, line {error.line}: {error}.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{file} is nested too deeply.") from None


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
                if isinstance(name, yaml.ScalarNode) and name.value in seen:
                    raise _Refused(name, f"{name.value!r} stands there a second time")
                seen.add(name.value if isinstance(name, yaml.ScalarNode) else None)
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        sizes[id(node)] = 1 + sum(_size(part, sizes, (*above, id(node))) for part in parts)
    return sizes[id(node)]


_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value type:|Given value: NestedArg|Did you mean|"
    r"Expected an? <class 'NoneType'>|Expected a path but|'lightning-seg fit|^$"
)


def _plain(message: str) -> str:
    """Keep what a person can use of what jsonargparse says about every type that a value might have had."""
    lines = [line.strip(" -") for line in message.splitlines()]
    lines = [line for line in lines if not (line.startswith("Given value: ") and len(line) > 120)]
    lines = [line if len(line) < 300 else f"{line[:200]} ... {line[-80:]}" for line in lines]
    kept = dict.fromkeys(line for line in lines if not _NOISE.match(line))
    text = "\n  ".join(kept)
    text = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", text)
    return re.sub(r"a typing.Literal\[(.*?)\]", r"one of \1", text)


def _subclasses(base: type) -> set[type]:
    found: set[type] = {base}
    cls: type
    for cls in base.__subclasses__():
        found |= _subclasses(cls)
    return found
