"""Whatever becomes of the W&B server: nothing waits for it, nothing is lost, and a later sync brings all of it.

``python -m tests.tracking.test_outages`` prints how long start, training and end take.
"""

import os
import socket
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import wandb

from lightning_seg.runs.directory import CONFIG
from lightning_seg.tracking.media import PictureSet
from lightning_seg.tracking.wandb_run import WandbSettings
from tests.processes import CONTEXT, set_environment
from tests.tracking.fake_wandb import KEY, FakeWandb
from tests.tracking.wandb_logs import sync

FINISH_TIMEOUT = 3
ROWS = 300
AT_START = ["closed", "silent", "bad key"]
IN_THE_MIDDLE = ["dies", "401", "500", "stops answering"]
KINDS = ["none", *AT_START, *IN_THE_MIDDLE]
FAULTS = {"401": 401, "500": 500, "stops answering": None}


def run_through(outage: str, folder: Path, address: str | None) -> dict:
    """Make a run with an outage; return how long things took and what was said."""
    with FakeWandb() as server:
        os.environ |= {"WANDB_BASE_URL": address or server.url, "WANDB_API_KEY": KEY}
        if outage == "bad key":
            os.environ["WANDB_API_KEY"] = "short"
        said, times = StringIO(), [time.monotonic()]
        settings = WandbSettings(init_timeout=2, finish_timeout=FINISH_TIMEOUT)
        with redirect_stdout(said), settings.start(folder, {"outage": outage}) as run:
            logger = run.logger
            times.append(time.monotonic())
            logger.log_metrics({"val/miou": 0.0}, 0)
            logger.begin_training({}, "Shapes", {"fingerprint": "abc"}, lambda: 0)
            time.sleep(2 * (outage in IN_THE_MIDDLE))  # until the server knows the data
            times.append(time.monotonic())
            if outage == "dies":
                server.stop()
            elif outage in FAULTS:
                server.status = FAULTS[outage]
            assert wandb.run is not None
            image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
            pictures = PictureSet([image], [mask], [mask + 1], ["a", "b"], ["one"])
            pictures.log(logger, "val/pictures", 0)
            pictures.log_table(logger, "val/pictures_table", 0)
            for step in range(1, ROWS):
                logger.log_metrics({"val/miou": step / ROWS}, step)
            (folder / CONFIG).touch()
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "best.ckpt").write_text(outage)
            logger.finalize("success")
            times.append(time.monotonic())
        times.append(time.monotonic())
    start, _, training, end = np.diff(times)
    return {"start": start, "training": training, "end": end, "said": said.getvalue()}


@contextmanager
def all_outages(folder: Path):
    """Go through all outages at once, each in a process of its own, and then sync all these runs."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "XDG_"))}
    with (
        mock.patch.dict(os.environ, kept | {"HOME": str(folder)}, clear=True),
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        ports = {"silent": silent.getsockname()[1], "closed": closed.getsockname()[1]}
        addresses = {kind: f"http://127.0.0.1:{port}" for kind, port in ports.items()}
        # Processes of their own: wandb, once imported, keeps the timeout that was set then.
        environment = (dict(os.environ),)  # the server of forks may have been started under another one
        with ProcessPoolExecutor(len(KINDS), CONTEXT, set_environment, environment) as pool:
            results = {
                kind: pool.submit(run_through, kind, run_dir(folder, kind), addresses.get(kind))
                for kind in KINDS
            }
        with FakeWandb() as server:
            status, said = sync(server, folder / "runs")
        yield {kind: result.result() for kind, result in results.items()}, server, folder, status, said


@pytest.fixture(scope="module")
def outages(tmp_path_factory):
    with all_outages(tmp_path_factory.mktemp("outages")) as found:
        yield found


def run_dir(folder: Path, kind: str) -> Path:
    return folder / "runs" / "e" / kind.replace(" ", "-")


@pytest.mark.slow
@pytest.mark.parametrize("kind", AT_START + IN_THE_MIDDLE)
def test_nothing_waits_and_nothing_is_lost(outages, kind):
    """Seven runs and their upload: half a minute of waiting for hosts that do not answer."""
    results, server, folder, status, said = outages
    result, usual = results[kind], results["none"]
    assert status == 0, said
    assert result["start"] < usual["start"] + 30  # 90 more if the timeout did not arrive
    assert result["training"] < usual["training"] + 12  # 19 more for each of two artifacts
    assert result["end"] < usual["end"] + FINISH_TIMEOUT + 12  # for ever
    lines = result["said"].splitlines()
    assert lines[-1].endswith(f"lightning-seg sync {run_dir(folder, kind)}")
    if kind in AT_START:
        assert lines[0].startswith("W&B: offline (") and len(lines) == 2
    else:
        assert "not all is uploaded" in lines[-1] and len(lines) == 2

    run = server.runs[kind.replace(" ", "-")]
    assert [row["val/miou"] for row in run.history if "val/miou" in row] == [i / ROWS for i in range(ROWS)]
    assert run.config["settings"]["value"] == {"outage": kind} and run.exit_code == 0
    assert run.summary["val/miou"] == {"max": pytest.approx((ROWS - 1) / ROWS)}
    assert (
        len([name for name in run.files if name.startswith("media/images/")]) == 3
    )  # a picture and two masks
    arrived = {a["type"]: a for a in server.artifacts.values() if a["run"] == run.name}
    assert set(arrived) == {"dataset", "run_table", "model"}, said
    assert all(a["committed"] for a in arrived.values())
    assert arrived["model"]["files"]["best.ckpt"] == kind.encode()
    assert arrived["dataset"]["used_by"] == [run.name]
    assert server.unknown == []


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, all_outages(Path(folder)) as (results, _, _, _, said):
        print("outage           start  training    end   (seconds)")
        for kind, result in results.items():
            print(f"{kind:<16} {result['start']:>5.1f}  {result['training']:>8.1f}  {result['end']:>5.1f}")
        print(said.replace(folder, ""))


if __name__ == "__main__":
    main()
