"""Imports go one way, and optional libraries stay optional: read off the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import memmodel

ROOT = Path(memmodel.__file__).parents[1]


def imports(path: Path, inside_functions: bool = True) -> Iterator[str]:
    """Modules that a file imports; type-checking blocks do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


DRAWING = ("figures", "plots", "plot_accuracy", "plot_frontier", "plot_roofline", "plot_timeline")  # in files


@pytest.mark.parametrize("path", files("memmodel"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_imports_no_heavy_library_at_the_top(path: Path) -> None:
    allowed = {"closed_forms.py": {"sympy"}, "sweeps.py": {"numpy"}}.get(path.name, set())
    if path.parent.name == "report" and path.name == "formulas.py":
        allowed = {"sympy", "rich"}
    elif path.parent.name == "report" and path.stem in DRAWING:
        allowed = {"matplotlib"}
    elif path.parent.name == "report" and path.name == "terminal_chart.py":
        allowed = {"plotille", "rich"}
    elif path.parent.name == "report":
        allowed = {"rich"}
    elif path.parent.name == "cli":
        allowed = {"click"}
    elif path.parent.name == "explorer":
        allowed = {"sympy"}  # the package is imported when the page is made
    elif "tracer" in path.parts:
        allowed = {"torch", "sympy"}  # the package is imported when something is traced
    third_party = {"torch", "triton", "numpy", "sympy", "rich", "click", "pynvml", "matplotlib", "plotille"}
    found = {name.partition(".")[0] for name in imports(path, inside_functions=False)} & third_party
    assert found <= allowed


@pytest.mark.parametrize("path", files("memmodel"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_never_imports_torch_or_validation(path: Path) -> None:
    names = {name.partition(".")[0] for name in imports(path)}
    assert not names & {"torch", "triton"} or "tracer" in path.parts
    if "memmodel_validate" in names:  # these commands are about real runs: they import it when they run
        assert path.parent.name == "cli"
        assert path.stem in ("accuracy", "calibrate", "report", "roofline", "validate")
        assert "memmodel_validate" not in {name.partition(".")[0] for name in imports(path, inside_functions=False)}
    if "memmodel_kernels" in names:
        assert path.name in ("algorithms.py", "opaque.py") or path.parent.name == "explorer"


def test_recording_knows_nothing_above_it() -> None:
    above = (
        "memmodel.predictor",
        "memmodel.report",
        "memmodel.cli",
        "memmodel.gpus",
        "memmodel.allocator",
        "memmodel.case",
    )
    for path in files("memmodel/recording"):
        assert not [name for name in imports(path) if name.startswith(above)]


def test_renderers_compute_nothing() -> None:
    model = ("memmodel.recording", "memmodel.allocator", "memmodel.replay", "memmodel.algorithms", "memmodel.predictor")
    for path in files("memmodel/report"):
        assert not [name for name in imports(path) if f"{name}.".startswith(tuple(f"{m}." for m in model))]


def test_the_allocator_stands_alone() -> None:
    for path in files("memmodel/allocator"):
        assert not [n for n in imports(path) if n.startswith("memmodel") and not n.startswith("memmodel.allocator")]


def test_the_algorithms_do_not_import_torch_at_the_top() -> None:
    for path in sorted((ROOT / "kernels" / "memmodel_kernels").glob("*.py")):
        assert "torch" not in {name.partition(".")[0] for name in imports(path, inside_functions=False)}
