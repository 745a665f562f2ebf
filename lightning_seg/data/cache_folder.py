"""Where everything is kept that can be computed again."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np


def cache_folder() -> Path:
    """The folder of all caches: `LIGHTNING_SEG_CACHE`, or `lightning_seg` in `XDG_CACHE_HOME` (`~/.cache`)."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("LIGHTNING_SEG_CACHE") or home / "lightning_seg").expanduser()


def keep_array(file: Path, array: np.ndarray) -> None:
    """Write an array into the cache, whole or not at all; a cache that cannot be written costs time, not a run."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            np.save(temporary, array)
        os.replace(temporary.name, file)
