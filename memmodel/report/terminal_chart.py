"""A chart of characters: axes, lines and marks on a canvas; braille dots where the terminal has them, else ASCII."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from plotille import Canvas
from rich.text import Text

LEFT = 12  # columns for the y axis and its labels


class Axis(NamedTuple):
    """One axis: its ends, whether it is logarithmic, and (value, label) of its ticks."""

    low: float
    high: float
    log: bool
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class Chart:
    """A canvas of `width` x `height` characters, its axes included in the width."""

    def __init__(self, width: int, height: int, x: Axis, y: Axis, ascii_only: bool) -> None:
        self.columns, self.rows = width - LEFT - 1, height
        self.x, self.y, self.ascii_only = x, y, ascii_only
        self.canvas = Canvas(self.columns, self.rows, 0, 0, self.columns, self.rows)
        self.taken: set[tuple[int, int]] = set()  # cells with a character of their own

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Column and row of a point, in fractions of a character."""
        return self.x.share(x) * (self.columns - 1) + 0.5, self.y.share(y) * (self.rows - 1) + 0.5

    def cell(self, column: int, row: int, marker: str, color: str | None = None) -> None:
        """Put a character into a cell."""
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self.canvas.point(column + 0.5, row + 0.5, color=color, marker=marker)
            self.taken.add((column, row))

    def cell_of(self, x: float, y: float) -> tuple[int, int]:
        """The cell in which a line through a point has its dot: two dots wide, four high."""
        column, row = self.at(x, y)
        return round(column * 2) // 2, round(row * 4) // 4

    def mark(self, x: float, y: float, marker: str, color: str | None = None) -> None:
        """Put a character at a point."""
        self.cell(*self.cell_of(x, y), marker, color)

    def line(self, points: Sequence[tuple[float, float]], marker: str, color: str | None = None) -> None:
        """Join points: by dots, or by a character where there are none."""
        for (x0, y0), (x1, y1) in pairwise(points):
            (c0, r0), (c1, r1) = self.at(x0, y0), self.at(x1, y1)
            if not self.ascii_only:
                self.canvas.line(c0, r0, c1, r1, color=color)
                continue
            steps = max(1, math.ceil(max(abs(c1 - c0), abs(r1 - r0))))
            for i in range(steps + 1):
                self.canvas.point(c0 + (c1 - c0) * i / steps, r0 + (r1 - r0) * i / steps, color=color, marker=marker)

    def text(self, column: int, row: int, words: str, color: str | None = None) -> None:
        """Write over the canvas from a cell on."""
        for i, letter in enumerate(words):
            self.cell(column + i, row, letter, color)

    def label(self, column: int, row: int, words: str, color: str | None = None) -> None:
        """Write at a cell, or further left where that would cover a character; nothing where there is no room."""
        for start in range(min(column, self.columns - len(words)), -1, -1):
            if not any((start + i, row) in self.taken for i in range(len(words))):
                self.text(start, row, words, color)
                return

    def row_of(self, y: float) -> int:
        """The row of a value."""
        return self.cell_of(self.x.low, y)[1]

    def lines(self) -> Iterable[Text]:
        """The chart, line by line from the top, with its axes."""
        bar, corner, dash = ("|", "+", "-") if self.ascii_only else ("│", "└", "─")
        labels = {self.row_of(value): label for value, label in self.y.ticks if self.y.low <= value <= self.y.high}
        for i, drawn in enumerate(self.canvas.plot(linesep="\n").split("\n")):
            label = labels.get(self.rows - 1 - i, "")
            yield Text(f"{label:>{LEFT - 1}} {bar}").append_text(Text.from_ansi(drawn.replace("⠀", " ")))
        yield Text(" " * LEFT + corner + dash * self.columns)
        yield Text(" " * (LEFT + 1) + self._below())

    def _below(self) -> str:
        """Labels of the x axis, under their ticks; those that would touch the one before are left out."""
        line = ""
        for value, label in self.x.ticks:
            start = max(0, int(self.at(value, self.y.low)[0]) - len(label) // 2)
            start = min(start, self.columns - len(label))
            if start > len(line) or not line:
                line = f"{line:<{start}}{label}"
        return line


def decades(low: float, high: float) -> list[float]:
    """Powers of ten within two ends."""
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
