"""Decoded images and masks, kept in memory or in a file, so that they are decoded once."""

import fcntl
import hashlib
import inspect
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import TypeVar

import numpy as np

from lightning_seg.data import (
    bands,
    classes,
    coco_masks,
    containers,
    io,
    overlapping,
    png,
    rasters,
    regions,
    stored,
    volumes,
)
from lightning_seg.data.cache_folder import cache_folder
from lightning_seg.data.compact import Rows
from lightning_seg.data.loading import in_parallel
from lightning_seg.data.pixels import DTYPES
from lightning_seg.data.protocol import DataSet, Pair
from lightning_seg.data.volumes import Slice, file_of, parts_of
from lightning_seg.errors import UserError

T = TypeVar("T")
_READERS = (
    io, bands, containers, png, stored, rasters, volumes, classes, regions, coco_masks, overlapping,
)  # fmt: skip


def in_memory(read: Callable[[T], Pair], samples: Sequence[T], title: str) -> list[Pair]:
    """Read all samples into memory, which forked workers then share.

    Args:
        read: Reads a sample.
        samples: The samples.
        title: What the progress bar says.

    Raises:
        UserError: If they do not fit.
    """
    needed = _estimate(read, samples)
    if needed > 0.8 * (free := _free_memory()):
        raise UserError(
            f"{title} needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free. "
            "Use --data.init_args.cache=disk, or none."
        )
    return list(_read_all(read, samples, title))


