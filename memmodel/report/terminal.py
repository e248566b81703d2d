"""Pictures drawn with characters in the terminal's width, readable without colours and in plain ASCII.

An area is filled with its key, a capital where it is hatched; a solid line is drawn in braille dots if the terminal has
them, other lines with their keys; a mark is its key.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from plotille import Canvas
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from memmodel.pictures.describe import pictures_of
from memmodel.pictures.picture import Area, Axis, Line, Look, Picture

NARROWEST = 60  # columns: below this, labels would cover the picture
_LEFT = 12  # columns for the y axis and its labels, at least
_TALL = 40  # rows of a picture with aspect 1
_COLORS = {"limit": "red", "roof": "blue"} | dict(
    zip("1234567", ("yellow", "cyan", "green", "magenta", "blue", "red", "bright_yellow"), strict=True)
)

_ASCII = {"▼": "^", "✖": "x", "●": "o", "■": "#", "◆": "<"}


class Drawn:
    """The pictures of a result, for `rich`, in the width of the terminal."""

    def __init__(self, result: object) -> None:
        self.pictures = pictures_of(result)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = options.max_width
        if width < NARROWEST:
            yield Text(
                f"{width} columns are too narrow for a picture, which takes {NARROWEST}: widen the terminal, "
                "or see --data and -o FILE"
            )
            return
        for i, picture in enumerate(self.pictures):
            if i:
                yield Text()
            yield from _drawn(picture, width, options.ascii_only or console.is_dumb_terminal)


def screen(result: object) -> Iterator[Drawn]:
    """The parts of a screen: the pictures alone."""
    yield Drawn(result)


def _drawn(picture: Picture, width: int, ascii_only: bool) -> Iterator[RenderableType]:
    yield Text(picture.title, style="bold")
    yield Text(picture.subtitle)
    if picture.verdict is not None:
        yield Text(picture.verdict.cells[0], style=_COLORS.get(picture.verdict.look.tone, ""))
    yield from _grid(picture) if picture.cells else _chart(picture, width, ascii_only)
    if picture.legend:
        yield _legend(picture)
    for note in picture.notes:
        yield Text(" ".join(filter(None, (_key(note.look, ascii_only), *note.cells))))


def _key(look: Look, ascii_only: bool) -> str:
    return _ASCII.get(look.key, look.key) if ascii_only else look.key


def _legend(picture: Picture) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name, numbers in zip(picture.columns, picture.right, strict=True):
        table.add_column(Text(name), justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    hollow = {mark.look.key for mark in picture.marks if mark.look.fill == "hollow"}
    for entry in picture.legend:
        key = entry.look.key
        keys = f"{key} {key.lower()}" if key.lower() in hollow else key
        table.add_row(keys, *map(Text, entry.cells))
    return table


def _grid(picture: Picture) -> Iterator[RenderableType]:
    """Cells as a table, the highest row first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"{picture.y.label} \\ {picture.x.label}", justify="right")
    for _, name in picture.x.ticks:
        table.add_column(name, justify="right", no_wrap=True)
    cells = {(cell.x, cell.y): cell for cell in picture.cells}
    for y, name in reversed(picture.y.ticks):
        row = [cells[int(x), int(y)] for x, _ in picture.x.ticks]
        table.add_row(name, *(Text("XXX", "red") if cell.share is None else Text(cell.text) for cell in row))
    yield table


def _chart(picture: Picture, width: int, ascii_only: bool) -> Iterator[RenderableType]:
    chart = _Chart(width, round(_TALL * picture.aspect), picture.x, picture.y, ascii_only)
    # From back to front: slanted lines, areas with stepped lines, level lines, marks, names.
    level = [line for line in picture.lines if line.points and line.points[0][1] == line.points[-1][1]]
    for line in picture.lines:
        if line not in level and not line.step:
            chart.line(line)
    columns = _columns(picture.areas, chart.columns)
    for column, moment in enumerate(columns):
        _stack(chart, picture, column, moment)
    for line in level:
        if not line.step:
            chart.line(line)
    for mark in reversed(picture.marks):  # the first is the one to be seen where several share a cell
        chart.mark(mark.x, mark.y, _key(mark.look, ascii_only)[:1], mark.look.tone)
    _names(chart, picture)
    yield Text(picture.y.label)
    yield from chart.text()
    yield Text(f"{picture.x.label:>{width}}")
    named = [f"{line.look.key} {line.name}" for line in picture.lines if line.name]
    if named:
        yield Text(f"lines: {'; '.join(named)}")
    if picture.areas and len(picture.areas[0].upper) > len(columns):
        yield Text(f"a column is the fullest of {len(picture.areas[0].upper) / len(columns):.0f} moments or so")


