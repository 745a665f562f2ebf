"""The demo: what a dropped image becomes; the page itself where Gradio is installed."""

import socket

import numpy as np
import pytest
from PIL import Image

from lightning_seg import load
from lightning_seg.inference import demo
from tests.inference.conftest import call


@pytest.fixture(scope="module")
def models(runs):
    return [load(run) for run in runs]


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))


def test_an_image_becomes_regions(models, image):
    pixels, regions = demo.segment(models[:1], image)[0]
    labels = models[0](image)
    assert (pixels == np.array(image)).all()
    assert sum(mask.sum() for mask, _ in regions) == labels.size  # every pixel is in one of them
    for mask, name in regions:
        assert (mask == (labels == models[0].class_names.index(name))).all() and mask.any()


def test_two_models_are_compared(models, image):
    first, second, (_, [(differs, name)]) = demo.segment(models, image)
    assert name == "differs" and (differs == (models[0](image) != models[1](image))).all()
    assert [len(shown) for shown in (first, second)] == [2, 2]
    assert demo.segment(models, None) == [None, None, None]


@pytest.mark.parametrize("count", [1, 2])
def test_the_page_answers(models, image, tmp_path, count):
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    image.save(tmp_path / "image.png")
    page = demo.build(models[:count], ["unet", "linknet"][:count])
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        assert address.startswith("http://127.0.0.1:")
        answer = Client(address, verbose=False).predict(
            handle_file(tmp_path / "image.png"), api_name="/segment"
        )
        assert count == 1 or len(answer) == 3
        annotated = answer if count == 1 else answer[0]
        assert {region["label"] for region in annotated["annotations"]} <= set(models[0].class_names)
    finally:
        page.close()


def test_loopback_unless_asked(runs, monkeypatch, capsys):
    asked = {}

    class Page:
        def launch(self, **options):
            asked.update(options)
            return None, "http://127.0.0.1:7861/", None

        def block_thread(self):
            pass

    monkeypatch.setattr(demo, "build", lambda models, names: Page())
    assert call("demo", *runs) == 0
    assert asked["server_name"] == "127.0.0.1" and asked["server_port"] is None and not asked["share"]
    assert capsys.readouterr().out == "http://127.0.0.1:7861/ (Ctrl-C ends it)\n"


def test_a_port_that_is_taken(runs, capsys):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert call("demo", runs[0], "--port", port) == 2
    assert f"the demo cannot have port {port} at 127.0.0.1" in capsys.readouterr().err


def test_three_runs_are_too_many(runs, capsys):
    assert call("demo", *runs, runs[0]) == 2
    assert "compares two runs, not 3" in capsys.readouterr().err