class DiskCache(Rows[Pair]):
    """Samples in one memory-mapped file, which all workers and processes of a machine share.

    Args:
        folder: Folder made by `on_disk`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = np.load(folder / "index.npy")  # (N, 5): first byte, height, width, channels, type
        # writes go to private copies, never to the file; torch wants writable arrays
        self.bytes = np.asarray(np.memmap(folder / "pixels.bin", np.uint8, mode="c"))

    def __len__(self) -> int:
        return len(self.places)

    def at(self, row: int) -> Pair:
        """Image (H, W, C) and mask (H, W) of a sample."""
        start, height, width, channels, kind = self.places[row].tolist()
        dtype = np.dtype(DTYPES[kind])
        middle = start + height * width * channels * dtype.itemsize
        image = self.bytes[start:middle].view(dtype).reshape(height, width, channels)
        end = middle + height * width
        return image, self.bytes[middle:end].reshape(height, width)

    def __reduce__(self) -> tuple[type["DiskCache"], tuple[Path]]:
        return DiskCache, (self.folder,)


def on_disk(read: Callable[[T], Pair], samples: Sequence[T], key: str, title: str) -> DiskCache:
    """Open the cache of these samples; build it if there is none.

    Several processes may ask at once: one builds, the others wait for it. What a killed process leaves is
    never taken for a cache.

    Args:
        read: Reads a sample.
        samples: The samples.
        key: Name of the cache; see `cache_key`.
        title: What the progress bar says.

    Raises:
        UserError: If the disk is too small.
    """
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / key
    with (root / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process dies
        if not folder.is_dir():
            needed, free = _estimate(read, samples), shutil.disk_usage(root).free
            if needed > 0.95 * free:
                raise UserError(
                    f"{title} needs {needed / 1e9:.1f} GB in {root} and {free / 1e9:.1f} GB are free. Put it "
                    "elsewhere with the environment variable LIGHTNING_SEG_CACHE, or use --data.init_args.cache=none."
                )
            building = root / f"{key}.building"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            _write(_read_all(read, samples, title), building)
            os.rename(building, folder)
    return DiskCache(folder)


def cache_key(data: DataSet, split: str, samples: Sequence[object]) -> str:
    """Name what is computed from a split, so that a change of files, settings or code gives another name.

    Args:
        data: The data set.
        split: Name of the split.
        samples: Its samples.
    """
    kinds = (k for k in type(data).__mro__ if k is type(data) or vars(k).keys() & {"list_samples", "read"})
    code = [*map(inspect.getsource, _READERS), *(_source(kind) for kind in kinds)]
    digest = hashlib.sha256("".join(code).encode())
    _feed(digest.update, data.reading_settings)
    state = lru_cache(64)(_state)  # many samples may have one annotation file
    for sample in samples:
        for part in parts_of(sample):
            digest.update(f"\0{part}".encode())
            if (file := file_of(part)) is not None:
                digest.update(state(file))
    readable = "".join(letter if letter.isalnum() else "_" for letter in split)
    return f"{type(data).__name__}-{readable}-{digest.hexdigest()[:16]}"


def _state(file: Path) -> bytes:
    with suppress(FileNotFoundError, NotADirectoryError):
        found = file.stat()
        return f":{found.st_size}:{found.st_mtime_ns}".encode()
    return b""


def _source(kind: type) -> str:
    """The code of a class; of one of this package that of its module, whose functions it uses."""
    is_ours = kind.__module__.startswith("lightning_seg.")
    try:
        return inspect.getsource(sys.modules[kind.__module__] if is_ours else kind)
    except (OSError, TypeError):  # typed into an interpreter: its byte code tells as much
        codes = [part.__code__ for part in vars(kind).values() if isinstance(part, FunctionType)]
        return repr(
            [(c.co_code, c.co_names, [x for x in c.co_consts if not isinstance(x, CodeType)]) for c in codes]
        )


def fingerprint(root: Path, splits: Mapping[str, Sequence[object]]) -> str:
    """Hash the names and sizes of all files of some splits: equal data, equal fingerprint.

    Args:
        root: Folder that the names count from.
        splits: Samples by the name of the split.
    """
    digest = hashlib.sha256()
    # of folders, not of files, and once of an annotation file that many samples have: a tenth of the time
    place = lru_cache(64)(partial(os.path.relpath, start=root))
    size = lru_cache(64)(os.path.getsize)
    for split, samples in splits.items():
        digest.update(split.encode())
        for sample in samples:
            for part in parts_of(sample):
                known, file = part, file_of(part)
                if file is not None:
                    folder, name = os.path.split(file)
                    within = "" if (inner := place(folder or ".")) == "." else f"{inner}/"
                    known = f"{within}{name}:{size(file)}"
                known = f"{known}:{part.index}" if isinstance(part, Slice) else known
                digest.update(f"\0{known}".encode())
    return digest.hexdigest()[:16]


def _feed(update: Callable[[bytes], object], value: object) -> None:
    """Add a setting to a digest: an array by its bytes, an object of ours by its attributes."""
    if isinstance(value, np.ndarray):
        update(value.tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            update(f"\0{key}=".encode())
            _feed(update, value[key])
    elif hasattr(value, "__dict__"):  # an object of this package, such as a `ColorMask`
        _feed(update, vars(value))
    else:
        update(repr(value).encode())


def _write(pairs: Iterable[Pair], folder: Path) -> None:
    index, start = [], 0
    with (folder / "pixels.bin").open("wb") as file:
        for image, mask in pairs:
            height, width = mask.shape
            index.append((start, height, width, image.shape[2], DTYPES.index(image.dtype.name)))
            start += file.write(np.ascontiguousarray(image).data) + file.write(
                np.ascontiguousarray(mask).data
            )
            start += file.write(bytes(-start % 4))  # numbers of 16 and 32 bits begin where they can be mapped
    np.save(folder / "index.npy", np.array(index, np.int64).reshape(-1, 5))


def _read_all(read: Callable[[T], Pair], samples: Sequence[T], title: str) -> Iterator[Pair]:
    from rich.progress import track

    return iter(track(in_parallel(read, samples), title, len(samples), transient=True))


def _estimate(read: Callable[[T], Pair], samples: Sequence[T]) -> float:
    """Bytes of all samples, from a few of them."""
    some = np.linspace(0, len(samples) - 1, min(8, len(samples))).astype(int)
    return len(samples) * float(np.mean([sum(part.nbytes for part in read(samples[i])) for i in some]))


def _free_memory() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")
