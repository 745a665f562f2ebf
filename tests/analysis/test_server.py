"""A comparison served on this machine: its page, pictures of any test image, and nothing to anyone else."""

import io
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.report.report import Heading
from lightning_seg.analysis.report.server import Prediction, ReportServer
from lightning_seg.errors import UserError
from lightning_seg.runs.records import read
from tests.runs.made_runs import make_run

IMAGE = np.dstack([np.full((16, 24), value, np.uint8) for value in (200, 90, 20)])


def predict(run, index):
    if index == 7:
        raise UserError("the image is gone")
    return Prediction(IMAGE, np.full((16, 24), index, np.uint8), np.full((16, 24), read(run).seed, np.uint8))


@pytest.fixture
def server(tmp_path):
    for seed in range(3):
        make_run(tmp_path / "runs", "unet", seed, shift=0.1 * seed)
    make_run(tmp_path / "runs", "deeplab", 5, shift=0.5)
    with ReportServer(compare([tmp_path / "runs"]), Heading("Which one?"), predict) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server, path, host=None):
    request = urllib.request.Request(server.address + path, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read()


def pixels(server, path):
    return np.asarray(Image.open(io.BytesIO(get(server, path)[1])))


def test_the_page_says_that_images_can_be_asked_for(server):
    kind, page = get(server, "")
    assert kind.startswith("text/html") and b'"live":true' in page and b"Which one?" in page
    assert b"img-src data: 'self'" in page


def test_pictures_are_of_the_image_and_the_group_asked_for(server):
    assert (pixels(server, "picture/0/3/truth") == 3).all()
    assert (pixels(server, "picture/0/3/0") == 5).all()  # deeplab
    assert (pixels(server, "picture/0/3/1") == 1).all()  # of three seeds that of the median score
    assert np.abs(pixels(server, "picture/0/3/image").astype(int) - IMAGE).max() < 6  # a JPEG


@pytest.mark.parametrize(
    "path", ["picture/0/20/truth", "picture/0/3/2", "picture/1/0/0", "picture/0/3/../x", "etc"]
)
def test_what_is_not_there_is_not_found(server, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server, path)


def test_an_error_is_said_in_the_terminal(server, capsys):
    with pytest.raises(urllib.error.HTTPError, match="500"):
        get(server, "picture/0/7/0")
    assert "error: the image is gone" in capsys.readouterr().err


def test_it_answers_only_this_machine(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(urllib.error.HTTPError, match="403"):  # a name that was made to point here
        get(server, "", host="elsewhere.example:80")


def test_a_taken_port_is_an_error(server, tmp_path):
    with pytest.raises(UserError, match=f"port {server.server_port} cannot be used"):
        ReportServer(compare([tmp_path / "runs"]), Heading(), predict, server.server_port)
