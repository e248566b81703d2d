"""A page's tables and lists, before they become HTML or Markdown."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from memmodel.case import LETTERS
from memmodel.pictures.page import Page
from memmodel.prediction import Prediction
from memmodel.report.tables import ROWS, verdicts
from memmodel.units import bytes_text

if TYPE_CHECKING:
    from memmodel.closed_forms import Formulas

_TENSORS = 10  # rows of an account


class Sheet(NamedTuple):
    """A table: its header and rows; columns from `numbers` on are aligned to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...]


def verdict_lines(page: Page) -> list[tuple[bool | None, str]]:
    """Whether each algorithm fits, and the verdict in words."""
    words = [text.plain for text in verdicts(page.report)]
    return [(p.memory.fits, line) for p, line in zip(page.report.predictions, words, strict=True)]


def comparison(page: Page) -> Sheet:
    """The algorithms side by side, row by row as in the terminal."""
    predictions = page.report.predictions
    rows = [(name, *(cell(p, page.report) for p in predictions)) for name, cell in ROWS]
    header = ("one step", *(p.title for p in predictions))
    return Sheet(header, tuple(row for row in rows if any(row[1:])), tuple(range(1, len(header))))


def account(prediction: Prediction) -> Sheet:
    """What is alive at the peak, largest first."""
    at_peak = [record for record in prediction.tensors if record.at_peak]
    rows = [(r.name, r.formula, bytes_text(r.nbytes), r.where, r.kept_by) for r in at_peak[:_TENSORS]]
    rest = at_peak[_TENSORS:]
    if rest:
        rows.append((f"{len(rest)} more", "", bytes_text(sum(r.nbytes for r in rest)), "", ""))
    rows.append(("together", "", bytes_text(prediction.memory.live_peak_bytes), "", ""))
    return Sheet(("tensor", "bytes", "size", "made by", "kept by"), tuple(rows), (2,))


def mitigation_sheet(page: Page) -> Sheet:
    """What would take less."""
    yes = {None: "unknown", True: "yes", False: "no"}
    rows = [
        (m.change, bytes_text(m.allocated_peak_bytes), bytes_text(m.less_bytes), yes[m.fits])
        for m in page.report.mitigations
    ]
    return Sheet(("change", "allocated peak", "less by", "fits"), tuple(rows), (1, 2))


def accuracy_sheet(page: Page) -> Sheet:
    """How far off the model was on runs on record."""
    rows = [
        (
            k.quantity,
            k.where,
            f"{k.numbers}",
            "" if k.exact is None else f"{k.exact}",
            *("" if k.exact == k.numbers else f"{100 * error:.1f} %" for error in (k.median, k.p90, k.worst)),
        )
        for k in page.known
    ]
    return Sheet(
        ("against runs on record", "on", "numbers", "exact", "median", "p90", "worst"), tuple(rows), (2, 3, 4, 5, 6)
    )


def formula_rows(form: "Formulas") -> Iterator[tuple[str, Any, str]]:
    """(quantity, expression, where it holds) of each closed form, and what its letters mean."""
    from memmodel.report.formulas import rows

    return rows(form)


def letters(form: "Formulas") -> str:
    """What the letters of the closed forms stand for, and where the forms hold."""
    import sympy

    used = {str(symbol) for _, expression, _ in formula_rows(form) for symbol in sympy.sympify(expression).free_symbols}
    names = {letter: name.replace("_", " ") for name, letter in LETTERS.items()} | {"w": "window"}
    return ", ".join(f"{letter} {name}" for letter, name in names.items() if letter in used) + f"; {form.region}"


def notes(page: Page) -> list[str]:
    """What was taken as given, and what is known about single algorithms."""
    own = [f"{p.case.algorithm}: {note}" for p in page.report.predictions for note in p.notes]
    return [*page.report.assumptions, *own]
