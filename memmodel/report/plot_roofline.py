"""The roofline, drawn: ceilings by their names, kernels by letters that the legend explains."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from memmodel.pictures.roofline import Point, Roof, Roofline
from memmodel.report.palette import BLACK, BLUE, MARKERS, PURPLE, SERIES, VERMILION
from memmodel.report.scales import ABOVE, rate_label, roofline_ends
from memmodel.units import decimal_text, seconds_text

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NEAR = 0.022  # of the width: markers closer than this share one label
_FEW = 3  # letters that have room on the left of their markers
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.6}  # a ceiling may pass behind words
_LINE = 0.036  # of the height: what a line of text takes


def draw_roofline(ax: Axes, shown: Roofline) -> None:
    """The picture."""
    (x0, x1), (y0, y1) = roofline_ends(shown)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(x0, x1)
    ax.set_ylim(y0, y1)
    _roofs(ax, shown)
    _balance(ax, shown)
    for one in shown.measured:
        ax.plot([one.intensity] * 2, [one.predicted_rate, one.rate], color=PURPLE, linewidth=0.5, zorder=2)
        ax.plot([one.intensity], [one.rate], marker="x", color=PURPLE, markersize=5, zorder=3)
    algorithms = list(dict.fromkeys(point.algorithm for point in shown.points))
    for point in shown.points:
        _point(ax, point, algorithms.index(point.algorithm))
    _letters(ax, shown)
    ticks = [10.0**power for power in range(math.ceil(math.log10(y0)), math.floor(math.log10(y1)) + 1)]
    ax.set_yticks(ticks, [f"{rate_label(value)}FLOP/s" for value in ticks])
    across = [10.0**power for power in range(math.ceil(math.log10(x0)), math.floor(math.log10(x1)) + 1)]
    ax.set_xticks(across, [f"{value:,g}" for value in across])
    ax.minorticks_off()
    ax.set_xlabel("FLOP per byte of HBM traffic")
    ax.set_ylabel("arithmetic per second")
    ax.set_title(f"Roofline of {shown.gpu}\n{shown.case}")
    _legend(ax, shown, algorithms)


def _roofs(ax: Axes, shown: Roofline) -> None:
    """Every ceiling, its name at the right end; the one of the configuration's products is thick."""
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    bandwidth = shown.memory.rate
    flat = [roof for roof in shown.roofs if roof.kind == "compute"]
    high = max(roof.rate for roof in flat)
    ax.plot([x0, high / bandwidth], [x0 * bandwidth, high], color=BLACK, linewidth=1.8, zorder=2)
    for roof in shown.slopes[1:]:
        ax.plot([x0, high / roof.rate], [x0 * roof.rate, high], color=BLUE, linewidth=0.9, zorder=2)
        _slope_label(ax, roof, 0.8 * _share(high, y0, y1), left=True)
    places = spread([_share(roof.rate, y0, y1) for roof in flat], _LINE)
    for roof, place in zip(flat, places, strict=True):
        thick = roof == shown.peak
        start = max(roof.rate / bandwidth, x0)
        ax.plot([start, x1], [roof.rate] * 2, color=BLACK if thick else BLUE, linewidth=1.8 if thick else 0.9, zorder=2)
        unit = "exp/s" if roof.name == "exp units" else "FLOP/s"
        ax.annotate(
            f"{roof.name}: {decimal_text(roof.rate, unit)}",
            (1.0, _share(roof.rate, y0, y1)),
            xytext=(1.02, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            fontweight="bold" if thick else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": BLUE},
            annotation_clip=False,
        )
    _memory_label(ax, shown, high)


def _memory_label(ax: Axes, shown: Roofline, high: float) -> None:
    """The slanted ceiling's name, right of it where kernels and flat ceilings are farthest."""
    x0, (y0, y1) = ax.get_xlim()[0], ax.get_ylim()
    rates = [rate for point in shown.points for rate in (point.rate, point.expected_rate) if rate]
    rates += [roof.rate for roof in shown.roofs if roof.kind == "compute"]
    taken = [_share(rate, y0, y1) for rate in rates]
    places = [_share(max(x0 * shown.memory.rate, y0), y0, y1) + 0.1 + 0.01 * i for i in range(60)]
    places = [place for place in places if place < _share(high / 30, y0, y1)]  # left of the balance point
    best = max(places, key=lambda place: min((abs(place - other) for other in taken), default=1.0), default=0.5)
    _slope_label(ax, shown.memory, best, left=False)


def _slope_label(ax: Axes, roof: Roof, place: float, left: bool) -> None:
    """A slanted ceiling's name beside it, at a share of the height."""
    y0, y1 = ax.get_ylim()
    rate = y0 * (y1 / y0) ** place
    ax.annotate(
        f"{roof.name}: {decimal_text(roof.rate, 'B/s')}",
        (rate / roof.rate, rate),
        xytext=(-8 if left else 8, 0),
        textcoords="offset points",
        fontsize=8,
        fontweight="bold" if roof.name == "HBM" else "normal",
        va="center",
        ha="right" if left else "left",
        bbox=_ON_WHITE,
    )


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Falling places moved apart, as little as needed, until they are `gap` from each other."""
    found = list(places)
    for _ in range(50):
        for i in range(len(found) - 1):
            lacking = gap - (found[i] - found[i + 1])
            if lacking > 1e-9:
                found[i], found[i + 1] = found[i] + lacking / 2, found[i + 1] - lacking / 2
    return found


def _balance(ax: Axes, shown: Roofline) -> None:
    """The balance point, and what limits on each side of it."""
    ax.axvline(shown.balance, color=VERMILION, linewidth=1.0, linestyle=":", zorder=1)
    right = f"balance point {shown.balance:.0f} FLOP/B ({shown.dtype})\nright of it arithmetic limits"
    for words, side, offset in ((right, "left", 3), ("left of it memory limits", "right", -3)):
        ax.annotate(
            words,
            (shown.balance, 0.015),
            xycoords=ax.get_xaxis_transform(),
            xytext=(offset, 0),
            textcoords="offset points",
            color=VERMILION,
            fontsize=8,
            va="bottom",
            ha=side,
        )


def _point(ax: Axes, point: Point, series: int) -> None:
    """A kernel: filled by the datasheet, hollow as expected, joined."""
    look: dict[str, Any] = {"marker": MARKERS[series % len(MARKERS)], "markeredgecolor": BLACK, "linestyle": "none"}
    color = SERIES[series % len(SERIES)]
    if point.expected_rate is not None:
        ax.plot([point.intensity] * 2, [point.rate, point.expected_rate], color=color, linewidth=1.0, zorder=3)
        ax.plot([point.intensity], [point.expected_rate], markerfacecolor="white", markersize=7, zorder=4, **look)
    ax.plot([point.intensity], [point.rate], markerfacecolor=color, markersize=8, zorder=5, **look)


def _letters(ax: Axes, shown: Roofline) -> None:
    """Letters beside the filled markers; of markers that touch, side by side."""
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    groups: list[list[int]] = []
    places = [(_share(p.intensity, x0, x1), _share(p.rate, y0, y1)) for p in shown.points]
    for i, place in enumerate(places):
        near = [group for group in groups if math.dist(places[group[-1]], place) < _NEAR]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    for group in groups:
        right = shown.points[group[0]].intensity > shown.balance or len(group) > _FEW
        x, y = max(places[i] for i in group) if right else places[group[0]]
        ax.annotate(
            ", ".join(letter(i) for i in group),
            (x, y),
            xycoords="axes fraction",
            xytext=(8, 5 if len(group) <= _FEW else -3) if right else (-7, 5),
            textcoords="offset points",
            ha="left" if right else "right",
            fontweight="bold",
            bbox=_ON_WHITE,
            zorder=4,
        )


def letter(i: int) -> str:
    """A kernel's letter: A to Z, then A2 and on."""
    return _LETTERS[i % 26] + (f"{i // 26 + 1}" if i >= 26 else "")


def _legend(ax: Axes, shown: Roofline, algorithms: Sequence[str]) -> None:
    """What the letters and markers stand for, below the picture."""
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=MARKERS[algorithms.index(p.algorithm) % len(MARKERS)],
            markeredgecolor=BLACK,
            markerfacecolor=SERIES[algorithms.index(p.algorithm) % len(SERIES)],
            label=_words(i, p),
        )
        for i, p in enumerate(shown.points)
    ]
    handles += [Line2D([], [], linestyle="none", label=words) for words in _remarks(shown)]
    if shown.measured:
        words = (
            f"{len(shown.measured)} measured runs (forward, backward or both),\njoined to what is predicted for them"
        )
        handles.append(Line2D([], [], linestyle="none", marker="x", color=PURPLE, label=words))
    expected = any(point.expected_seconds is not None for point in shown.points)
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(-0.12, -0.11),
        frameon=False,
        fontsize=8,
        ncols=2,
        title="kernels: filled by the datasheet (at least)" + (", hollow as expected" if expected else ""),
        title_fontsize=8,
        alignment="left",
    )


def _remarks(shown: Roofline) -> Iterable[str]:
    if shown.without:
        yield f"without arithmetic, not shown: {', '.join(shown.without)}"
    if shown.above:
        yield ABOVE.replace(", which", ",\nwhich")


def _words(i: int, point: Point) -> str:
    times = f" x{point.launches}" if point.launches > 1 else ""
    expected = "" if point.expected_seconds is None else f", expected {seconds_text(point.expected_seconds)}"
    return f"{letter(i)}  {point.algorithm}: {point.kernel}{times}, {seconds_text(point.seconds)}{expected}"
