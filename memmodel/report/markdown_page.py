"""A page as Markdown, its pictures as text: one file that reads the same in an editor and on a forge."""

from collections.abc import Iterator

from memmodel.pictures.page import ModelPage, Page
from memmodel.report.console import text
from memmodel.report.page import Part, parts, provenance
from memmodel.report.sheet import Bullets, Sheet, Verdict, cell_text, indented

_SPECIAL = "\\`*_{}[]<>#|$~&"


def markdown_page(page: Page | ModelPage) -> str:
    """The page as Markdown."""
    return "\n".join(line.rstrip() for line in _lines(page)) + "\n"


def _lines(page: Page | ModelPage) -> Iterator[str]:
    yield from (f"# {escaped(page.title)}", "")
    for part in parts(page):
        yield from _written(part)
    yield from ("", escaped(f"made by {provenance(page)}"))


def _written(part: Part) -> Iterator[str]:
    if isinstance(part, Verdict):
        yield f"- **{escaped(part.words)}**"
    elif isinstance(part, Sheet):
        yield from (*_heading(part.title), *_table(part))
        if part.caption:
            yield from ("", escaped(part.caption))
    elif isinstance(part, Bullets):
        yield from (*_heading(part.title), *(f"- {escaped(line)}" for line in part.lines))
    else:
        title, *rest = text(part, 80).rstrip("\n").split("\n")
        yield from (*_heading(title), *(f"    {line}" for line in rest))


def _heading(title: str) -> tuple[str, str, str]:
    return "", f"## {escaped(title)}", ""


def _table(sheet: Sheet) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, sheet.names))} |"
    yield f"| {' | '.join('---:' if right else '---' for right in sheet.right)} |"
    for row in sheet.rows:
        yield f"| {' | '.join(escaped(indented(cell_text(cell))) for cell in row)} |"


def escaped(words: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in words)
