"""Reading W&B's logs with wandb's own reader, and uploading them as a user would."""

import json
import os
import subprocess
from pathlib import Path

from tests.processes import forked_python
from tests.tracking.fake_wandb import KEY, FakeWandb


def records(run_dir: Path) -> list[dict]:
    """Read the transaction log of a run's only part."""
    (log,) = run_dir.glob("wandb/*run-*/*.wandb")
    return read(log)


def read(log: Path) -> list[dict]:
    command = [forked_python(), "-m", "wandb", "leet", "inspect", "--json", str(log)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    return [json.loads(line) for line in out.splitlines()]


def of_type(log: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in log if record["type"] == kind]


def sync(server: FakeWandb, *arguments: object) -> tuple[int, str]:
    """Run ``lightning-seg sync``; return its exit status and what it said."""
    account = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    done = subprocess.run(
        [forked_python(), "-m", "lightning_seg", "sync", *map(str, arguments)],
        env=os.environ | account,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout
