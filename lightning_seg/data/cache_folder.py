"""Where everything is kept that can be computed again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of all caches: `LIGHTNING_SEG_CACHE`, or `lightning_seg` in `XDG_CACHE_HOME` (`~/.cache`)."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("LIGHTNING_SEG_CACHE") or home / "lightning_seg").expanduser()
