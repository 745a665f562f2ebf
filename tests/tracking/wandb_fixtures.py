"""A user at home, a W&B server on loopback, and hosts that are none."""

import os
import socket
from unittest import mock

import pytest
import wandb

from tests.tracking.fake_wandb import KEY, FakeWandb


@pytest.fixture
def home(tmp_path):
    """A user without an account, at home in an empty folder; the environment is put back afterwards."""
    folder = tmp_path / "home" / "ada"
    folder.mkdir(parents=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "XDG_"))}
    with mock.patch.dict(os.environ, kept | {"HOME": str(folder), "USER": "ada"}, clear=True):
        yield folder
        wandb.teardown()


@pytest.fixture
def server(home):
    """A server, and the user's account there."""
    with FakeWandb() as server:
        os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        yield server
        wandb.teardown()


@pytest.fixture
def silent_host():
    """The address of a host that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed_port():
    """An address where nobody listens."""
    with socket.socket() as taken:  # so that no other server is given the port
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
