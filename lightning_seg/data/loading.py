"""Samples into batches: the same ones for any number of workers and processes, in mid-epoch too."""

import ctypes
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.transforms.batch import Batch, Item
from lightning_seg.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
FILLER = -1  # the index of a sample that no score counts; read as the last one
WAIT = 300.0  # seconds that a batch may take to come from a worker


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Tells every sample its epoch, so that augmentation can depend on it in workers that outlive epochs.

    It is a `DistributedSampler` so that Lightning calls `set_epoch` and does not put its own in its place,
    which would repeat samples in evaluation.

    Args:
        dataset: Anything with a length.
        train: Shuffle by (seed, epoch) and give every process equally many samples, leaving out a few that
            change from epoch to epoch. Otherwise every sample comes exactly once, in order, and processes may
            get one more than others, or none.
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes.
        keep_step: In evaluation, let a process that has fewer samples than another take a filler that no score
            counts: processes that are not at work together may wait for one another for ever.

    Yields:
        Pairs (epoch, index); the index is `FILLER` where no score counts the sample.
    """

    def __init__(
        self,
        dataset: Sized,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        keep_step: bool = False,
    ) -> None:
        super().__init__(
            cast(Dataset[Item], dataset), world_size, rank, shuffle=train, seed=seed, drop_last=train
        )
        if not (train or keep_step):
            self.num_samples = len(range(rank, len(dataset), world_size))
        self._skipped = 0

    def skip(self, samples: int) -> None:
        """Pass over the first samples of this process in the next epoch, after a resume in mid-epoch."""
        self._skipped = samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        total = len(self.dataset)  # type: ignore[arg-type]
        order = list(range(total))
        if self.shuffle:
            with seeded(self.seed, self.epoch):
                order = torch.randperm(total).tolist()
        mine = order[self.rank :: self.num_replicas][: self.num_samples]
        mine += [FILLER] * (self.num_samples - len(mine))
        return iter([(self.epoch, index) for index in mine[self._skipped :]])


class Loader(DataLoader[Item]):
    """`DataLoader` that can continue in mid-epoch, and whose workers report a user's error as the user's.

    Lightning saves and restores its state with the checkpoint. It starts with the first batch that is asked
    for, because Lightning takes the iterator before it tells the sampler the epoch.
    """

    _done: tuple[int, int] = (0, 0)  # epoch, batches handed out in it
    _resume: tuple[int, int] = (0, 0)
    _waited, _lasted = 0.0, 0.0  # seconds in this epoch
    _workers: frozenset[BaseProcess] = frozenset()
    _asked: float | None = None  # when the batch was asked for that is being waited for
    _fault = ""  # what has become of the workers if it did not come

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch, batches = getattr(self.sampler, "epoch", 0), 0
        if epoch == self._resume[0]:
            batches = self._resume[1]
        self._resume = (0, 0)
        if isinstance(self.sampler, EpochSampler):
            self.sampler.skip(batches * (self.batch_size or 1))
        start, self._waited = time.perf_counter(), 0.0
        first = batches
        end = threading.Event()
        try:
            others = set(active_children())
            iterator = super().__iter__()
            self._workers = self._workers | (set(active_children()) - others)
            if self.num_workers:
                threading.Thread(target=self._watch, args=(end,), daemon=True).start()
            while True:
                self._asked = asked = time.perf_counter()
                batch = next(iterator, None)
                self._asked = None
                self._waited += time.perf_counter() - asked
                self._lasted = time.perf_counter() - start
                if batch is None:
                    return
                batches += 1
                self._done = (epoch, batches)
                yield batch
        except UserError as error:  # from a worker it comes with the worker's traceback as its text
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
        except (RuntimeError, OSError, EOFError):
            if not self._fault:
                raise
            raise UserError(
                f"no batch came for {WAIT:.0f} s: a data worker {self._fault}. Awaited were"
                f" {self._names(batches - first)}; it may have been some batches ahead. Look at these files, and at the"
                " disk or network that they are on; --data.init_args.num_workers=0 shows where it stops."
            ) from None
        finally:
            end.set()

    def _watch(self, end: threading.Event) -> None:
        """Kill the workers if a batch does not come, so that the wait for it ends with an error.

        `DataLoader`'s own timeout does not cover the wait for a tensor whose message has come, and it leaves frozen
        workers, which would keep this process from ending.
        """
        while not end.wait(WAIT / 10):
            if self._asked and time.perf_counter() - self._asked > WAIT:
                self._fault = "hangs" if all(worker.is_alive() for worker in self._workers) else "was killed"
                for worker in self._workers:
                    worker.kill()
                return

    @property
    def waiting(self) -> float:
        """Share of the time since the epoch began that was spent waiting for this loader, 0 to 1."""
        return self._waited / self._lasted if self._lasted else 0.0

    def state_dict(self) -> dict[str, int]:
        """Say how far this epoch is, and how it is divided."""
        return {"epoch": self._done[0], "batches": self._done[1], **self._division()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Pass over the batches of an epoch that were already used, when that epoch comes.

        Raises:
            UserError: The epoch was divided otherwise.
        """
        now = self._division()
        was = {key: state.get(key, value) for key, value in now.items()}
        if was != now and state["batches"] < was["of"]:
            before, after = (
                "{of} batches of {batch_size} on {processes} device(s)".format(**d) for d in (was, now)
            )
            raise UserError(
                f"the run was saved in the middle of an epoch of {before}, and cannot continue with one of {after}."
                " Resume it with the same batch size, devices and data."
            )
        self._done = self._resume = (state["epoch"], state["batches"])

    def _names(self, number: int) -> str:
        """Name the samples of a batch, counted from where this epoch began or was continued."""
        size = self.batch_size or 1
        keys = list(self.sampler)[number * size : (number + 1) * size]
        dataset: Any = self.dataset
        if not hasattr(dataset, "sample_at"):
            return f"the samples {[index for _, index in keys]}"
        return ", ".join(dataset.data.name_of(dataset.sample_at(index)) for _, index in keys)

    def _division(self) -> dict[str, int]:
        processes = getattr(self.sampler, "num_replicas", 1)
        return {"of": len(self), "batch_size": self.batch_size or 1, "processes": processes}


