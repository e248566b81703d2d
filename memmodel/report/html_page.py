"""A page as one HTML file: nothing is loaded from anywhere; it follows the reader's light or dark, and prints."""

import re
from collections.abc import Iterable, Sequence
from functools import singledispatch
from html import escape
from typing import Any

from memmodel.base.rendering import Drawing
from memmodel.pictures.describe import pictures_of
from memmodel.pictures.page import ModelPage, Page
from memmodel.pictures.picture import COLORS, INK, PAPER, Entry, Look, Picture
from memmodel.report.page import parts, provenance
from memmodel.report.sheet import Bullets, Cell, Formula, Sheet, Verdict, cell_text, indented

_CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --faint: #666; --line: #d0d0d0; --yes: #00694c;
  --no: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181c; --faint: #a0a0a0; --line: #3a3d44;
  --yes: #4fd1a5; --no: #ff9a4d; } }
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.verdict { margin: 0.2rem 0; font-weight: 600; } .yes { color: var(--yes); } .no { color: var(--no); }
.wide { overflow-x: auto; background: linear-gradient(90deg, var(--paper) 30%, transparent) 0 / 2rem 100%,
  linear-gradient(270deg, var(--paper) 30%, transparent) 100% / 2rem 100%,
  linear-gradient(90deg, var(--line), transparent) 0 / 0.6rem 100%,
  linear-gradient(270deg, var(--line), transparent) 100% / 0.6rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; } /* shadows: more to scroll to */
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 500; } .number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; } figcaption { margin: 0.3rem 0; } figure svg { width: 100%; height: auto; display: block; }
figure svg + svg { display: none; } figure table, figure p { font-size: 0.85rem; margin: 0.2rem 0; }
figure td:first-child { white-space: nowrap; }
.key { display: inline-block; min-width: 1.2em; text-align: center; font-weight: 600; }
.area { color: #000; border: 1px solid var(--ink); }
.hatched { background: repeating-linear-gradient(135deg, var(--ink) 0 1px, transparent 1px 4px); }
math { font-size: 1.1em; math-style: normal; } .faint { color: var(--faint); font-size: 0.9rem; }
:focus-visible { outline: 2px solid var(--yes); outline-offset: 2px; }
@media (max-width: 40rem) { body { font-size: 14px; margin: 1rem auto; } th, td { padding-right: 0.6rem; }
  .number { white-space: normal; } figure svg { display: none; } figure svg + svg { display: block; } }
@media print { :root { --ink: #000; --paper: #fff; --faint: #444; --line: #bbb; --yes: #000; --no: #000; }
  body { max-width: none; margin: 0; font-size: 10pt; }
  figure, table, h2 { break-inside: avoid; } h2 { break-after: avoid; } }
"""
_MARKS = {None: ("", "?"), True: ("yes", "✓"), False: ("no", "✗")}
_DASHES = {"solid": "━", "dashed": "╍", "dashdot": "┅", "dotted": "┈"}


def html_page(page: Page | ModelPage) -> str:
    """The page as HTML, with all text escaped. Needs matplotlib."""
    title = escape(page.title)
    body = "\n".join((f"<h1>{title}</h1>", *map(_written, parts(page))))
    # matplotlib's ids follow from a salt that all drawings share.
    body = "<svg".join(_own_ids(piece, number) for number, piece in enumerate(body.split("<svg")))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n{body}\n"
        f'<p class="faint">made by {escape(provenance(page))}</p>\n</body>\n</html>\n'
    )


def _own_ids(svg: str, number: int) -> str:
    """A drawing with unique ids: SVGs in one page share a namespace."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>p{number}-", svg)


@singledispatch
def _written(part: Any) -> str:
    raise TypeError(f"{type(part).__name__} is no part of a page")


@_written.register
def _verdict(part: Verdict) -> str:
    style, mark = _MARKS[part.fits]
    return f'<p class="verdict {style}">{mark} {escape(part.words)}</p>'


@_written.register
def _bullets(part: Bullets) -> str:
    lines = "\n".join(f"<li>{escape(line)}</li>" for line in part.lines)
    return f"{_section(part.title)}<ul>\n{lines}\n</ul>"


@_written.register
def _sheet(part: Sheet) -> str:
    caption = f'\n<p class="faint">{escape(part.caption)}</p>' if part.caption else ""
    return _section(part.title) + _table(part.names, part.rows, part.right) + caption


@_written.register
def _drawing(part: Drawing) -> str:
    return "\n".join(map(_figure, pictures_of(part)))


def _section(title: str) -> str:
    return f"<h2>{escape(title)}</h2>\n"


def _table(names: Sequence[str], rows: Iterable[Sequence[Cell | Look]], right: Sequence[bool]) -> str:
    """A table in a box that scrolls, by keyboard too."""
    label = f'class="wide" tabindex="0" role="region" aria-label="{escape(names[0] or names[1])}"'
    lines = "\n".join(_row("td", row, right) for row in rows)
    head = _row("th", names, right)
    return f"<div {label}><table>\n<thead>{head}</thead>\n<tbody>\n{lines}\n</tbody></table></div>"


def _row(tag: str, cells: Sequence[Cell | Look], right: Sequence[bool]) -> str:
    looks = (' class="number"' if number else "" for number in right)
    return f"<tr>{''.join(f'<{tag}{look}>{_cell(cell)}</{tag}>' for cell, look in zip(cells, looks, strict=True))}</tr>"


def _cell(cell: Cell | Look) -> str:
    """A cell; a number and its unit stay on one line, and spaces before its words stay."""
    if isinstance(cell, Look):
        return _key(cell)
    if isinstance(cell, Formula):
        return typeset(cell.expression)
    return re.sub(r"(?<=\d) (?=[A-Za-z%])", "\N{NO-BREAK SPACE}", escape(indented(cell_text(cell))))


def typeset(expression: Any) -> str:
    """An expression as MathML, which browsers render without scripts."""
    from sympy import sympify
    from sympy.printing.mathml import mathml

    return f"<math>{mathml(sympify(expression), printer='presentation')}</math>".replace("&InvisibleTimes;", "\u2062")


def _figure(picture: Picture) -> str:
    """A picture drawn twice, for wide and narrow windows, with its words and legend as HTML."""
    from memmodel.report.figure import NARROW, WIDE, drawn

    svgs = "\n".join(_inline(drawn([picture], "svg", width, words=False)) for width in (WIDE, NARROW))
    names, right = ("", *picture.columns), (False, *picture.right)
    legend = _table(names, [(entry.look, *entry.cells) for entry in picture.legend], right) if picture.legend else ""
    lines = [Entry(line.look, (line.name,)) for line in picture.lines if line.name]
    above = "".join(map(_note, filter(None, [picture.verdict])))
    notes = "".join(map(_note, (*lines, *picture.notes)))
    caption = f"<b>{escape(picture.title)}</b><p>{escape(picture.subtitle)}</p>{above}"
    label = escape(f"{picture.title}, {picture.subtitle}")
    return f'<figure aria-label="{label}">\n<figcaption>{caption}</figcaption>\n{svgs}\n{legend}{notes}\n</figure>'


def _note(note: Entry) -> str:
    style = ' class="no"' if note.look == Look(tone="limit") else ""
    return f"<p{style}>{_key(note.look)} {escape(note.cells[0])}</p>"


def _key(look: Look) -> str:
    """The look of a series before its words: its shape or dash in its colour, or its key on its colour."""
    if look.shape or look.dash:
        key = "" if look.key == look.shape or not look.key.isalnum() else f" {escape(look.key)}"
        color, mark = _themed(COLORS[look.tone]), look.shape or _DASHES[look.dash]
        return f'<span class="key" style="color: {color}">{mark}</span>{key}'
    if look.fill == "hatched":
        return '<span class="key hatched">&nbsp;</span>'
    return f'<span class="key area" style="background: {COLORS[look.tone]}">{look.key}</span>' if look.key else ""


def _inline(svg: bytes) -> str:
    """An SVG file as a part of a page: without its prolog and metadata, in the page's own ink and paper."""
    text = svg.decode("utf-8")
    return _themed(re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL))


def _themed(text: str) -> str:
    """Text in which the page's theme colours replace those of files."""
    for color, name in ((INK, "ink"), (PAPER, "paper")):
        text = text.replace(color, f"var(--{name})")
    return text
