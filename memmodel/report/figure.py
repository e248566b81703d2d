"""Pictures drawn by matplotlib, as SVG or PNG: no display, no global state, the same bytes for the same numbers."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import offset_copy

from memmodel.pictures.describe import pictures_of
from memmodel.pictures.picture import COLORS, FAINT, INK, PAPER, Area, Entry, Line, Picture
from memmodel.report.labels import move_apart, name_levels, write_labels
from memmodel.report.style import SIZE, line_look, mark_look, styled

WIDE, NARROW = 9.0, 3.6  # inches: of a page, and of a phone
_DOTS_PER_INCH = 144
_AXES = 0.86  # width of the axes over that of the figure
_FINEST = 1000  # steps of an area, narrower than a dot beyond that
_CROWDED = 150  # steps of a stack: with more, outlines would cover the areas


def drawn(results: Iterable[object], kind: str, width: float = WIDE, words: bool = True) -> bytes:
    """Pictures of results below each other, as an "svg" or a "png"; `words` are their titles and legends."""
    pictures = [picture for result in results for picture in pictures_of(result)]
    with styled():
        file = io.BytesIO()
        # Without a date and a version the same numbers give the same bytes.
        nothing = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure = figure_of(pictures, width, words)
        figure.savefig(file, format=kind, dpi=_DOTS_PER_INCH, metadata=nothing, facecolor=PAPER)
        return file.getvalue()


def figure_of(pictures: Sequence[Picture], width: float = WIDE, words: bool = True) -> Figure:
    """The figure. Labels are placed last, since they need the positions of marks and lines on paper."""
    heights = [_height(picture, width, words) for picture in pictures]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained", dpi=_DOTS_PER_INCH)
    axes = figure.subplots(len(pictures), 1, squeeze=False, height_ratios=heights)[:, 0]
    names = []
    for ax, picture in zip(axes, pictures, strict=True):
        _axes(ax, picture)
        if words:
            _words(ax, picture)
        _cells(ax, picture)
        _areas(ax, picture.areas)
        for line in picture.lines:
            _line(ax, line)
        names.append(name_levels(ax, picture, width > NARROW))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels find room in the axes as they are now
    for ax, picture, beside in zip(axes, pictures, names, strict=True):
        move_apart(ax, beside)
        write_labels(ax, picture)
    return figure


def _height(picture: Picture, width: float, words: bool) -> float:
    """Inches: the axes with their labels, and a line for each row of the legend."""
    aspect = picture.aspect if width > NARROW else max(picture.aspect, 0.75)
    rows = 1 + len(picture.legend) + len(picture.notes) + 3 if words else 0
    return _AXES * width * aspect + 0.45 + 0.145 * rows


def _axes(ax: Axes, picture: Picture) -> None:
    """Scales, ends, ticks and their names."""
    for axis, set_scale, set_ends, drawn_axis in (
        (picture.x, ax.set_xscale, ax.set_xlim, ax.xaxis),
        (picture.y, ax.set_yscale, ax.set_ylim, ax.yaxis),
    ):
        set_scale("log" if axis.log else "linear")
        set_ends(axis.low, axis.high)
        drawn_axis.set_ticks([value for value, _ in axis.ticks], [text for _, text in axis.ticks])
        drawn_axis.set_label_text(axis.label)
    ax.minorticks_off()
    if picture.areas:
        ax.tick_params(axis="x", length=0)  # names of phases, in their middles
    elif not picture.cells:
        ax.grid(True, color=FAINT, linewidth=0.4, alpha=0.6)
        ax.set_axisbelow(True)


def _words(ax: Axes, picture: Picture) -> None:
    """The title above; the legend below, as a table in columns: each entry's look before its row."""
    verdict = [(picture.verdict.cells[0], 8, "normal", COLORS[picture.verdict.look.tone])] if picture.verdict else []
    lines = [(picture.title, 10, "bold", INK), (picture.subtitle, 8, "normal", INK), *verdict]
    for i, (words, size, weight, color) in enumerate(reversed(lines)):
        place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 7 + 12 * i), "textcoords": "offset points"}
        ax.annotate(words, (0, 1), fontsize=size, fontweight=weight, color=color, **place)
    handles = [_sample(entry) for entry in (*picture.legend, *picture.notes)]
    table = list(_aligned(picture)) or [""]
    keys = [entry.look.key if entry.look.key != entry.look.shape else "" for entry in picture.legend]
    rows = [f"{key:<3}{row}" for key, row in zip(("", *keys), table, strict=True)]
    title, *labels = (row.replace("  ", 2 * "\N{NO-BREAK SPACE}") for row in rows)
    font: dict[str, Any] = {"family": "monospace", "size": 7}
    legend = ax.legend(
        handles,
        [*labels, *(note.cells[0] for note in picture.notes)],
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=offset_copy(ax.transAxes, fig=ax.get_figure(root=True), y=-34, units="points"),
        frameon=False,
        prop=font,
        title=title,
        title_fontproperties=font,
        alignment="left",
        borderaxespad=0.0,
    )
    legend.get_title().set_x(34)


