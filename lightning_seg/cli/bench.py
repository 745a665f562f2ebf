"""The `bench` command: ratios against bare loops and other libraries, measured on this machine."""

import importlib

from lightning_seg.errors import UserError

BENCHES = ("data", "train", "eval", "start", "frozen", "guard")


def main(args: list[str]) -> None:
    """Run a benchmark, ``data|train|eval|frozen NAME [--key=value ...]``, ``start`` or ``guard``."""
    if not args or args[0] not in BENCHES:
        raise UserError(f"what should be timed? Type 'lightning-seg bench {'|'.join(BENCHES)} ...'.")
    module = {"eval": "evaluate", "data": "samples"}.get(args[0], args[0])
    importlib.import_module(f"lightning_seg.bench.{module}").main(args[1:])
