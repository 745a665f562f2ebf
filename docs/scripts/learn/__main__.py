"""``python -m docs.scripts.learn [NAME ...]``: draw the pictures of docs/learn, print the numbers on its pages.

Without a name all that take seconds. Those of `TRAINED` train small networks on `Shapes` first, two minutes of one
core in all, unless their runs are in runs/learn.
"""

import sys
from importlib import import_module

import torch

from docs.scripts.learn.common import FOLDER

QUICK = ("maps", "pooling", "receptive_field", "dilation", "aspp", "upsampling", "batchnorm", "metrics")
TRAINED = ("skips", "crf", "fitting", "speed")


def main(names: list[str]) -> None:
    """Draw the pictures of pages."""
    if unknown := set(names) - {*QUICK, *TRAINED}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*QUICK, *TRAINED))}")
    torch.set_num_threads(1)  # sums in one order, so that a picture drawn again is the same file
    for name in names or QUICK:
        print(f"-- {name}", *import_module(f"docs.scripts.learn.{name}").draw(FOLDER), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
