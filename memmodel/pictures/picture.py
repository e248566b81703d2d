"""A picture as data: axes, series, legend and notes. Each medium has one drawer for all pictures.

`memmodel.pictures.describe` makes one from a Timeline, Roofline, Frontier or HeatMap. `memmodel.report.figure` draws it
with matplotlib, `memmodel.report.terminal` with characters. As JSON, for a page's script, it is `dataclasses.asdict` of
it: the field names below are the keys, tuples are lists. ::

    {"title": "...", "subtitle": "...", "verdict": {look, cells: [text]} or null, "aspect": height / width of the axes,
     "x": {"label", "low", "high", "log", "ticks": [[value, text], ...]}, "y": the same,
     "areas": [{look, "lower": [...], "upper": [...], "hatched": [...]}],
     "lines": [{look, "points": [[x, y], ...], "name", "step"}],
     "marks": [{look, "x", "y"}],
     "cells": [{"x", "y", "share", "text"}],
     "columns": ["header", ...], "legend": [{look, "cells": [text, ...]}], "notes": [{look, "cells": [text]}]}

    look = {"key", "tone", "dash", "width", "shape", "fill"}

How a drawer draws it, from back to front:

- areas are stacks of steps: from x = i to i + 1 an area reaches from lower[i] to upper[i], and from lower[i] to
  hatched[i] it is hatched too. Its key is written inside where there is room;
- lines join their points; a stepped line keeps y until the next x. A look with a shape puts a mark at each point.
  `name` is written at the line's end outside the axes if the line is level, beside it otherwise;
- marks stand at points. Without keys they are a cloud, and may cover each other. With keys, those of one look that
  would cover each other are one, with all keys; those of other looks stand side by side. A key that is not the shape
  itself is written beside the mark, of a line beside its first one. A mark with the key ▼ stands on its point. A hollow
  mark is another state of the full one that a line joins it to, and its key is written only where marks are characters;
- cells fill a unit square around (x, y), coloured by a share from 0 to 1; without a share they are hatched;
- no text covers a mark or another text; a text without room is left out, as it is in the legend too.

Colours are from Okabe and Ito, "Color Universal Design" (2008), and distinct with any colour vision. They are never the
only difference: a key, a dash, a shape or a hatch says the same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from memmodel.base.units import bytes_text

SERIES = 7  # tones "1" to "7"
SHAPES = "●■▲◆▼✚✖★"
INK, PAPER = "#111111", "#fefefe"  # in files: an HTML page replaces them by its theme's
FAINT = "#bbbbbb"
COLORS = {"ink": INK, "faint": FAINT, "light": "#e4e4e4", "limit": "#d55e00", "roof": "#0072b2"} | dict(
    zip("1234567", ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#cc79a7", "#d55e00"), strict=True)
)
DASHES = ("solid", "dashed", "dashdot", "dotted")


@dataclass(frozen=True, slots=True)
class Look:
    """The look of a series and of its legend entry.

    Attributes:
        key: a letter or character that names it without colours.
        tone: "ink", "faint", "light", "limit" (what must not be exceeded), "roof", or "1" to "7".
        dash: of a line, one of DASHES; "" if it is no line. width: of a line, 1 is normal.
        shape: of marks, one of SHAPES; "" without marks.
        fill: "full", "hollow" or "hatched".
    """

    key: str = ""
    tone: str = "ink"
    dash: str = ""
    width: float = 1.0
    shape: str = ""
    fill: str = "full"


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its ends in SI units, whether it is logarithmic, and (value, text) of its ticks."""

    label: str
    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """The position of a value on the axis, from 0 at the low end to 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Area:
    """A layer of a stack: from i to i + 1 it reaches from lower[i] to upper[i], hatched up to hatched[i]."""

    look: Look
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    hatched: tuple[float, ...]

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Runs of steps, from i up to j, in which it keeps its height and place: the highest, then longest first."""
        found, start = [], 0
        for (low, high), run in groupby(zip(self.lower, self.upper, strict=True)):
            end = start + len(list(run))
            found.append((low - high, start - end, start, end))
            start = end
        return [run[2:] for run in sorted(found)]


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined straight, or in steps that keep y until the next x; `name` is written beside it."""

    look: Look
    points: tuple[tuple[float, float], ...]
    name: str = ""
    step: bool = False

    @property
    def level(self) -> bool:
        """Whether it ends as high as it begins."""
        return self.points[0][1] == self.points[-1][1]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point."""

    look: Look
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Cell:
    """A unit square around (x, y), coloured by a share from 0 to 1; hatched, without text, if that is None."""

    x: int
    y: int
    share: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the legend, or a note of one cell."""

    look: Look
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """One pair of axes with what is in it, above it and below it; the columns of the legend by importance."""

    title: str
    subtitle: str
    x: Axis
    y: Axis
    verdict: Entry | None = None
    aspect: float = 0.45
    areas: tuple[Area, ...] = ()
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    cells: tuple[Cell, ...] = ()
    columns: tuple[str, ...] = ()
    legend: tuple[Entry, ...] = ()
    notes: tuple[Entry, ...] = ()

    @property
    def right(self) -> tuple[bool, ...]:
        """For each column of the legend, whether it holds numbers and is aligned to the right."""
        cells = zip(*(entry.cells for entry in self.legend), strict=True)
        return tuple(i > 0 and any(cell[:1].isdigit() for cell in column) for i, column in enumerate(cells))


def memory_axis(top: float, about: int = 5) -> Axis:
    """Bytes from 0 to `top`, with some `about` ticks at round numbers of one binary unit."""
    unit = 1024 ** min(int(math.log(max(top, 1), 1024)), 6)
    rough = top / unit / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    name = bytes_text(unit).partition(" ")[2]
    count = math.floor(top / unit / step)
    return Axis("memory", 0, top, False, tuple((i * step * unit, f"{i * step:g} {name}") for i in range(count + 1)))


def log_axis(label: str, low: float, high: float, text: Callable[[float], str], base: int = 10, most: int = 8) -> Axis:
    """A logarithmic axis with ticks at powers of a base, of which at most so many are labelled."""
    # The logarithm of a power may come out a little beside a whole number.
    powers = range(math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9) + 1)
    ticks = tuple((float(base) ** power, text(float(base) ** power)) for power in powers)
    return Axis(label, low, high, True, ticks[:: 1 + (len(ticks) - 1) // most])


_T = TypeVar("_T")


def split(series: Sequence[_T], most: int) -> list[Sequence[_T]]:
    """The series in order, in as few parts of about one size as hold at most `most` each."""
    parts = max(1, -(-len(series) // most))
    return [series[len(series) * i // parts : len(series) * (i + 1) // parts] for i in range(parts)]
