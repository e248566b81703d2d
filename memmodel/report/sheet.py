"""Parts of reports (tables, lists and verdicts), which are rendered as terminal text, HTML and Markdown.

A `>` before a column's name right-aligns it, for numbers, and keeps its cells on one line; a `|` only keeps them on one
line.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memmodel.base.frozen import Frozen
from memmodel.base.units import formula_text

_MANY = 5  # from so many text columns on, padding is narrower, to fit 80 characters


class Formula(Frozen):
    """A sympy expression in a cell."""

    expression: Any


Cell = str | Text | Formula


class Sheet(Frozen):
    """A table.

    Attributes:
        columns: their names, with ">" or "|" before; all empty for a table without a header.
        rows: a cell for each column. total: whether the last row sums up the others.
        wrap: whether columns of numbers may wrap, for headers longer than their cells.
        tight: whether one space parts the columns, in place of two.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    total: bool = False
    wrap: bool = False
    tight: bool = False

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [name.lstrip(">|") for name in self.columns]

    @property
    def right(self) -> list[bool]:
        """For each column, whether it is right-aligned."""
        return [name.startswith(">") for name in self.columns]

    def __rich__(self) -> Table:
        table = Table(
            title=self.title or None,
            title_justify="left",
            title_style="bold",
            caption=self.caption or None,
            caption_justify="left",
            show_header=any(self.names),
            header_style="dim",
            box=None,
            pad_edge=False,
            padding=(0, 1, 0, 0 if self.tight or self.right.count(False) >= _MANY else 1),
        )
        for column, name, right in zip(self.columns, self.names, self.right, strict=True):
            justify: JustifyMethod = "right" if right else "left"
            whole = column.startswith("|") or (right and not self.wrap)
            table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=whole)
        for i, row in enumerate(self.rows):
            style = "bold" if self.total and i == len(self.rows) - 1 else ""
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell_text(cell)) for cell in row), style=style)
        return table


_DASH = "- "


class Bullets(Frozen):
    """A titled list."""

    title: str
    lines: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(self.title, style="bold")
        for line in self.lines:  # by hand, since a table of two columns takes three times as long
            wrapped = Text(line).wrap(console, options.max_width - len(_DASH), overflow="fold")
            for i, part in enumerate(wrapped):
                yield Text.assemble(" " * len(_DASH) if i else _DASH, part)


class Phrases(Frozen):
    """Phrases with commas between them, none of which is broken in two where it fits on a line."""

    lead: str
    phrases: Sequence[str]
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text("\n".join(self.lines(options.max_width)), style=self.style)

    def lines(self, width: int) -> list[str]:
        """The lines of `width` characters at most."""
        lines = [self.lead]
        for place, phrase in enumerate(self.phrases, 1):
            text = phrase if place == len(self.phrases) else f"{phrase},"
            if len(lines[-1]) + 1 + len(text) <= width:
                lines[-1] += f" {text}"
            else:
                lines.append(text)
        return lines


class Verdict(Frozen):
    """Whether something fits (None: not known), and why."""

    fits: bool | None
    words: str

    def __rich__(self) -> Text:
        return Text(self.words, style={None: "yellow", True: "green", False: "red"}[self.fits])


def cell_text(cell: Cell) -> str:
    """A cell without its style."""
    if isinstance(cell, Formula):
        return formula_text(cell.expression)
    return cell.plain if isinstance(cell, Text) else cell


def indented(words: str) -> str:
    """Words with the spaces before them kept, where a page would drop them."""
    return "\N{NO-BREAK SPACE}" * (len(words) - len(words.lstrip(" "))) + words.lstrip(" ")


def below(part: Any) -> Padding:
    """A part after an empty line."""
    return Padding(part, (1, 0, 0, 0))


def yes_or_no(fits: bool | None) -> str:
    """Whether something fits, in a table."""
    return {None: "unknown", True: "yes", False: "no"}[fits]