def outlive_signal(_: int) -> None:
    """Let a data worker live on for a minute after SIGTERM.

    `timeout`, schedulers and closed terminals send it to all processes of a run; the one that trains then finishes its
    step, saves, and ends its workers by itself.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))


def in_parallel(function: Callable[[T], R], items: Sequence[T], title: str = "") -> Iterator[R]:
    """Apply a function to all items with a thread per core, in order; decoding releases the interpreter's lock.

    Args:
        function: What to apply.
        items: To these.
        title: What a progress bar says, which is shown in one process, and for many items.
    """
    results = _in_parallel(function, items)
    if not title or len(items) < 1000 or getattr(rank_zero_only, "rank", None):
        return results
    from rich.progress import track

    return iter(track(results, title, len(items), transient=True))


def _in_parallel(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(items), 256):  # few results in memory at a time
            yield from pool.map(function, items[start : start + 256])


def keep_memory() -> None:
    """Keep the memory of large arrays for the next ones, in this process and those forked from it.

    The C library of Linux returns every array of some megabytes to the system as soon as it is freed, and asks for
    it again with the next batch, page by page: a tenth of a training step on a CPU, half of the making of a batch.
    """
    with suppress(OSError, AttributeError):  # another system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation is a mapping of its own
        mallopt(-1, 1 << 28)  # M_TRIM_THRESHOLD: bytes that may lie unused at the end of the heap


def seed_of(*numbers: int) -> int:
    """Mix numbers into one seed of 64 bits; neighbors have seeds that have nothing to do with one another."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest())


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within the block, torch's CPU generator follows from these numbers alone; afterwards it is as before.

    All torchvision transforms draw from this generator. `torch.manual_seed` would also touch the device's.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed_of(*numbers))
    try:
        yield
    finally:
        generator.set_state(before)


def collate(samples: Sequence[Item]) -> Batch:
    """Stack samples to a batch, the images in channels_last memory without transposing them.

    Images of different size are padded at the bottom and right to the largest, masks with `IGNORE_INDEX`, and
    the batch then says the true sizes (B, 2) as "size". A batch of nothing but fillers says so as "filler".
    """
    filler = all(sample["index"] == FILLER for sample in samples)
    samples = samples[:1] if filler else [sample for sample in samples if sample["index"] != FILLER]
    rows: list[Mapping[str, Any]] = [*samples]  # whatever their keys
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    images = columns["image"]
    sizes = [tuple(image.shape[-2:]) for image in images]
    if len(set(sizes)) > 1:
        height, width = (max(axis) for axis in zip(*sizes, strict=True))
        room = [(0, width - w, 0, height - h) for h, w in sizes]
        images = [_pad_image(image, (height, width)) for image in images]
        for key in {"mask", "segments"} & columns.keys():
            masks = zip(columns[key], room, strict=True)
            columns[key] = [pad(mask, by, value=IGNORE_INDEX) for mask, by in masks]
        columns["size"] = [torch.tensor(size) for size in sizes]
    if len({image.dtype for image in images}) > 1:  # files of 8 and of more bits in one batch
        images = [image.float() for image in images]
    columns["image"] = [image.permute(1, 2, 0) for image in images]
    batch: dict[str, Any] = {
        key: torch.stack(values) if isinstance(values[0], torch.Tensor) else values
        for key, values in columns.items()
    }
    batch["index"] = torch.tensor(columns["index"])
    batch["image"] = batch["image"].permute(0, 3, 1, 2)
    return cast(Batch, {**batch, "filler": True} if filler else batch)


def choose_workers(dataset: Dataset[object], trainer: L.Trainer | None) -> int:
    """Choose the number of worker processes from the time a sample takes and the cores of this process."""
    times = []
    for index in range(min(3, len(dataset))):  # type: ignore[arg-type]
        start = time.perf_counter()
        dataset[index]
        times.append(time.perf_counter() - start)
    if min(times) < 0.0005:  # handing a sample over from a worker costs as much
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if trainer is not None:
        cores //= trainer.num_devices
        if trainer.strategy.root_device.type == "cpu":  # where training itself keeps the cores busy
            return min(2, cores - 1) if cores > 1 else 0
    return min(8, cores)


def _pad_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    out = image.new_zeros(*size, image.shape[0]).permute(2, 0, 1)
    out[:, : image.shape[1], : image.shape[2]] = image
    return out
