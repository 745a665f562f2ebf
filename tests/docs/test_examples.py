"""The examples in the docstrings of the public names, which the reference shows, run as they are written."""

import doctest
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

import lightning_seg

ROOT = Path(__file__).parents[2]
OF_A_RUN = (
    "Experiment",
    "load",
    "load_run",
    "Predictor",
    "resume",
    "compare",
    "write_report",
)  # made by the first
NEEDS = {"PydenseCRF": "pydensecrf"}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A folder with the files that examples speak of."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "experiments").mkdir()
    small = (ROOT / "experiments/quickstart.yaml").read_text().replace("resnet18", "test_resnet")
    (folder / "experiments/quickstart.yaml").write_text(
        small.replace("batch_size", "num_workers: 0, batch_size")
    )
    image, mask = Image.new("RGB", (8, 8)), Image.new("L", (8, 8))
    mask.paste(255, (2, 2, 4, 4))
    for file, picture in {
        "cracks/images/a.png": image, "cracks/masks/a.png": mask,
        "cells/images/a.png": image, "cells/masks/a/1.png": mask, "street.jpg": image.resize((64, 48)),
    }.items():  # fmt: skip
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        yield folder


class Checker(doctest.OutputChecker):
    """Takes whatever an example prints that states no output."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", sorted({*lightning_seg.PUBLIC} - {*OF_A_RUN}))
def test_the_example_of_each_public_name_runs(name):
    run_example(name)


def test_the_examples_of_a_run_and_what_is_done_with_it_run():
    for name in OF_A_RUN:
        run_example(name)


def run_example(name):
    if name in NEEDS and not find_spec(NEEDS[name]):
        pytest.skip(f"{NEEDS[name]} is not installed")
    public = {each: getattr(lightning_seg, each) for each in lightning_seg.PUBLIC}
    names = {**public, "np": np, "torch": torch, "lightning": lightning, "Path": Path, "partial": partial}
    docs = doctest.DocTestFinder(recurse=False).find(public[name], name, globs=names)
    assert docs and docs[0].examples, f"{name} needs an example: a section 'Examples:' with '>>>' lines"
    torch.manual_seed(0)
    report: list[str] = []
    failed = doctest.DocTestRunner(Checker()).run(docs[0], out=report.append).failed
    assert not failed, "".join(report)
