"""What every test shares: the seed, quiet logging, where real data is, and in which order tests run."""

import gc
import os
from pathlib import Path

import pytest

gc.disable()  # until the modules of all tests are imported

pytest_plugins = ["tests.tracking.wandb_fixtures"]  # a user at home, a W&B server on loopback

# Threads cost more than they save on images this small, above all where several workers of pytest share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test downloads

PROGRAMS = ("slurm", "faults", "studies")  # folders of tests that start programs and wait for them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each worker of xdist begin with long tests: at the end there must be short ones, to be shared.

    `--dist worksteal` gives each worker an equal part of the list; one without work takes the end of another's part.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers == 1:
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.path.parent.name in PROGRAMS or item.get_closest_marker("slow"):
            # A file shares what its fixtures make; there is one cluster at a time.
            files.setdefault(item.path.parent if item.path.parent.name == "slurm" else item.path, []).append(
                item
            )
    order = sorted(files, key=lambda path: path.name != "slurm")  # its tests mostly wait
    long = [[item for path in order[i::workers] for item in files[path]] for i in range(workers)]
    chosen = {item for part in long for item in part}
    short = [item for item in items if item not in chosen]
    count, items[:] = len(items), []
    for i, part in enumerate(long):
        least = max(0, (count - len(items)) // (workers - i) - len(part))
        items += part + short[:least]
        del short[:least]
    items += short


def pytest_collection_finish() -> None:
    """Do not look at all that was imported in each collection of garbage."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let it go at the end: libraries complain of what they still own then."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with CamVid/, ISBI2012/ and PennFudanPed/."""
    folder = os.environ.get("LIGHTNING_SEG_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set LIGHTNING_SEG_TEST_DATA to a folder with CamVid, ISBI2012 and PennFudanPed")
    return Path(folder)
