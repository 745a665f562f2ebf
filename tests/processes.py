"""Processes that start within a tenth of a second: forks of a server that has imported everything once."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "lightning_seg.experiment.training",
        "lightning_seg.networks.unet",
        "lightning_seg.data.datasets.shapes",
        "segmentation_models_pytorch",  # imported when the network is built
        "lightning_seg.plotting.charts",
        "matplotlib.backends.backend_agg",
        "wandb",
    ]
)


def start(function: Callable[..., None], *arguments: Any, **environment: str) -> BaseProcess:
    """Call a function of a test module in a process of its own.

    Args:
        function: The function.
        *arguments: Its arguments.
        **environment: Further environment variables of the process.
    """
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # where the child finds the module of the test
    # The server was started under another environment.
    process = CONTEXT.Process(target=_call, args=({**os.environ, **environment}, function, arguments))
    process.start()
    return process


def _call(environment: dict[str, str], function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    set_environment(environment)
    rank_zero_only.rank = int(environment.get("RANK", 0))  # the server has imported it without a rank
    function(*arguments)


def set_environment(environment: dict[str, str]) -> None:
    """Replace all environment variables of this process."""
    os.environ.clear()
    os.environ.update(environment)


def run_ranks(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in so many processes, with what torchrun would tell them; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(count),
        "TORCHELASTIC_RUN_ID": "1",
    }
    processes = [
        start(function, *arguments, **told, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)
    ]
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()  # nobody waits for one that failed
    assert codes == [0] * count
