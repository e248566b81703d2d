"""The notebook is one, holds no outputs, and its cells run in order in plain Python."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[2] / "examples" / "attention_memory.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def shown(notebook: Any) -> list[Any]:
    """What each cell of code shows: the value of its last expression, or None."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    return [run(cell.source, namespace) for cell in notebook.cells if cell.cell_type == "code"]


def run(source: str, namespace: dict[str, Any]) -> Any:
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), namespace)
    return (
        eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace) if isinstance(last, ast.Expr) else None
    )


def test_it_is_a_valid_notebook_without_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []


def test_its_report_and_pictures_render_themselves(shown: list[Any]) -> None:
    rendered = {type(value).__name__: value._repr_html_() for value in shown if hasattr(value, "_repr_html_")}
    assert set(rendered) == {"Report", "Timeline", "Roofline", "Trace"}
    assert all("<svg" in rendered[name] for name in ("Timeline", "Roofline"))


def test_its_numbers_follow_from_the_shapes(shown: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    tensors = next(value for value in shown if isinstance(value, list) and len(value[0]) == 3)
    h, n, bf16 = 32, 16384, 2
    assert [gib for _, gib, _ in tensors].count(h * n * n * bf16 / 2**30) == 4  # P, dP, dS and P * dP
    assert str(shown[2]) == "2*b*h*n**2"
