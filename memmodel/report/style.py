"""How pictures look on paper: colours, markers, and the settings of matplotlib while one is drawn.

Colours are Okabe and Ito's, "Color Universal Design" (2008), told apart with any colour vision; everything that a
colour says, a key, a hatch, a dash or a marker says too, so that pictures can be read in grey.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

from memmodel.pictures.picture import Look

INK, PAPER, FAINT = "#111111", "#fefefe", "#bbbbbb"  # pages replace these by their own
TONES = {"ink": INK, "faint": FAINT, "light": "#e4e4e4", "limit": "#d55e00", "roof": "#0072b2"} | dict(
    zip("1234567", ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#cc79a7", "#d55e00"), strict=True)
)
_MARKERS = dict(zip("●■▲◆▼✚✖★", "os^DvPx*", strict=True))
SIZE, SMALL = 7.0, 5.0  # points: a mark's width, and where there is little room
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "memmodel",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.monospace": ["DejaVu Sans Mono"],
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a tensor's name is no formula
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def styled() -> Iterator[None]:
    """The style of all pictures, for as long as one is drawn; a user's own settings of matplotlib do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, about fonts and layouts: nothing that a user can act on
        plain = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
        with mpl.rc_context({**plain, **_STYLE}):
            yield


def line_look(look: Look) -> dict[str, Any]:
    """Matplotlib's arguments of a line."""
    return {"color": TONES[look.tone], "linestyle": look.dash or "none", "linewidth": look.width}


def mark_look(look: Look, size: float) -> dict[str, Any]:
    """Matplotlib's arguments of marks `size` points wide."""
    fill = PAPER if look.fill == "hollow" else TONES[look.tone]
    edge = TONES[look.tone] if look.shape == "✖" else INK  # a cross has no inside
    return {
        "marker": _MARKERS[look.shape],
        "markersize": size,
        "markerfacecolor": fill,
        "markeredgecolor": edge,
        "markeredgewidth": 0.7,
    }
