"""Reading JSON files that list a data set, strictly; large ones an entry at a time."""

import json
import marshal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning_seg.errors import UserError

_BLANKS = " \t\n\r"
_WINDOW = 1 << 22  # letters


def read_any_json(path: Path) -> object:
    """Read a JSON file.

    Raises:
        UserError: It cannot be read, is cut off or otherwise no JSON, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, or cut off: {error}.") from None


def read_json(path: Path) -> Mapping[str, object]:
    """Read a JSON file that holds a mapping.

    Raises:
        UserError: It holds something else; or see `read_any_json`.
    """
    contents = read_any_json(path)
    if not isinstance(contents, dict):
        raise UserError(f"{path} should hold a mapping, {{...}}; it is a list or value.")
    return contents


class Entries:
    """Entries of a list in a file, in their order, in little memory."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(1 << 25)
        self._count = 0

    def append(self, entry: Any) -> None:
        """Add one."""
        content = marshal.dumps(entry)
        self._file.write(len(content).to_bytes(8) + content)
        self._count += 1

    def clear(self) -> None:
        """Forget all."""
        self._file.seek(0)
        self._file.truncate()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        for _ in range(self._count):
            yield marshal.loads(self._file.read(int.from_bytes(self._file.read(8))))


def read_entries(path: Path, lists: Mapping[str, Entries]) -> Mapping[str, object]:
    """Read as `read_json`, but put the entries of some lists aside, so that the file is never in memory as a whole.

    Args:
        path: The file.
        lists: Where the entries of each list go, by its key; in what is returned these lists are empty.

    Raises:
        UserError: As `read_json`.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return _Walk(file, path).mapping(lists)
    except (OSError, ValueError, RecursionError):
        for entries in lists.values():
            entries.clear()
        contents = dict(read_json(path))  # says what is wrong
        for key in lists.keys() & contents.keys():
            if isinstance(listed := contents[key], list):
                for entry in listed:
                    lists[key].append(entry)
                contents[key] = []
        return contents


class _Walk:
    """Goes through the mapping of a file; ValueError where it is none."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at = "", 0
        self._decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: _unique(pairs, path))

    def mapping(self, lists: Mapping[str, Entries]) -> dict[str, object]:
        pairs: list[tuple[str, object]] = []
        self._take("{")
        if self._next() == "}":
            self._at += 1
        else:
            while True:
                if self._next() != '"':
                    raise ValueError
                key = str(self._value())
                self._take(":")
                if key in lists and self._next() == "[":
                    self._list(lists[key])
                    pairs.append((key, []))
                else:
                    pairs.append((key, self._value()))
                if self._take(",}") == "}":
                    break
        if self._next():
            raise ValueError
        return _unique(pairs, self._path)

    def _list(self, entries: Entries) -> None:
        self._take("[")
        if self._next() == "]":
            self._at += 1
            return
        while True:
            entries.append(self._value())
            if self._take(",]") == "]":
                return

    def _value(self) -> object:
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError:
                if not self._more():
                    raise
                continue
            if len(self._text) - end < 64 and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def _next(self) -> str:
        """The next letter that is no blank; nothing at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANKS:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _take(self, wanted: str) -> str:
        letter = self._next()
        if not letter or letter not in wanted:
            raise ValueError
        self._at += 1
        return letter

    def _more(self) -> bool:
        rest = self._text[self._at :]
        new = self._file.read(max(_WINDOW, len(rest)))
        if new:
            self._text, self._at = rest + new, 0
        return bool(new)


def _unique(pairs: list[tuple[str, object]], path: Path) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise UserError(f"{path}: the key {twice!r} stands twice in one mapping. Remove one of them.")
    return found
