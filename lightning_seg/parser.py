"""The parser of experiment files: a wrong setting is answered in a line or two."""

import difflib
import inspect
import re
from typing import Never

from lightning.pytorch.cli import LightningArgumentParser

from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError
from lightning_seg.networks.base import BackboneNetwork


class Parser(LightningArgumentParser):
    """Reports a wrong setting in a line or two, with the nearest right one, instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> Never:  # type: ignore[override]
        """Raise the error for `lightning_seg.cli.main` to print."""
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


_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value type:|Given value: NestedArg|Did you mean|"
    r"Expected an? <class 'NoneType'>|Expected a path but|'lightning-seg fit|^$"
)


def _plain(message: str) -> str:
    """Keep what a person can use of what jsonargparse says about every type that a value might have had."""
    lines = [line.strip(" -") for line in message.splitlines()]
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
