"""Predicted against measured, drawn: bytes on one panel, seconds on the other, equality as a line."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memmodel.report.figures import file_of, styled
from memmodel.report.palette import BLACK, GREY, MARKERS, SERIES
from memmodel.report.scales import decade_ticks
from memmodel.units import bytes_text, seconds_text

Pairs = Sequence[tuple[float, float]]


def accuracy_drawn(pairs: Mapping[str, Pairs], kind: str) -> bytes:
    """(measured, predicted) by quantity, as the bytes of an "svg" or a "png": bytes of "memory", seconds of others."""
    memory = {name: found for name, found in pairs.items() if name == "memory"}
    times = {name: found for name, found in pairs.items() if name != "memory"}
    panels = [(found, title) for found, title in ((memory, "memory"), (times, "time")) if found]
    with styled():
        figure = Figure(figsize=(4.8 * max(1, len(panels)), 5.4), layout="constrained")
        axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
        for ax, (found, title) in zip(axes, panels, strict=True):
            _panel(ax, found, title)
        return file_of(figure, kind)


def _panel(ax: Axes, found: Mapping[str, Pairs], title: str) -> None:
    values = [value for pairs in found.values() for pair in pairs for value in pair if value > 0]
    low, high = min(values) / 2, max(values) * 2
    ax.set_xscale("log")
    ax.set_yscale("log")
    if title == "time":
        ax.fill_between([low, high], [low * 0.9, high * 0.9], [low * 1.1, high * 1.1], color=GREY, label="within 10 %")
    ax.plot([low, high], [low, high], color=BLACK, linewidth=0.8, label="equal")
    for i, (name, pairs) in enumerate(found.items()):
        ax.plot(
            [measured for measured, _ in pairs],
            [predicted for _, predicted in pairs],
            linestyle="none",
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            markerfacecolor=SERIES[i % len(SERIES)],
            markeredgecolor=BLACK,
            markeredgewidth=0.4,
            label=f"{name}: {len(pairs)}",
        )
    ticks = decade_ticks(low, high, bytes_text if title == "memory" else seconds_text, 4 if title == "memory" else 10)
    ticks = ticks[:: 1 + len(ticks) // 7]  # more would touch
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([value for value, _ in ticks], [label for _, label in ticks])
    ax.minorticks_off()
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    ax.set_xlabel("measured")
    ax.set_ylabel("predicted")
    ax.set_title(f"{title}: predicted against measured")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
