"""The style of pictures on paper: lines, markers, and matplotlib's settings."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

from memmodel.pictures.picture import COLORS, INK, PAPER, Look

_MARKERS = dict(zip("●■▲◆▼✚✖★", "os^DvPx*", strict=True))
SIZE, SMALL = 7.0, 5.0  # points: a mark's width, and where there is little room
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "memmodel",  # ids of clips and markers are random without one
    "svg.fonttype": "none",  # texts stay texts: small files, which can be searched
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.monospace": ["DejaVu Sans Mono"],
    "font.size": 8,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a tensor's name is no formula
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside this context with the style of all pictures, whatever the user's own settings of matplotlib."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, about fonts and layouts: nothing that a user can act on
        plain = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
        with mpl.rc_context({**plain, **_STYLE}):
            yield


def line_look(look: Look) -> dict[str, Any]:
    """Matplotlib's arguments of a line."""
    return {"color": COLORS[look.tone], "linestyle": look.dash or "none", "linewidth": look.width}


def mark_look(look: Look, size: float) -> dict[str, Any]:
    """Matplotlib's arguments of marks `size` points wide."""
    fill = PAPER if look.fill == "hollow" else COLORS[look.tone]
    edge = COLORS[look.tone] if look.shape == "✖" else INK  # a cross has no inside
    return {
        "marker": _MARKERS[look.shape],
        "markersize": size,
        "markerfacecolor": fill,
        "markeredgecolor": edge,
        "markeredgewidth": 0.7,
    }
