"""A page as Markdown, its pictures as text: one file that reads the same in an editor and on a forge."""

from collections.abc import Iterator
from typing import Any

from memmodel.pictures.page import Page
from memmodel.report.page import (
    Sheet,
    account,
    accuracy_sheet,
    comparison,
    formula_rows,
    letters,
    mitigation_sheet,
    notes,
    verdict_lines,
)
from memmodel.report.tables import mitigation_title, text
from memmodel.units import formula_text

_SPECIAL = "\\`*_{}[]<>#|$~&"


def markdown_page(page: Page) -> str:
    """The file."""
    return "\n".join(line.rstrip() for line in _lines(page)) + "\n"


def _lines(page: Page) -> Iterator[str]:
    yield from (f"# {escaped(page.title)}", "")
    yield from (f"- **{escaped(words)}**" for _, words in verdict_lines(page))
    yield from (*_heading("One step"), *_table(comparison(page)))
    if page.report.mitigations:
        yield from (*_heading(mitigation_title(page.report.predictions[0])), *_table(mitigation_sheet(page)))
    for caption, shown in _pictures(page):
        yield from (*_heading(caption), *(f"    {line}" for line in text(shown, 80).rstrip("\n").split("\n")))
    for prediction in page.report.predictions:
        yield from (*_heading(f"What fills the live peak of {prediction.title}"), *_table(account(prediction)))
    yield from _formulas(page)
    if page.known:
        yield from (*_heading("How accurate this is"), *_table(accuracy_sheet(page)))
        yield from ("", escaped("errors are |predicted / measured - 1| on rows that no constant was fitted to"))
    yield from (*_heading("Assumed"), *(f"- {escaped(line)}" for line in notes(page)))
    if page.command:
        yield from ("", f"made by {escaped(page.command)}")


def _heading(title: str) -> tuple[str, str, str]:
    return "", f"## {escaped(title)}", ""


def _pictures(page: Page) -> Iterator[tuple[str, Any]]:
    yield from ((f"Memory of {shown.title}", shown) for shown in page.timelines)
    if page.roofline is not None:
        yield "Roofline", page.roofline


def _formulas(page: Page) -> Iterator[str]:
    for prediction, form in zip(page.report.predictions, page.forms, strict=True):
        if form is not None:
            rows = tuple((name, formula_text(expression), when) for name, expression, when in formula_rows(form))
            yield from (*_heading(f"Formulas of {prediction.title}"), escaped(letters(form)), "")
            yield from _table(Sheet(("quantity", "formula", ""), rows, ()))


def _table(sheet: Sheet) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, sheet.header))} |"
    yield f"| {' | '.join('---:' if i in sheet.right else '---' for i in range(len(sheet.header)))} |"
    for row in sheet.rows:
        yield f"| {' | '.join(map(escaped, row))} |"


def escaped(words: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in words)
