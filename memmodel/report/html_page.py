"""A page as one HTML file: nothing is loaded from anywhere; it follows the reader's light or dark, and prints."""

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

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
from memmodel.report.tables import mitigation_title

if TYPE_CHECKING:
    from memmodel.closed_forms import Formulas

_CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --faint: #666; --line: #d0d0d0; --yes: #00694c;
  --no: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181c; --faint: #a0a0a0; --line: #3a3d44;
  --yes: #4fd1a5; --no: #ff9a4d; } }
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
p.verdict { margin: 0.2rem 0; font-weight: 600; } .yes { color: var(--yes); } .no { color: var(--no); }
.wide { overflow-x: auto; background: linear-gradient(90deg, var(--paper) 30%, transparent) 0 / 2rem 100%,
  linear-gradient(270deg, var(--paper) 30%, transparent) 100% / 2rem 100%,
  linear-gradient(90deg, var(--line), transparent) 0 / 0.6rem 100%,
  linear-gradient(270deg, var(--line), transparent) 100% / 0.6rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; } /* shadows: more to scroll to */
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 500; } .number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; padding: 0.5rem; background: #ffffff; border: 1px solid var(--line); border-radius: 6px; }
figure svg { width: 100%; min-width: 44rem; height: auto; display: block; }
figure { overflow-x: auto; } :focus-visible { outline: 2px solid var(--yes); outline-offset: 2px; }
math { font-size: 1.1em; math-style: normal; } .faint { color: var(--faint); font-size: 0.9rem; }
code { font-family: ui-monospace, monospace; font-size: 0.9em; }
@media (max-width: 40rem) { body { font-size: 14px; margin: 1rem auto; } th, td { padding-right: 0.6rem; }
  .number { white-space: normal; } }
@media print { :root { --ink: #000; --paper: #fff; --faint: #444; --line: #bbb; --yes: #000; --no: #000; }
  body { max-width: none; margin: 0; font-size: 10pt; } figure svg { min-width: 0; }
  figure, table, h2, h3 { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
_MARKS = {None: ("", "?"), True: ("yes", "✓"), False: ("no", "✗")}


def html_page(page: Page) -> str:
    """The file. Everything that came from a user is escaped. Needs matplotlib."""
    body = "\n".join(_body(page))
    title = escape(page.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(page: Page) -> Iterator[str]:
    yield f"<h1>{escape(page.title)}</h1>"
    for fits, words in verdict_lines(page):
        style, mark = _MARKS[fits]
        yield f'<p class="verdict {style}">{mark} {escape(words)}</p>'
    yield _section("One step") + _table(comparison(page))
    if page.report.mitigations:
        yield _section(mitigation_title(page.report.predictions[0])) + _table(mitigation_sheet(page))
    for number, (caption, svg) in enumerate(_pictures(page)):
        yield f'<figure aria-label="{escape(caption)}" tabindex="0">{inline(svg, number)}</figure>'
    for prediction in page.report.predictions:
        yield _section(f"What fills the live peak of {prediction.title}") + _table(account(prediction))
    yield from _formulas(page)
    if page.known:
        yield _section("How accurate this is") + _table(accuracy_sheet(page))
        yield '<p class="faint">errors are |predicted / measured - 1| on rows that no constant was fitted to</p>'
    yield _section("Assumed") + _list(notes(page))
    if page.command:
        yield f'<p class="faint">made by <code>{escape(page.command)}</code></p>'


def _pictures(page: Page) -> Iterator[tuple[str, bytes]]:
    """(caption, SVG) of each."""
    from memmodel.report.figure import drawn

    for shown in page.timelines:
        yield f"memory of {shown.title} over one step", drawn([shown], "svg")
    if page.roofline is not None:
        yield "roofline", drawn([page.roofline], "svg")


def _section(title: str) -> str:
    return f"<h2>{escape(title)}</h2>\n"


def _table(sheet: Sheet) -> str:
    head = _cells("th", sheet.header, sheet.right)
    rows = "\n".join(f"<tr>{_cells('td', row, sheet.right)}</tr>" for row in sheet.rows)
    return _wide(f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>", sheet.header[0])


def _wide(rows: str, what: str) -> str:
    """A table in a box that scrolls by itself, with the keyboard too."""
    label = f'class="wide" tabindex="0" role="region" aria-label="{escape(what)}"'
    return f"<div {label}><table>\n{rows}</table></div>"


def _cells(tag: str, cells: Iterable[str], right: tuple[int, ...]) -> str:
    return "".join(
        f'<{tag} class="number">{_kept(escape(cell))}</{tag}>' if i in right else f"<{tag}>{escape(cell)}</{tag}>"
        for i, cell in enumerate(cells)
    )


def _kept(cell: str) -> str:
    """A number and its unit stay on one line."""
    return re.sub(r"(?<=\d) (?=[A-Za-z%])", "\N{NO-BREAK SPACE}", cell)


def _list(lines: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def _formulas(page: Page) -> Iterator[str]:
    """Closed forms, typeset; nothing for algorithms that have none."""
    for prediction, form in zip(page.report.predictions, page.forms, strict=True):
        if form is not None:
            yield _section(f"Formulas of {prediction.title}") + _formula_table(form)


def _formula_table(form: "Formulas") -> str:
    rows = "\n".join(
        f'<tr><td>{escape(name)}</td><td>{typeset(expression)}</td><td class="faint">{escape(when)}</td></tr>'
        for name, expression, when in formula_rows(form)
    )
    return f'<p class="faint">{escape(letters(form))}</p>\n' + _wide(f"<tbody>\n{rows}\n</tbody>", "formulas")


def typeset(expression: Any) -> str:
    """An expression as MathML, which browsers set by themselves."""
    from sympy import sympify
    from sympy.printing.mathml import mathml

    return f"<math>{mathml(sympify(expression), printer='presentation')}</math>".replace("&InvisibleTimes;", "\u2062")


def inline(svg: bytes, number: int) -> str:
    """An SVG file as a part of a page: without its prolog and metadata, its ids its own."""
    text = svg.decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for reference in ('id="', "url(#", 'href="#'):
        text = text.replace(reference, f"{reference}p{number}-")
    return text
