"""What every test shares: the seed, quiet logging, and where real data is."""

import atexit
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


def pytest_collection_finish() -> None:
    """Do not look at all that was imported in each collection of garbage."""
    gc.freeze()
    gc.enable()


atexit.register(gc.unfreeze)  # libraries complain of what they still own at the end


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with CamVid/, ISBI2012/ and PennFudanPed/."""
    folder = os.environ.get("LIGHTNING_SEG_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set LIGHTNING_SEG_TEST_DATA to a folder with CamVid, ISBI2012 and PennFudanPed")
    return Path(folder)
