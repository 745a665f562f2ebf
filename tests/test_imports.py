"""Which package may import which: one direction, no circles, whatever is imported lazily or for its types alone."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lightning_seg"

# Each package may import those on the lines before it, and nothing on its own line or after it.
ORDER = """
    errors
    plotting metrics data.transforms
    statistics runs
    data
    data.checks data.datasets
    networks.backbones
    networks
    networks.detection
    training training.finetune
    inference
    inference.export postprocess
    tasks analysis
    analysis.report tracking
    callbacks
    experiment
    studies bench
    cli
    __main__
"""
RANK = {name: rank for rank, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}


def files() -> dict[str, Path]:
    """The file of each module."""
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(source: str, known: set[str]) -> set[str]:
    """The modules of this package that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known else node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in ("import_module", "resolve_name") and node.args:
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
                assert not str(name).startswith(PACKAGE), f"{name} is imported by a string"
    return {name for name in found if name.startswith(f"{PACKAGE}.")}


def package_of(module: str, modules: dict[str, Path]) -> str:
    """The package that a module is in; modules at the top stand for themselves."""
    name = module if modules[module].name == "__init__.py" else module.rpartition(".")[0]
    return (module if name == PACKAGE else name).removeprefix(f"{PACKAGE}.")


@cache
def graph() -> dict[str, dict[str, str]]:
    """For each package those that it imports, each with one import as the evidence."""
    modules = files()
    edges: dict[str, dict[str, str]] = {package_of(m, modules): {} for m in modules if m != PACKAGE}
    for module, path in modules.items():
        if module == PACKAGE:
            continue
        here = package_of(module, modules)
        for other in imported(path.read_text(encoding="utf-8"), set(modules)):
            there = package_of(other, modules)
            if there != here:
                edges[here][there] = f"{module} imports {other}"
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Packages that import one another in a circle; none if there is no circle."""
    left = {name: set(others) for name, others in edges.items()}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    path = [*left][:1]
    while path and path[-1] not in path[:-1]:
        path.append(min(left[path[-1]] & set(left)))
    return path


def test_no_packages_import_one_another_in_a_circle():
    assert circle({name: set(others) for name, others in graph().items()}) == []


@pytest.mark.parametrize("package", sorted(RANK))
def test_a_package_imports_only_those_before_it(package):
    assert package in graph(), "ORDER lists a package that is no more"
    wrong = {there: how for there, how in graph()[package].items() if RANK[there] >= RANK[package]}
    assert not wrong, f"{package} may not import these: {wrong}"


def test_every_package_has_its_place_in_the_order():
    assert set(graph()) == set(RANK)


def test_at_most_three_modules_stand_at_the_top():
    assert len([*(ROOT / PACKAGE).glob("*.py")]) <= 3


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, False),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, True),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, True),
    ],
)
def test_circles_are_found(edges, expected):
    assert bool(circle(edges)) == expected


@pytest.mark.parametrize(
    "source",
    [
        "from lightning_seg.data import base",
        "def f():\n    from lightning_seg.data import base",
        "if TYPE_CHECKING:\n    from lightning_seg.data import base",
        "import lightning_seg.data.base as b",
    ],
)
def test_lazy_and_type_only_imports_count(source):
    assert imported(source, {"lightning_seg.data.base"}) == {"lightning_seg.data.base"}
