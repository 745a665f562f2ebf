"""What `import lightning_seg` gives, and what it costs."""

import ast
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import lightning as L
import pytest
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torchvision.transforms import v2

import lightning_seg
from lightning_seg.data.base import SegmentationData
from lightning_seg.data.transforms.mixing import Mix
from lightning_seg.inference.inferers import Inferer
from lightning_seg.metrics.images import ImageMetric
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.networks.upsampling import Upsampling
from lightning_seg.postprocess.chain import Step
from lightning_seg.tasks.base import SegmentationTask
from lightning_seg.training.finetune.policies import Full

ROOT = Path(__file__).parent.parent
# What a setting of an experiment may name: the package it lies in, and what it derives from.
NAMEABLE = {
    "tasks": SegmentationTask,
    "data.datasets": SegmentationData,
    "data.transforms": (v2.Transform, Mix),
    "networks": (BackboneNetwork, Upsampling),
    "training.losses": nn.Module,
    "training.schedules": LRScheduler,
    "training.finetune": Full,
    "inference": Inferer,
    "postprocess": Step,
    "metrics": ImageMetric,
    "callbacks": L.Callback,
}
# Made by the package itself, never by a setting.
INTERNAL = {
    "Detector",
    "TrackerUpdates",
    "RangeTest",
    "Ensemble",
    "PyramidNetwork",
    "BackboneNetwork",
    "Morphology",
    "Schedule",
}


def modules(place: str) -> list[str]:
    found = importlib.import_module(f"lightning_seg.{place}")
    below = pkgutil.walk_packages(getattr(found, "__path__", []), f"{found.__name__}.")
    return [found.__name__, *(module.name for module in below)]


@pytest.mark.parametrize("place", NAMEABLE)
def test_every_class_that_an_experiment_can_name_is_a_public_name(place):
    for module in modules(place):
        for name, cls in vars(importlib.import_module(module)).items():
            ours = inspect.isclass(cls) and cls.__module__ == module and issubclass(cls, NAMEABLE[place])
            if ours and not name.startswith("_") and name not in INTERNAL:
                assert lightning_seg.PUBLIC.get(name) == module, f"add {name} to lightning_seg/__init__.pyi"


def test_every_public_name_leads_to_what_is_defined_there():
    for name, module in lightning_seg.PUBLIC.items():
        value = getattr(lightning_seg, name)
        assert (value.__module__, value.__name__) == (module, name)
        assert name in dir(lightning_seg)


def test_the_stub_holds_each_name_once_and_nothing_that_is_not_read():
    names = []
    for node in ast.parse((ROOT / "lightning_seg/__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names]
    assert len(names) == len(set(names))
    assert set(names) == set(lightning_seg.PUBLIC)


def test_another_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="Unet"):
        lightning_seg.Unet  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    assert lightning_seg.__version__ == metadata.version("lightning_seg")
    assert (ROOT / "lightning_seg/py.typed").exists()


def test_a_package_that_was_not_installed_does_not_know_its_version(tmp_path):
    (tmp_path / "lightning_seg").symlink_to(ROOT / "lightning_seg")  # what is beside it may be its metadata
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import lightning_seg; print(lightning_seg.__version__)"
    command = [sys.executable, "-I", "-S", "-c", code]  # without site-packages there are no metadata
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0+unknown\n"


def test_importing_the_package_imports_nothing_heavy():
    code = """
import sys, time
before = set(sys.modules); start = time.perf_counter()
import lightning_seg
took = time.perf_counter() - start
print(took, *sorted({m.split(".")[0] for m in set(sys.modules) - before} - {"lightning_seg"}))
"""
    took, *others = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"torch", "numpy", "lightning", "yaml"} & set(others)
    assert float(took) < 0.2  # 3 ms on a quiet machine


def test_the_list_and_the_reference_are_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs/scripts/api.py")
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    pages = api.pages()
    assert sum(text.count("\n:::") for text in pages.values()) == len(lightning_seg.PUBLIC)
    assert {path: (ROOT / path).read_text() for path in pages} == pages, (
        "python docs/scripts/api.py writes them"
    )
    assert {*(ROOT / "docs/reference").iterdir()} <= {ROOT / path for path in pages}
