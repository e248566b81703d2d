"""Placement of marks and texts in a drawn picture, so that none covers another."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.lib.stride_tricks import sliding_window_view

from memmodel.pictures.picture import COLORS, INK, Area, Line, Look, Mark, Picture
from memmodel.report.style import SIZE, SMALL, mark_look

_ALONG = (0.5, 0.35, 0.65, 0.2, 0.8)  # shares of a line, near which its name may stand
_FEW = 5.0  # inches: axes that are narrower have small marks
_POINTER = "▼"  # a mark with this key stands on its point, which it does not cover
_ON_WHITE = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}


def write_labels(ax: Axes, picture: Picture) -> None:
    """Marks side by side, then every text where it covers no mark and no other text."""
    _clouds(ax, [mark for mark in picture.marks if not mark.look.key])
    marks = [mark for mark in picture.marks if mark.look.key]
    groups = list(_beside(ax, [*marks, *(mark for line in picture.lines for mark in _marks(line))]))
    room = _Room(ax, picture.lines)
    for mark in picture.marks:
        if not mark.look.key:
            x, y = ax.transData.transform((mark.x, mark.y))
            room.take(x, y, SMALL)
    for look, _, place in groups:
        if look.key == _POINTER:
            place = (place[0], place[1] + room.size * room.scale / 2)
        x, y = ax.transData.inverted().transform(place)
        ax.plot(x, y, linestyle="none", clip_on=False, zorder=5, **mark_look(look, _size(ax)))
        room.take(*place, room.size)
    for area in picture.areas:
        _area_key(ax, area)
    for look, keys, (x, y) in groups:
        words = ", ".join(key for key in keys if key and key != look.shape)
        if words and look.fill == "full":  # a hollow mark is joined to the full one of its kernel
            room.label(words, [(x, y)], leads=True, fontweight="bold")
    for line in picture.lines:
        if line.name and not line.level:
            (x0, y0), (x1, y1) = ax.transData.transform((line.points[0], line.points[-1]))
            weight = "bold" if line.look.width > 1 else "normal"
            along = [(x0 + (x1 - x0) * share, y0 + (y1 - y0) * share) for share in _ALONG]
            room.label(line.name, along, fontsize=7, fontweight=weight)


def _clouds(ax: Axes, marks: Iterable[Mark]) -> None:
    """Draw marks without keys, which may cover each other; those of one look at one dot of the paper are one."""
    looks: dict[Look, dict[tuple[int, ...], Mark]] = {}
    for mark in marks:
        dot = tuple(map(round, ax.transData.transform((mark.x, mark.y))))
        looks.setdefault(mark.look, {})[dot] = mark
    for look, same in looks.items():
        xs, ys = zip(*((mark.x, mark.y) for mark in same.values()), strict=True)
        ax.plot(xs, ys, linestyle="none", **mark_look(look, SMALL))


def _marks(line: Line) -> Iterator[Mark]:
    """Marks at a line's points, the first with its key."""
    for i, (x, y) in enumerate(line.points if line.look.shape else ()):
        yield Mark(replace(line.look, key="" if i else line.look.key), x, y)


def _size(ax: Axes) -> float:
    return SIZE if ax.bbox.width / ax.figure.dpi > _FEW else SMALL


def _beside(ax: Axes, marks: Iterable[Mark]) -> Iterator[tuple[Look, list[str], tuple[float, float]]]:
    """(look, keys, place) of marks on paper: those that touch are one for each look, the looks side by side."""
    size = _size(ax) * ax.figure.dpi / 72
    groups: list[_Together] = []
    for mark in marks:
        place = ax.transData.transform((mark.x, mark.y))
        groups.append(_Together([(mark, (float(place[0]), float(place[1])))]))
        while near := next((group for group in groups[:-1] if group.touches(groups[-1], size)), None):
            groups.remove(near)
            groups[-1].marks[:0] = near.marks
    for group in groups:
        x, y = group.middle
        for i, (look, keys) in enumerate(group.looks()):
            yield look, keys, (x + (i - (len(group.looks()) - 1) / 2) * 1.1 * size, y)


