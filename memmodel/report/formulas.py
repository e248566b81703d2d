"""Closed forms as a table and as LaTeX."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import sympy
from rich.text import Text

from memmodel.attention.case import LETTERS
from memmodel.base.dtypes import short_name
from memmodel.base.units import formula_text
from memmodel.closed_forms import Formulas
from memmodel.events.moments import Branch
from memmodel.report.sheet import Cell, Formula, Sheet, below

if TYPE_CHECKING:
    from memmodel.tracer.formulas.closed import Forms


def rows(forms: "Formulas | Forms") -> Iterator[tuple[str, Any, str]]:
    """(quantity, expression, condition and moment) of each closed form, of an algorithm or of a traced function."""
    yield "saved for backward, bytes", forms.saved, ""
    for phase, branches in forms.peaks.items():
        for branch in branches:
            yield f"{phase} peak, bytes", branch.expression, _when(branch)
    work = {
        "matrix products, FLOP": "matmul_flops",
        "all work, FLOP": "flops",
        "HBM traffic, bytes": "hbm_bytes",
        "intensity, FLOP/B": "intensity",
    }
    for name, field in work.items():
        expression = getattr(forms, field, None)
        if expression is not None:
            yield name, expression, ""


def _when(branch: Branch) -> str:
    wins = branch.wins
    where = "" if wins is None else f"{wins}; " if isinstance(wins, str) else f"where {formula_text(wins)}; "
    return where + branch.moment


def formula_parts(forms: Formulas, tensors: bool) -> Iterator[Any]:
    """The closed forms; with `tensors`, also each tensor's."""
    case = forms.case
    mask = "" if case.mask.name == "none" else f"{case.mask.name} mask"
    dropout = f"dropout {case.dropout:g}" if case.dropout else ""
    kinds = (case.algorithm, case.phase, short_name(case.dtype), mask, dropout, case.scores.described())
    yield Text(", ".join(filter(None, kinds)), style="bold")
    yield Text(f"{symbol_names(forms)}\n", style="dim")
    yield expressions(rows(forms))
    if tensors:
        yield below(tensor_table(forms))


def symbol_names(forms: Formulas) -> str:
    """The meaning of the letters, and the sizes for which the forms hold."""
    used = {str(symbol) for _, expression, _ in rows(forms) for symbol in sympy.sympify(expression).free_symbols}
    names = {letter: name.replace("_", " ") for name, letter in LETTERS.items()} | {"w": "window"}
    return ", ".join(f"{letter} {name}" for letter, name in names.items() if letter in used) + f"; {forms.region}"


def expressions(rows: Iterable[tuple[str, Any, str]], title: str = "") -> Sheet:
    """(quantity, expression, condition) as a table, a condition below its expression."""
    cells: list[tuple[Cell, Cell]] = []
    for name, expression, when in rows:
        cells.append((name, Formula(expression)))
        if when:
            cells.append(("", Text(when, style="dim")))
    return Sheet(title, ("|", ""), cells)


def tensor_table(forms: Formulas) -> Sheet:
    """Every tensor in order of birth."""
    rows = [(n, " x ".join(formula_text(size) for size in shape), Formula(x)) for n, shape, x in forms.tensors]
    return Sheet("Tensors, in order of birth", ("tensor", "shape", "bytes"), rows)


def latex(forms: "Formulas | Forms") -> str:
    """The closed forms, one equation per line."""
    return "\n".join(_equation(name, expression, when) for name, expression, when in rows(forms))


def _equation(name: str, expression: Any, when: str = "") -> str:
    return rf"\text{{{name}}} &= {sympy.latex(expression)} \\" + (f" % {when}" if when else "")


def latex_lines(forms: Formulas, tensors: bool) -> Iterator[str]:
    """One equation per closed form; with `tensors`, also one per tensor."""
    yield latex(forms)
    for name, _, nbytes in forms.tensors if tensors else ():
        yield _equation(_escaped(name), nbytes)


def _escaped(text: str) -> str:
    return re.sub(r"([_&%#{}$])", r"\\\1", text)
