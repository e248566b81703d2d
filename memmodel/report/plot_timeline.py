"""The timeline, drawn: a stack of numbered tensors, lines of the allocator, the peak, and the capacity."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from memmodel.pictures.timeline import Band, Timeline
from memmodel.report.palette import BLACK, GREY, LIGHT, SERIES, VERMILION
from memmodel.report.scales import binary_ticks, capacity_words, line_words, top_of
from memmodel.units import bytes_text

HATCH = "////"
_CROWDED = 150  # moments: with more, outlines would cover what they enclose


def draw_timeline(ax: Axes, shown: Timeline) -> None:
    """One panel."""
    top = top_of(shown)
    steps = range(len(shown.moments) + 1)
    bottom = [0] * len(shown.moments)
    handles = []
    for i, band in enumerate(shown.bands):
        handles.append(_layer(ax, bottom, band, i, band.live_bytes[shown.peak]))
        _number(ax, shown, bottom, band, i, top)
        bottom = [low + size for low, size in zip(bottom, band.live_bytes, strict=True)]
    lines = _lines(ax, steps, shown, top)
    _capacity(ax, shown, top)
    _peak(ax, shown, top)
    _phases(ax, shown, top)
    ax.set_xlim(0, len(shown.moments))
    ax.set_ylim(0, top)
    ticks = binary_ticks(top, 5)
    ax.set_yticks([value for value, _ in ticks], [label for _, label in ticks])
    ax.set_xlabel("allocations and frees, in order")
    ax.set_ylabel("memory")
    ax.set_title(f"{shown.title} on {shown.gpu}\n{shown.case}\n")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    hatched = Patch(facecolor="white", edgecolor=BLACK, hatch=HATCH, label="kept for backward")
    saved = [hatched] if any(any(band.saved_bytes) for band in shown.bands) else []
    ax.legend(
        handles=[*reversed(handles), *saved, *lines],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=8,
        title="tensors, with bytes at the peak",
        title_fontsize=8,
        alignment="left",
    )


def _color(band: Band, i: int) -> str:
    return {"inputs": GREY, "rest": LIGHT}.get(band.kind, SERIES[(i - 1) % len(SERIES)])


def _layer(ax: Axes, bottom: Sequence[int], band: Band, i: int, at_peak: int) -> Patch:
    """A band, its part that is kept for backward hatched; returns its entry in the legend."""
    color = _color(band, i)
    outline = 0.0 if len(bottom) > _CROWDED else 0.4
    _filled(ax, bottom, band.live_bytes, facecolor=color, edgecolor=BLACK, linewidth=outline)
    _filled(ax, bottom, band.saved_bytes, facecolor="none", edgecolor=BLACK, linewidth=0.0, hatch=HATCH)
    label = f"{i + 1}  {band.name}, {bytes_text(at_peak)}"
    return Patch(facecolor=color, edgecolor=BLACK, linewidth=0.4, label=label)


def _filled(ax: Axes, bottom: Sequence[int], sizes: Sequence[int], **look: Any) -> None:
    """Areas where there are bytes, from each moment to the next."""
    if not any(sizes):
        return
    lower = [low for low in bottom for _ in range(2)]
    upper = [low + size for low, size in zip(bottom, sizes, strict=True) for _ in range(2)]
    edges = [i + end for i in range(len(sizes)) for end in (0, 1)]
    where = [bool(size) for size in sizes for _ in range(2)]
    ax.fill_between(edges, lower, upper, where=where, antialiased=len(sizes) <= _CROWDED, **look)


def _number(ax: Axes, shown: Timeline, bottom: Sequence[int], band: Band, i: int, top: float) -> None:
    """The band's number, in the middle of where it is longest at its largest; none where there is no room."""
    start, end = _longest(band.live_bytes, bottom)
    size = band.live_bytes[start]
    if size > 0.045 * top and end - start > 0.012 * len(shown.moments):
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        at = (start + end) / 2, bottom[start] + size / 2
        ax.text(*at, f"{i + 1}", ha="center", va="center", fontsize=8, fontweight="bold", bbox=box)


def _longest(sizes: Sequence[int], bottom: Sequence[int]) -> tuple[int, int]:
    """The longest run of moments in which a band keeps its largest size and its place."""
    best = start = 0
    found = (0, 0)
    for i in range(1, len(sizes) + 1):
        if i == len(sizes) or (sizes[i], bottom[i]) != (sizes[start], bottom[start]):
            if sizes[start] == max(sizes) and i - start > best:
                best, found = i - start, (start, i)
            start = i
    return found


def _lines(ax: Axes, steps: Sequence[int], shown: Timeline, top: float) -> list[Line2D]:
    """Allocated and reserved bytes."""
    found = []
    thin = 0.25 if len(shown.moments) > _CROWDED else 1.1
    for name, style, width in (("allocated", "-", thin), ("reserved", "--", 1.3)):
        values = [getattr(moment, f"{name}_bytes") for moment in shown.moments]
        found += ax.step(
            steps,
            [*values, values[-1]],
            where="post",
            color=BLACK,
            linestyle=style,
            linewidth=width,
            label=line_words(name, max(values), top),
        )
    return found


def _capacity(ax: Axes, shown: Timeline, top: float) -> None:
    """The verdict under the title, and the capacity's line, named where the peak is not."""
    capacity = shown.memory.capacity_bytes
    color = VERMILION if shown.memory.fits is False else BLACK
    words = capacity_words(shown.memory, top)
    ax.annotate(
        words, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", color=color, fontsize=9
    )
    if capacity is None or capacity > top:
        return
    ax.axhline(capacity, color=VERMILION, linewidth=1.8, linestyle="-.")
    left = shown.peak > len(shown.moments) / 2
    ax.annotate(
        f"capacity {bytes_text(capacity)}",
        (0.01 if left else 0.99, capacity),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        ha="left" if left else "right",
        va="top",
        color=VERMILION,
        fontsize=8,
    )


def _peak(ax: Axes, shown: Timeline, top: float) -> None:
    """An arrow to the peak, and what happens there."""
    at, value = shown.peak + 0.5, shown.at_peak.live_bytes
    words = f"peak {bytes_text(value)}\n{shown.at_peak.what}"
    left = at > len(shown.moments) / 2
    ax.plot([at], [value], marker="v", color=VERMILION, markeredgecolor=BLACK, markersize=8, clip_on=False, zorder=5)
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": VERMILION, "alpha": 0.95}
    ax.annotate(
        words,
        (at, value),
        xytext=(-14 if left else 14, -8),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        bbox=box,
        zorder=6,
    )


def _phases(ax: Axes, shown: Timeline, top: float) -> None:
    """Where forward ends."""
    ax.text(0.005, 0.985, "forward", transform=ax.transAxes, va="top", style="italic")
    if shown.backward is not None:
        ax.axvline(shown.backward, color=BLACK, linewidth=0.8, linestyle=":")
        ax.text(shown.backward, 0.985 * top, " backward", va="top", style="italic")
