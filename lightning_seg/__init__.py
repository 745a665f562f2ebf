"""Image segmentation experiments on PyTorch Lightning.

The public names, ``from lightning_seg import CamVid, UNet, load``, are those of `docs/api.md`. A module is imported
when a name of it is first used: importing the package costs nothing.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

IGNORE_INDEX = 255
"""The label of pixels that losses and scores ignore.

Data sets mark void pixels in many ways (255, 11, black). Every data module maps its own mark to this one when it
reads a mask, and from there losses, metrics, augmentation, pictures and export all agree without being told. Masks
are ``uint8``, so a data set has at most 255 classes.
"""

# Module of each public name. Experiment files and command lines know these classes by their names alone, too.
PUBLIC: dict[str, str] = {
    name: module
    for module, name in re.findall(
        r"^from (\S+) import (\w+)",
        Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # 25 ms

        try:
            value: Any = metadata.version("lightning_seg")
        except metadata.PackageNotFoundError:  # it lies on the path, but was not installed
            value = "0+unknown"
    elif name in PUBLIC:
        value = getattr(import_module(PUBLIC[name]), name)
    else:
        raise AttributeError(f"module 'lightning_seg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC, "__version__"})