def _aligned(picture: Picture) -> Iterator[str]:
    """The legend's header and rows as text in columns."""
    rows = [picture.columns, *(entry.cells for entry in picture.legend)] if picture.legend else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, picture.right, strict=True)
        yield "  ".join(cell.rjust(width) if number else cell.ljust(width) for cell, width, number in cells).rstrip()


def _sample(entry: Entry) -> Line2D | Patch:
    """The legend's sample of a look."""
    look = entry.look
    if look.shape or look.dash:
        return Line2D([], [], **line_look(look), **(mark_look(look, SIZE) if look.shape else {}))
    if look.fill == "hatched":
        return Patch(facecolor=PAPER, edgecolor=INK, hatch="////", linewidth=0.4)
    if look.key and look.tone != "ink":
        return Patch(facecolor=COLORS[look.tone], edgecolor=INK, linewidth=0.4)
    return Line2D([], [], linestyle="none")


def _cells(ax: Axes, picture: Picture) -> None:
    """Cells as rectangles: an image would have visible seams between them."""
    for cell in picture.cells:
        look: dict[str, Any] = {"facecolor": "#f4f4f4", "edgecolor": "#777777", "hatch": "xxx", "linewidth": 0.0}
        if cell.share is not None:
            # Logarithmic from 0.2 % to all of the memory: shares of a few per cent stay apart.
            scaled = 1 + math.log10(max(cell.share, 0.002)) / -math.log10(0.002)
            color = mpl.colormaps["cividis"](scaled)
            look = {"facecolor": color, "edgecolor": color, "linewidth": 0.5}
            ax.text(cell.x, cell.y, cell.text, ha="center", va="center", color=PAPER if scaled < 0.55 else "black")
        ax.add_patch(Rectangle((cell.x - 0.5, cell.y - 0.5), 1, 1, **look))


def _areas(ax: Axes, areas: Sequence[Area]) -> None:
    """Areas as steps, with hatching over their colour."""
    for area in areas:
        outline = 0.0 if len(area.lower) > _CROWDED else 0.4
        _filled(ax, area.lower, area.upper, facecolor=COLORS[area.look.tone], edgecolor=INK, linewidth=outline)
        _filled(ax, area.lower, area.hatched, facecolor="none", edgecolor=INK, linewidth=0.0, hatch="////")


def _filled(ax: Axes, lower: Sequence[float], upper: Sequence[float], **look: Any) -> None:
    """Areas where the upper level is above the lower, from each step to the next."""
    steps = list(_visible_steps(lower, upper))
    where = [high > low for _, _, low, high in steps for _ in range(2)]
    if any(where):
        edges = [edge for start, end, _, _ in steps for edge in (start, end)]
        low, high = ([step[which] for step in steps for _ in range(2)] for which in (2, 3))
        ax.fill_between(edges, low, high, where=where, antialiased=len(lower) <= _CROWDED, **look)


def _visible_steps(lower: Sequence[float], upper: Sequence[float]) -> Iterator[tuple[int, int, float, float]]:
    """(start, end, lower, upper) of each step; of too many steps to see, of stretches from lowest to highest."""
    size = -(-len(lower) // _FINEST)
    if size <= 1:
        yield from ((i, i + 1, low, high) for i, (low, high) in enumerate(zip(lower, upper, strict=True)))
        return
    starts = range(0, len(lower), size)
    levels = [(min(lower[start : start + size]), max(upper[start : start + size])) for start in starts]
    for (low, high), run in groupby(starts, lambda start: levels[start // size]):
        first, *rest = run
        yield first, min([first, *rest][-1] + size, len(lower)), low, high


def _highest(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """The points of a line of steps; of stretches the highest, where they are too many to see."""
    size = -(-len(points) // _FINEST)
    if size <= 1:
        return points
    stretches = (points[start : start + size] for start in range(0, len(points), size))
    return [*((stretch[0][0], max(y for _, y in stretch)) for stretch in stretches), points[-1]]


def _line(ax: Axes, line: Line) -> None:
    look = line_look(line.look)
    if line.step and len(line.points) > _CROWDED and line.look.dash == "solid":
        look["linewidth"] = 0.25
    points = _highest(line.points) if line.step else line.points
    x, y = zip(*points, strict=True) if points else ((), ())
    ax.plot(x, y, drawstyle="steps-post" if line.step else "default", **look)
