"""Styled text and tables, laid out in lines of a given width.

`rich` lays out more, but takes as long to import as everything else that `memmodel predict` does before it prints; only
progress on a terminal is left to it. Words wrap, and columns shrink, by its rules: the widest column gives way first.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Protocol

from memmodel.base.named_tuple import NamedTuple

Segment = tuple[str, str]  # characters of one line, and their style: words of `STYLES` with spaces between
TextLine = list[Segment]
STYLES = {  # and the terminal's codes for them (select graphic rendition, ECMA-48)
    "bold": 1, "dim": 2, "italic": 3, "underline": 4,
    "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "bright_yellow": 93,
}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WORD = re.compile(r"\s*\S+\s*")


class Room(NamedTuple):
    """Where text is laid out: columns, and whether characters beyond ASCII cannot be shown."""

    width: int
    ascii_only: bool = False


class Part(Protocol):
    """What can be laid out."""

    def layout(self, room: Room) -> Iterator[TextLine]:
        """Its lines, none of them wider than the room."""
        ...


class Text:
    """Words in one style or several.

    They are shown as they are: files of users name GPUs, functions and lines of code. Control characters, which could
    drive the reader's terminal, are left out.
    """

    def __init__(self, words: str = "", style: str = "") -> None:
        self.segments: list[Segment] = [(_CONTROL.sub("", words), style)]

    @classmethod
    def assemble(cls, *pieces: "str | Segment | Text") -> "Text":
        """The pieces one after the other."""
        made = cls()
        for piece in pieces:
            one = piece if isinstance(piece, Text) else cls(*((piece,) if isinstance(piece, str) else piece))
            made.segments += one.segments
        return made

    @property
    def plain(self) -> str:
        """The words without their styles."""
        return "".join(words for words, _ in self.segments)

    def lines(self) -> list[TextLine]:
        """The lines as they were written, however wide."""
        lines: list[TextLine] = [[]]
        for words, style in self.segments:
            first, *rest = words.split("\n")
            lines[-1].append((first.expandtabs(), style))
            lines += [[(line.expandtabs(), style)] for line in rest]
        return lines

    def layout(self, room: Room) -> Iterator[TextLine]:
        """The lines, wrapped between words, and within a word that is wider than a line."""
        for line in self.lines():
            words = _words(line)
            pieces = [line] if cells(words) <= room.width else _cut(line, _breaks(words, room.width))
            yield from pieces if len(pieces) == 1 else map(_stripped, pieces)


class Column(NamedTuple):
    """A column of a table: its name, and how its cells are set.

    Attributes:
        right: whether they are right-aligned. whole: whether each of their lines is kept on one line.
        width: in characters; without one, as wide as the widest cell where there is room.
    """

    name: str = ""
    right: bool = False
    whole: bool = False
    width: int | None = None


class Table:
    """A table without lines between its cells.

    Attributes:
        columns: from the left. gap: spaces between two of them; a column is followed by one, and preceded by the rest.
        title, caption: above and below, as wide as the table.
    """

    def __init__(
        self, columns: Sequence[Column], title: str = "", caption: str = "", gap: int = 2, header_style: str = "dim"
    ) -> None:
        self.columns, self.gap, self.header_style = columns, gap, header_style
        self.title, self.caption = title, caption
        self.rows: list[tuple[Sequence[Text], str]] = []
        self.named = any(column.name for column in columns)
        if self.named:
            self.add(*(column.name for column in columns), style=header_style)

    def add(self, *row: "str | Text", style: str = "") -> None:
        """Add a row below the others."""
        self.rows.append(([Text(cell) if isinstance(cell, str) else cell for cell in row], style))

    def layout(self, room: Room) -> Iterator[TextLine]:
        """The title, the rows and the caption."""
        widths = self._widths(room.width)
        own = Room(sum(widths), room.ascii_only)
        yield from Text(self.title, "bold").layout(own) if self.title else ()
        for place, (row, style) in enumerate(self.rows):
            yield from self._row(row, style, widths, stands=self.named and place == 0)
        yield from Text(self.caption, "dim italic").layout(own) if self.caption else ()

    def _around(self, index: int) -> tuple[int, int]:
        """The spaces left and right of a column's cells."""
        return self.gap - 1 if index else 0, int(index < len(self.columns) - 1)

    def _widths(self, most: int) -> list[int]:
        """The width of each column, with the spaces around it: as its cells need, or less where there is no room."""
        needed = []
        for index, column in enumerate(self.columns):
            widest = max((cells(_words(line)) for row, _ in self.rows for line in row[index].lines()), default=0)
            needed.append(min(most, sum(self._around(index)) + (widest if column.width is None else column.width)))
        widths = needed
        shrinks = [column.width is None and not column.whole for column in self.columns]
        while (excess := sum(widths) - most) > 0 and any(shrinks):
            # The widest of the columns that may shrink give way together, down to the next one.
            widest, *narrower = sorted({width for width, may in zip(widths, shrinks, strict=True) if may}, reverse=True)
            if not widest:
                break
            chosen = [may and width == widest for width, may in zip(widths, shrinks, strict=True)]
            widths = _reduced(widths, chosen, widest - (narrower or [0])[0], excess)
        return widths if excess <= 0 else _reduced(widths, [True] * len(widths), most, excess)

    def _row(self, row: Sequence[Text], style: str, widths: Sequence[int], stands: bool) -> Iterator[TextLine]:
        """The lines of a row; its cells begin in the first one, or (names of columns) end in the last."""
        columns = [
            self._cell(cell, index, max(1, widths[index] - sum(self._around(index)))) for index, cell in enumerate(row)
        ]
        if stands:
            height = max(map(len, columns))
            columns = [[[]] * (height - len(lines)) + lines for lines in columns]
        for parts in zip_longest(*columns):
            line: TextLine = []
            for index, (part, width) in enumerate(zip(parts, widths, strict=True)):
                left, _ = self._around(index)
                filled = [(" " * left, ""), *(part or ())]
                line += [*filled, (" " * (width - cells(_words(filled))), "")]
            yield [(words, f"{style} {own}".strip()) for words, own in line if words]

    def _cell(self, cell: Text, index: int, width: int) -> list[TextLine]:
        """The lines of a cell, of at most `width` characters."""
        column = self.columns[index]
        lines = list(cell.layout(Room(width))) if not column.whole else [_cropped(x, width) for x in cell.lines()]
        if not column.right:
            return lines
        return [[(" " * (width - cells(_words(line))), ""), *line] for line in map(_stripped, lines)]


