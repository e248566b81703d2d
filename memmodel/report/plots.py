"""Pictures as SVG and PNG, by matplotlib: no display, no global state, the same bytes for the same numbers.

Colours are Okabe and Ito's, told apart with any colour vision; everything that a colour says, a number, a hatch, a
marker or a word says too, so that pictures can be read in grey.
"""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memmodel.pictures.frontier import Frontier, HeatMap
from memmodel.pictures.roofline import Roofline
from memmodel.pictures.timeline import Timeline
from memmodel.report.figures import file_of, styled
from memmodel.report.plot_frontier import draw_frontier, draw_heat_map
from memmodel.report.plot_roofline import draw_roofline
from memmodel.report.plot_timeline import draw_timeline

HEIGHT = {Timeline: 4.0, Roofline: 6.2, Frontier: 5.0, HeatMap: 5.0}  # inches of a panel
WIDTH = 9.0
_DRAW: dict[type, Callable[[Axes, Any], None]] = {
    Timeline: draw_timeline,
    Roofline: draw_roofline,
    Frontier: draw_frontier,
    HeatMap: draw_heat_map,
}


def drawn(pictures: Sequence[Any], kind: str) -> bytes:
    """Pictures below each other, as the bytes of an "svg" or a "png"."""
    with styled():
        figure = Figure(figsize=(WIDTH, sum(HEIGHT[type(shown)] for shown in pictures)), layout="constrained")
        axes = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
        for ax, shown in zip(axes, pictures, strict=True):
            _DRAW[type(shown)](ax, shown)
        return file_of(figure, kind)