class _Together(NamedTuple):
    """Marks that would touch on paper, with their places: drawn as one for each look, the looks in a row."""

    marks: list[tuple[Mark, tuple[float, float]]]

    @property
    def middle(self) -> tuple[float, float]:
        xs, ys = zip(*(place for _, place in self.marks), strict=True)
        return sum(xs) / len(xs), sum(ys) / len(ys)

    def looks(self) -> list[tuple[Look, list[str]]]:
        """Each look, and the keys of its marks."""
        found: dict[tuple[str, str], list[Look]] = {}
        for mark, _ in self.marks:
            found.setdefault((mark.look.tone, mark.look.shape), []).append(mark.look)
        return [(same[0], list(dict.fromkeys(look.key for look in same))) for same in found.values()]

    def touches(self, other: "_Together", size: float) -> bool:
        """Whether the rows of two groups would cover each other; a hollow mark may be behind a full one."""
        (x0, y0), (x1, y1) = self.middle, other.middle
        row = (len(self.looks()) + len(other.looks())) / 2 * 1.1 * size
        same = self.marks[0][0].look.fill == other.marks[0][0].look.fill
        return same and (math.dist((x0, y0), (x1, y1)) < size or (abs(x1 - x0) < row - size and abs(y1 - y0) < size))


class _Room:
    """The occupied parts of the axes, in pixels: marks and texts, which nothing may cover, and lines."""

    def __init__(self, ax: Axes, lines: Sequence[Line]) -> None:
        self.ax, self.size, self.scale = ax, _size(ax), ax.figure.dpi / 72
        self.taken: list[Bbox] = []
        places = ([ax.transData.transform(point) for point in line.points] for line in lines)
        self.dots = np.array([dot for line in places for dot in self._dots(line)]).reshape(-1, 2)

    def _dots(self, places: Sequence[Any]) -> Iterator[tuple[float, float]]:
        """Points along a line, closer than a letter is wide."""
        for (x0, y0), (x1, y1) in pairwise(places):
            count = max(1, int(math.dist((x0, y0), (x1, y1)) / (3 * self.scale)))
            yield from ((x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1))

    def take(self, x: float, y: float, size: float) -> None:
        """Occupy the place of a mark, whose size is in points."""
        half = (size + 1) / 2 * self.scale
        self.taken.append(Bbox.from_extents(x - half, y - half, x + half, y + half))

    def label(self, words: str, places: Sequence[tuple[float, float]], leads: bool = False, **look: Any) -> None:
        """Write near one of some places, where it crosses fewest lines; leave the text out if there is no room.

        With `leads` a thin line joins a text that does not stand right beside its place.
        """
        text = self.ax.text(0.5, 0.5, words, transform=self.ax.transAxes, va="center", ha="center", zorder=6, **look)
        size = text.get_window_extent().padded(2 * self.scale, 0)
        best = min((found for x, y in places for found in self._places(size, x, y)), default=None)
        if best is None:
            text.remove()
            return
        _, ring, x, y = best
        text.set_position(tuple(self.ax.transAxes.inverted().transform((x, y))))
        box = _box(size, x, y)
        self.taken.append(box)
        if leads and ring:
            self._lead(box, places[0])

    def _lead(self, box: Bbox, place: tuple[float, float]) -> None:
        """A thin line from the nearest point of a text to its place, below the marks."""
        ends: list[Any] = [np.clip(place, box.min, box.max), place]
        xs, ys = zip(*self.ax.transData.inverted().transform(ends), strict=True)
        self.ax.plot(xs, ys, color=INK, linewidth=0.4, zorder=4)
        self.dots = np.vstack([self.dots, *self._dots(ends)])

    def _places(self, size: Bbox, x: float, y: float) -> Iterator[tuple[float, int, float, float]]:
        """(cost, ring, x, y) of free centres in rings around a place: two rings cost as much as a dot crossed."""
        inside = self.ax.bbox
        for ring in range(6):
            away = (self.size / 2 + 2 + 5 * ring) * self.scale
            for turn in range(16):
                angle = math.pi * (1 / 4 + turn / 8)
                at_x = x + math.cos(angle) * (away + size.width / 2)
                at_y = y + math.sin(angle) * (away + size.height / 2)
                box = _box(size, at_x, at_y)
                if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1:
                    continue
                if not box.count_overlaps(self.taken):  # of equal costs the first turn wins: above, to the right
                    near = box.padded(2 * self.scale)  # dots stand apart, and a line has a width
                    crossed = np.all((self.dots >= near.min) & (self.dots <= near.max), axis=1).sum()
                    yield ring / 2 + float(crossed) + 0.01 * turn, ring, at_x, at_y


