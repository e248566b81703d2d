"""What all figures share: their style, and how they become bytes. No display, no global state, no date."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

DOTS_PER_INCH = 144
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "memmodel",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a tensor's name is no formula
}


@contextmanager
def styled() -> Iterator[None]:
    """The style of all pictures, for as long as one is drawn; a user's own settings of matplotlib do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, about fonts and layouts: nothing that a user can act on
        plain = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
        with mpl.rc_context({**plain, **_STYLE}):
            yield


def file_of(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of an "svg" or a "png"; the same for the same figure."""
    file = io.BytesIO()
    nothing = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, metadata=nothing, facecolor="white")
    return file.getvalue()