class Group:
    """Parts one below the other."""

    def __init__(self, *parts: Part) -> None:
        self.parts = parts

    def layout(self, room: Room) -> Iterator[TextLine]:
        """Their lines."""
        for part in self.parts:
            yield from part.layout(room)


def cells(words: str) -> int:
    """The columns of a terminal that words take: two for East Asian wide letters, none for combining marks."""
    return len(words) if words.isascii() else sum(map(_cells, words))


def _cells(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _words(line: TextLine) -> str:
    return "".join(words for words, _ in line)


def _stripped(line: TextLine) -> TextLine:
    """A line without spaces at its end."""
    return _cut(line, [len(_words(line).rstrip())])[0]


def _cropped(line: TextLine, width: int) -> TextLine:
    """What fits of a line."""
    words = _words(line)
    return line if cells(words) <= width else _cut(line, [len(_fitting(words, width))])[0]


def _fitting(words: str, width: int) -> str:
    """As many letters as fit, but at least one."""
    if words.isascii():
        return words[: max(1, width)]
    taken = 1
    while taken < len(words) and cells(words[: taken + 1]) <= width:
        taken += 1
    return words[:taken]


def _breaks(words: str, width: int) -> list[int]:
    """The places before which a line is broken."""
    found, used = [], 0  # columns used of the line under way
    for match in _WORD.finditer(words):
        start, word = match.start(), match.group()
        needed = cells(word.rstrip())
        if needed > width:  # on any line: it begins on one of its own, and goes on in the next ones
            while word:
                found += [start] if start else []
                piece = _fitting(word, width)
                start, word, used = start + len(piece), word[len(piece) :], cells(piece)
        elif used + needed <= width:
            used += cells(word)
        else:
            found += [start] if start else []
            used = cells(word)
    return found


def _cut(line: TextLine, places: Sequence[int]) -> list[TextLine]:
    """A line in pieces, of which all but the first begin at these places."""
    pieces: list[TextLine] = [[]]
    position, ahead = 0, list(places)
    for words, style in line:
        while ahead and ahead[0] <= position + len(words):
            cut = ahead.pop(0) - position
            pieces[-1].append((words[:cut], style))
            pieces.append([])
            words, position = words[cut:], position + cut
        pieces[-1].append((words, style))
        position += len(words)
    return pieces


def _reduced(widths: Sequence[int], chosen: Sequence[bool], most: int, total: int) -> list[int]:
    """The widths, of which the chosen ones give way by `total` together, and by at most `most` each."""
    left, count, found = total, sum(chosen), []
    for width, one in zip(widths, chosen, strict=True):
        given = min(most, width, round(left / count)) if one else 0
        found.append(width - given)
        left, count = left - given, count - one
    return found
