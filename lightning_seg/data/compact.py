"""Long lists in few bytes: arrays that all processes of a machine share, and samples that workers do not copy.

Counting references writes to every Python object that is looked at, so a forked worker comes to own a copy of every
list that it reads; arrays it shares for good. What is made once is kept in the cache and memory-mapped.
"""

import fcntl
import hashlib
import io
import os
import pickle
import shutil
import uuid
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar, overload

import numpy as np

from lightning_seg.data.cache_folder import cache_folder

_VALUES = "values.bin"
_FEW = 2000  # samples, of which copies do no harm
_SMALL = 1 << 23  # bytes of a file that is read faster than it is worth to keep what is in it
_ENDS = 1 << 20  # bytes at both ends of a file that tell whether it is the same
_PLAIN = (str, int, float, type(None), type(Path()))
T = TypeVar("T")
Build = Callable[[BinaryIO], dict[str, np.ndarray]]


class Rows(Sequence[T]):
    """A sequence whose parts are made anew when they are asked for."""

    @abstractmethod
    def at(self, row: int) -> T:
        """The part at a place, counted from 0."""

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        rows = range(len(self))[i]
        return self.at(rows) if isinstance(rows, int) else [self.at(row) for row in rows]


class Texts(Rows[str]):
    """Texts in two arrays, as `pack_texts` makes them.

    Args:
        letters: All of them, one after the other (L,), ``uint8`` in UTF-8.
        ends: Where each begins, and where the last one ends (N + 1,).
    """

    def __init__(self, letters: np.ndarray, ends: np.ndarray) -> None:
        self._letters, self._ends = letters, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, row: int) -> str:
        """The text at a place."""
        return bytes(self._letters[self._ends[row] : self._ends[row + 1]]).decode("utf-8", "surrogatepass")


def pack_texts(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Put texts into arrays: letters and ends; see `Texts`."""
    writer = TextWriter()
    for text in texts:
        writer.append(text)
    return writer.arrays()


class TextWriter:
    """Collects texts as arrays; see `Texts`."""

    def __init__(self) -> None:
        self._letters, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        """Add a text."""
        self._letters += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._letters))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Letters and ends of all of them."""
        return np.frombuffer(self._letters, np.uint8), np.array(self._ends, np.int64)


class Packed(Rows[object]):
    """Samples as bytes; each is made anew when it is asked for.

    Args:
        samples: Anything that can be pickled.
    """

    def __init__(self, samples: Iterable[object]) -> None:
        content, ends = io.BytesIO(), [0]
        for sample in samples:
            content.write(pickle.dumps(sample, pickle.HIGHEST_PROTOCOL))
            ends.append(content.tell())
        self._bytes, self._ends = np.frombuffer(content.getvalue(), np.uint8), np.array(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, row: int) -> object:
        """The sample at a place."""
        return pickle.loads(bytes(self._bytes[self._ends[row] : self._ends[row + 1]]))


def compact(samples: Sequence[object]) -> Sequence[object]:
    """Pack a long list of samples, if they are nothing but paths, texts and numbers, which come out as they were."""
    if not isinstance(samples, list) or len(samples) < _FEW:
        return samples
    parts = (part for sample in samples for part in (sample if type(sample) is tuple else (sample,)))
    return Packed(samples) if all(type(part) in _PLAIN for part in parts) else samples


class Store:
    """Arrays by name, and one more of numbers (V,), too long to keep, of which pieces are read from the file.

    Args:
        folder: Where `store_once` has put them; they are memory-mapped.
        arrays: They themselves, if they are kept in memory.
        values: The long one, if it is.
    """

    def __init__(
        self,
        folder: Path | None,
        arrays: Mapping[str, np.ndarray] | None = None,
        values: np.ndarray | None = None,
    ) -> None:
        self.folder = folder
        self._values = values
        if folder is None:
            self._arrays = dict(arrays or {})
        else:
            # np.asarray: a slice of a memmap costs several times as much as one of an array
            self._arrays = {
                file.stem: np.asarray(np.load(file, mmap_mode="r")) for file in folder.glob("*.npy")
            }
            self._file = (folder / _VALUES).open("rb", buffering=0)  # stays readable if the cache is emptied

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def texts(self, name: str) -> Texts:
        """Texts that were stored as `name` and `name.ends`."""
        return Texts(self[name], self[f"{name}.ends"])

    def values(self, start: int, length: int) -> np.ndarray:
        """A piece of the long array, ``float64``."""
        if self.folder is None:
            assert self._values is not None
            return self._values[start : start + length]
        return np.frombuffer(os.pread(self._file.fileno(), 8 * length, 8 * start), np.float64)

    def __reduce__(self) -> tuple[type["Store"], tuple[object, ...]]:
        if self.folder is None:
            return Store, (None, self._arrays, self._values)
        return Store, (self.folder,)


def store_once(key: str, build: Build) -> Store:
    """Open what is stored in the cache by a name; build it if there is none.

    Several processes may ask at once: one builds, the others wait for it. What a killed process leaves is never taken
    for a whole one. Where nothing can be written it is built in memory.

    Args:
        key: Name in the cache; other contents must have another one.
        build: Writes the values to the file that it is given, and returns the other arrays.
    """
    root = cache_folder()
    folder = root / key
    with suppress(OSError):
        return Store(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f"{key}.lock") as alone:
            if folder.is_dir():
                return Store(folder)
            if alone:
                for left in root.glob(f"{key}.building-*"):
                    shutil.rmtree(left, ignore_errors=True)
            building = root / f"{key}.building-{uuid.uuid4().hex}"
            building.mkdir()
            try:
                with (building / _VALUES).open("wb") as values:
                    arrays = build(values)
                for name, array in arrays.items():
                    np.save(building / f"{name}.npy", array)
                with suppress(OSError):  # another process was faster
                    os.rename(building, folder)
                return Store(folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError:  # a read-only or full disk
        return store_in_memory(build)


def store_if_large(path: Path, code: str, build: Build) -> Store:
    """Store what is found in a file, in the cache if the file is large.

    Args:
        path: The file.
        code: What decides beside the file what is found: the source of `build`.
        build: As for `store_once`.
    """
    if not path.is_file() or (size := path.stat().st_size) < _SMALL:
        return store_in_memory(build)
    digest = hashlib.sha256(f"{code} {size} {path.stat().st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(_ENDS))
        file.seek(-min(size, _ENDS), os.SEEK_END)
        digest.update(file.read())
    return store_once(f"index-{digest.hexdigest()[:16]}", build)


def store_in_memory(build: Build) -> Store:
    """Build without the cache; see `store_once`."""
    values = io.BytesIO()
    arrays = build(values)
    return Store(None, arrays, np.frombuffer(values.getbuffer(), np.float64))


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Wait until no other process holds a lock, and hold it; False where the file system knows no locks."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it when the process dies
        except OSError:
            yield False
            return
        yield True