def _box(size: Bbox, x: float, y: float) -> Bbox:
    return Bbox.from_bounds(x - size.width / 2, y - size.height / 2, size.width, size.height)


def _area_key(ax: Axes, area: Area) -> None:
    """The key, in the middle of the highest run of the area that has room for it; none where no run has."""
    text = ax.text(0, 0, area.look.key)
    text.set(ha="center", va="center", fontweight="bold", color="black", bbox=_ON_WHITE)
    size = text.get_window_extent()
    for start, end, low, high in (*_runs(area), *_slope(ax, area, size.width + 2)):
        (x0, y0), (x1, y1) = ax.transData.transform(((start, low), (end, high)))
        if x1 - x0 >= size.width + 2 and y1 - y0 >= size.height:
            text.set_position(((start + end) / 2, (low + high) / 2))
            return
    text.remove()


def _runs(area: Area) -> Iterator[tuple[int, int, float, float]]:
    """(start, end, lower, upper) of each run of steps that keeps its height and place."""
    return ((start, end, area.lower[start], area.upper[start]) for start, end in area.runs)


def _slope(ax: Axes, area: Area, width: float) -> Iterator[tuple[int, int, float, float]]:
    """Of an area that rises and falls with every step, the stretch as wide as a text in which most of it stays."""
    (left, _), (right, _) = ax.transData.transform(((0, 0), (1, 0)))
    steps = math.ceil(width / (right - left))
    if steps > len(area.lower):
        return
    lows = sliding_window_view(np.asarray(area.lower), steps).max(axis=1)
    highs = sliding_window_view(np.asarray(area.upper), steps).min(axis=1)
    start = int(np.argmax(highs - lows))
    yield start, start + steps, float(lows[start]), float(highs[start])


def name_levels(ax: Axes, picture: Picture, words: bool) -> list[Annotation]:
    """Names of level lines right of the axes, the highest first; their keys where there is no room for words."""
    found = []
    for line in sorted((line for line in picture.lines if line.name and line.level), key=lambda x: -x.points[0][1]):
        place = ax.annotate(
            line.name if words else line.look.key,
            (1.0, picture.y.share(line.points[0][1])),
            xytext=(1.015, picture.y.share(line.points[0][1])),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            fontweight="bold" if line.look.width > 1 else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": COLORS[line.look.tone]},
            annotation_clip=False,
        )
        found.append(place)
    return found


def move_apart(ax: Axes, names: Sequence[Annotation]) -> None:
    """Names that would touch move apart; their lines still lead to them."""
    gap = 9 * ax.figure.dpi / 72 / ax.bbox.height
    for name, place in zip(names, spread([name.xyann[1] for name in names], gap), strict=True):
        name.xyann = (name.xyann[0], place)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Falling places moved apart, as little as needed, until they are `gap` from each other."""
    found = list(places)
    for _ in range(50):  # two that move apart may touch their neighbours; some rounds settle all
        for i in range(len(found) - 1):
            lacking = gap - (found[i] - found[i + 1])
            if lacking > 1e-9:
                found[i], found[i + 1] = found[i] + lacking / 2, found[i + 1] - lacking / 2
    return found
