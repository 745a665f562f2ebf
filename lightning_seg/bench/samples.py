"""How fast training samples are made."""

from lightning_seg.cli import config_arguments
from lightning_seg.data.bench import bench, table
from lightning_seg.experiment import DataOnly, quiet


def main(args: list[str]) -> None:
    """Time the making of samples beside other libraries, ``NAME [--key=value ...]``."""
    print(table(bench(DataOnly(quiet(config_arguments(args))).datamodule)))