def _columns(areas: Sequence[Area], count: int) -> list[int]:
    """The step of a stack that each column shows: of several, the highest."""
    if not areas:
        return []
    heights = areas[-1].upper
    total = len(heights)
    starts = [column * total // count for column in range(count + 1)]
    return [max(range(start, max(end, start + 1)), key=heights.__getitem__) for start, end in pairwise(starts)]


def _stack(chart: "_Chart", picture: Picture, column: int, moment: int) -> None:
    """One column of the areas, and of stepped lines where they are above."""
    top = 0
    for area in picture.areas:
        hatched, top = chart.row_of(area.hatched[moment]), chart.row_of(area.upper[moment])
        for row in range(chart.row_of(area.lower[moment]), top):
            chart.cell(column, row, area.look.key.upper() if row < hatched else area.look.key, area.look.tone)
    for line in picture.lines:
        if line.step and (row := chart.row_of(line.points[moment][1])) > top:
            chart.cell(column, row, line.look.key, line.look.tone)


def _names(chart: "_Chart", picture: Picture) -> None:
    """A level line's key at its right end; a slanted line's name right of it, where it covers nothing."""
    for line in picture.lines:
        if not line.name:
            continue
        (x0, y0), (x1, y1) = line.points[0], line.points[-1]
        if y0 == y1:
            chart.label(chart.columns - 1, chart.row_of(y1), line.look.key, line.look.tone)
            continue
        (c0, r0), (c1, r1) = chart.at(x0, y0), chart.at(x1, y1)
        for tenth in range(2, 10):
            column, row = int(c0 + (c1 - c0) * tenth / 10) + 3, int(r0 + (r1 - r0) * tenth / 10)
            if chart.free(column, row, line.name):
                chart.write(column, row, line.name, line.look.tone)
                break


class _Chart:
    """A canvas of `width` x `height` characters, its axes included in the width."""

    def __init__(self, width: int, height: int, x: Axis, y: Axis, ascii_only: bool) -> None:
        self.left = max(_LEFT, 2 + max((len(label) for _, label in y.ticks), default=0))
        self.columns, self.rows = width - self.left - 1, height
        self.x, self.y, self.ascii_only = x, y, ascii_only
        self.canvas = Canvas(self.columns, self.rows, 0, 0, self.columns, self.rows)
        self.taken: set[tuple[int, int]] = set()  # cells with a character that lines must not cover

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Column and row of a point, in fractions of a character."""
        return self.x.share(x) * (self.columns - 1) + 0.5, self.y.share(y) * (self.rows - 1) + 0.5

    def cell(self, column: int, row: int, marker: str, tone: str) -> None:
        """Put a character into a cell."""
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self.canvas.point(column + 0.5, row + 0.5, color=_COLORS.get(tone), marker=marker)
            self.taken.add((column, row))

    def cell_of(self, x: float, y: float) -> tuple[int, int]:
        """The cell in which a line through a point has its dot: two dots wide, four high."""
        column, row = self.at(x, y)
        return round(column * 2) // 2, round(row * 4) // 4

    def mark(self, x: float, y: float, marker: str, tone: str) -> None:
        """Put a character at a point."""
        self.cell(*self.cell_of(x, y), marker, tone)

    def line(self, line: Line) -> None:
        """Join points: by dots, or by a character where there are none; a look with a shape has its key at each."""
        for start, end in pairwise(line.points):
            self._join(line, self.at(*start), self.at(*end))
        for x, y in line.points if line.look.shape else ():
            self.mark(x, y, line.look.key, line.look.tone)

    def _join(self, line: Line, start: tuple[float, float], end: tuple[float, float]) -> None:
        (c0, r0), (c1, r1) = start, end
        color = _COLORS.get(line.look.tone)
        if line.look.dash == "solid" and not self.ascii_only:
            self.canvas.line(c0, r0, c1, r1, color=color)
            return
        marker = line.look.key if line.look.dash != "solid" else "-" if r0 == r1 else "/" if r0 < r1 else "."
        steps = max(1, math.ceil(max(abs(c1 - c0), abs(r1 - r0))))
        for i in range(steps + 1):
            self.canvas.point(c0 + (c1 - c0) * i / steps, r0 + (r1 - r0) * i / steps, color=color, marker=marker)

    def free(self, column: int, row: int, words: str) -> bool:
        """Whether words fit at a cell, and cover no character."""
        inside = column >= 0 and column + len(words) <= self.columns
        return inside and not any((column + i, row) in self.taken for i in range(len(words)))

    def write(self, column: int, row: int, words: str, tone: str) -> None:
        """Write over the canvas from a cell on."""
        for i, letter in enumerate(words):
            self.cell(column + i, row, letter, tone)

    def label(self, column: int, row: int, words: str, tone: str) -> None:
        """Write at a cell, or further left where that would cover a character; nothing where there is no room."""
        start = next((start for start in range(column, -1, -1) if self.free(start, row, words)), None)
        if start is not None:
            self.write(start, row, words, tone)

    def row_of(self, y: float) -> int:
        """The row of a value."""
        return self.cell_of(self.x.low, y)[1]

    def text(self) -> Iterator[Text]:
        """The chart, line by line from the top, with its axes."""
        bar, corner, dash = ("|", "+", "-") if self.ascii_only else ("│", "└", "─")
        labels = {self.row_of(value): label for value, label in self.y.ticks if self.y.low <= value <= self.y.high}
        for i, drawn in enumerate(self.canvas.plot(linesep="\n").split("\n")):
            label = labels.get(self.rows - 1 - i, "")
            yield Text(f"{label:>{self.left - 1}} {bar}").append_text(Text.from_ansi(drawn.replace("⠀", " ")))
        yield Text(" " * self.left + corner + dash * self.columns)
        yield Text(" " * (self.left + 1) + self._below())

    def _below(self) -> str:
        """Labels of the x axis, under their ticks; those that would touch the one before are left out."""
        line = ""
        for value, label in self.x.ticks:
            start = max(0, int(self.at(value, self.y.low)[0]) - len(label) // 2)
            start = min(start, self.columns - len(label))
            if start > len(line) or not line:
                line = f"{line:<{start}}{label}"
        return line
