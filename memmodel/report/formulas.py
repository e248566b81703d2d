"""Closed forms as a table and as LaTeX."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import sympy
from rich.table import Table
from rich.text import Text

from memmodel.closed_forms import Formulas
from memmodel.dtypes import short_name
from memmodel.moments import Branch
from memmodel.units import formula_text

_LETTERS = {
    "b": "batch",
    "h": "heads",
    "g": "kv heads",
    "n": "seq",
    "m": "kv seq",
    "d": "head dim",
    "e": "value dim",
    "w": "window",
}


def rows(forms: Formulas) -> Iterator[tuple[str, Any, str]]:
    """(quantity, expression, condition) of each closed form."""
    yield "saved for backward, bytes", forms.saved, ""
    for phase, branches in forms.peaks.items():
        for branch in branches:
            yield f"{phase} peak, bytes", branch.expression, _when(branch)
    yield "matrix products, FLOP", forms.matmul_flops, ""
    yield "all work, FLOP", forms.flops, ""
    yield "HBM traffic, bytes", forms.hbm_bytes, ""
    yield "intensity, FLOP/B", forms.intensity, ""


def _when(branch: Branch) -> str:
    where = "" if branch.wins is None else f"where {formula_text(branch.wins)}; "
    return where + branch.moment


def formula_parts(forms: Formulas, tensors: bool) -> Iterator[Any]:
    """The closed forms, and every tensor's where asked."""
    case = forms.case
    mask = "" if case.mask.name == "none" else f", {case.mask.name} mask"
    yield Text(f"{case.algorithm}, {case.phase}, {short_name(case.dtype)}{mask}", style="bold")
    used = {str(symbol) for _, expression, _ in rows(forms) for symbol in sympy.sympify(expression).free_symbols}
    letters = ", ".join(f"{letter} {meaning}" for letter, meaning in _LETTERS.items() if letter in used)
    yield Text(f"{letters}\n{forms.region}\n", style="dim")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, expression, when in rows(forms):
        table.add_row(name, formula_text(expression))
        if when:
            table.add_row("", Text(when, style="dim"))
    yield table
    if tensors:
        yield tensor_table(forms)


def tensor_table(forms: Formulas) -> Table:
    """Every tensor in order of birth."""
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title="\nTensors, in order of birth",
        title_justify="left",
    )
    for name in ("tensor", "shape", "bytes"):
        table.add_column(name, overflow="fold")
    for name, shape, nbytes in forms.tensors:
        table.add_row(name, " x ".join(formula_text(size) for size in shape), formula_text(nbytes))
    return table


def latex_rows(rows: Iterable[tuple[str, Any, str]]) -> Iterator[str]:
    """One displayed equation for each (quantity, expression, condition)."""
    for name, expression, when in rows:
        comment = f" % {when}" if when else ""
        yield rf"\text{{{name}}} &= {sympy.latex(expression)} \\{comment}"


def latex_lines(forms: Formulas, tensors: bool) -> Iterator[str]:
    """One displayed equation per closed form."""
    yield from latex_rows(rows(forms))
    if tensors:
        for name, _, nbytes in forms.tensors:
            yield rf"\text{{{_escaped(name)}}} &= {sympy.latex(nbytes)} \\"


def _escaped(text: str) -> str:
    return re.sub(r"([_&%#{}$])", r"\\\1", text)
