"""Parts of reports (tables, lists and verdicts), which are rendered as terminal text, HTML and Markdown.

A `>` before a column's name right-aligns it, for numbers, and keeps its cells on one line; a `|` only keeps them on one
line.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from memmodel.base.frozen import Frozen
from memmodel.base.units import formula_text
from memmodel.report.text import Column, Group, Part, Room, Table, Text, TextLine

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

    def layout(self, room: Room) -> Iterator[TextLine]:
        """The table in lines."""
        columns = [
            Column(name, right, whole=column.startswith("|") or (right and not self.wrap))
            for column, name, right in zip(self.columns, self.names, self.right, strict=True)
        ]
        gap = 1 if self.tight or self.right.count(False) >= _MANY else 2
        table = Table(columns, self.title, self.caption, gap)
        for i, row in enumerate(self.rows):
            cells = (cell if isinstance(cell, Text) else cell_text(cell) for cell in row)
            table.add(*cells, style="bold" if self.total and i == len(self.rows) - 1 else "")
        return table.layout(room)


class Bullets(Frozen):
    """A titled list."""

    title: str
    lines: Sequence[str]

    def layout(self, room: Room) -> Iterator[TextLine]:
        """The title and the lines, each after a dash."""
        table = Table((Column(width=1), Column()), gap=1)
        for line in self.lines:
            table.add("-", line)
        return Group(Text(self.title, "bold"), table).layout(room)


class Phrases(Frozen):
    """Phrases with commas between them, none of which is broken in two where it fits on a line."""

    lead: str
    phrases: Sequence[str]
    style: str = ""

    def layout(self, room: Room) -> Iterator[TextLine]:
        """The phrases in lines."""
        return Text("\n".join(self.lines(room.width)), self.style).layout(room)

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

    def layout(self, room: Room) -> Iterator[TextLine]:
        """The words in the colour of the verdict."""
        return Text(self.words, {None: "yellow", True: "green", False: "red"}[self.fits]).layout(room)


def cell_text(cell: Cell) -> str:
    """A cell without its style."""
    if isinstance(cell, Formula):
        return formula_text(cell.expression)
    return cell.plain if isinstance(cell, Text) else cell


def indented(words: str) -> str:
    """Words with the spaces before them kept, where a page would drop them."""
    return "\N{NO-BREAK SPACE}" * (len(words) - len(words.lstrip(" "))) + words.lstrip(" ")


def below(part: Part) -> Group:
    """A part after an empty line."""
    return Group(Text(), part)


def yes_or_no(fits: bool | None) -> str:
    """Whether something fits, in a table."""
    return {None: "unknown", True: "yes", False: "no"}[fits]
