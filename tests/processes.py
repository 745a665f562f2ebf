"""Processes that start within a tenth of a second: forks of a server that has imported everything once."""

import atexit
import gc
import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

ROOT = Path(__file__).parents[1]
PATH = [*sys.path]  # before tests add to it
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
    _become(environment)
    function(*arguments)


def _become(environment: dict[str, str]) -> None:
    """Behave as a process that was started with this environment."""
    gc.freeze()  # what the server has imported stays, and is not looked at (and so copied) in each collection
    set_environment(environment)
    # The server has imported it without a rank. These are what Lightning looks for, in its order.
    ranks = [environment[key] for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in environment]
    rank_zero_only.rank = int(ranks[0]) if ranks else 0
    multiprocessing.set_start_method(None, force=True)  # data workers are forks of it, as in any program
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def set_environment(environment: dict[str, str]) -> None:
    """Replace all environment variables of this process."""
    os.environ.clear()
    os.environ.update(environment)


@cache
def forked_python() -> str:
    """Return the path of a Python that has imported everything already, to be started instead of `sys.executable`.

    It takes -m MODULE, -c CODE or FILE, and is a process like any other: it has its own folder, environment and output,
    can be sent signals, and its exit code is that of the program. Only PYTHONPATH is that of the tests.
    """
    folder = Path(tempfile.mkdtemp())
    ends, alive = CONTEXT.Pipe(duplex=False)

    def end() -> None:
        alive.close()  # as it is when this process is killed
        shutil.rmtree(folder)

    atexit.register(end)
    start(_serve, str(folder / "socket"), PATH, ends).join()
    command = shlex.join(
        [sys.executable, "-IS", str(ROOT / "tests/forked_python.py"), str(folder / "socket")]
    )
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    python.chmod(0o755)
    for _ in range(6000):
        if (folder / "socket").exists():
            break
        time.sleep(0.01)
    return str(python)


def _serve(path: str, modules: list[str], ends: Connection) -> None:
    """Fork for everyone who connects: once to wait for the program, and once to be the program."""
    if os.fork():
        return  # the server is no child that a test would find among its own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        os.rename(f"{path}.new", path)
        while ends not in wait([listener, ends]):
            connection, _ = listener.accept()
            if not os.fork():
                break
            connection.close()
        else:
            os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, *_ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        folder, environment, arguments = json.loads(stream.read(int.from_bytes(length, "big")))
    if program := os.fork():
        for file in files:
            os.close(file)
        with suppress(OSError):  # who has asked may be gone
            connection.sendall(program.to_bytes(8, "big"))
            Thread(target=_kill_after, args=(connection, program), daemon=True).start()
            connection.sendall(os.waitpid(program, 0)[1].to_bytes(8, "big"))
        os._exit(0)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    _become(environment)
    sys.executable, sys.stdin = str(Path(path).with_name("python")), open(0, closefd=False)
    sys.path[:] = [*modules, str(ROOT)]
    kind, *sys.argv = [word for word in arguments if word != "-u"]
    if kind == "-m":
        sys.path.insert(0, folder)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        exec(sys.argv[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")


def _kill_after(connection: socket.socket, program: int) -> None:
    """Kill a program when the process that stands for it was killed."""
    if not connection.recv(1):
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(program, signal.SIGKILL)


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
