"""Results in a terminal, a pipe, a notebook or a file. Matplotlib is imported late, since it is optional."""

import os
import sys
from collections.abc import Iterable
from os import PathLike, fspath
from typing import TextIO

from memmodel.base.errors import UsageError
from memmodel.base.rendering import Drawing
from memmodel.report.text import STYLES, Part, Room, TextLine

_CSS = {
    "bold": "font-weight: bold",
    "dim": "opacity: 0.6",
    "italic": "font-style: italic",
    "underline": "text-decoration: underline",
    "bright_yellow": "color: gold",
}


def text(result: Part, width: int = 100) -> str:
    """`result` as text, without colours and without spaces at line ends."""
    return "".join(f"{_plain(line)}\n" for line in result.layout(Room(width, _ascii_only(sys.stdout))))


def print_styled(parts: Iterable[Part], stream: TextIO) -> None:
    """Print on a terminal, in its width; colours are left out where NO_COLOR asks for that (no-color.org)."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    room = Room(_columns(stream), dumb or _ascii_only(stream))
    for part in parts:
        for line in part.layout(room):
            stream.write(f"{_plain(line) if dumb else _styled(line)}\n")


def html(result: Part) -> str:
    """`result` as HTML for a notebook."""
    from html import escape

    def span(words: str, style: str) -> str:
        looks = "; ".join(_CSS.get(word, f"color: {word}") for word in style.split())
        return f'<span style="{looks}">{escape(words)}</span>' if looks else escape(words)

    lines = ("".join(span(*segment) for segment in line) for line in result.layout(Room(100)))
    return f"<pre>{''.join(f'{line.rstrip()}{chr(10)}' for line in lines)}</pre>"


def _plain(line: TextLine) -> str:
    return "".join([words for words, _ in line]).rstrip()


def _styled(line: TextLine) -> str:
    """A line with the terminal's codes for its styles."""
    colors = not os.environ.get("NO_COLOR")
    found = []
    for words, style in line:
        codes = [f"{STYLES[word]}" for word in style.split() if colors or STYLES[word] < STYLES["red"]]
        found.append(f"\x1b[{';'.join(codes)}m{words}\x1b[0m" if codes and words else words)
    return "".join(found).rstrip()


def _columns(stream: TextIO) -> int:
    """The terminal's width; that in COLUMNS, where it is given."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def _ascii_only(stream: TextIO) -> bool:
    return not (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def save(picture: Drawing, file: str | PathLike[str]) -> None:
    """Draw into a file. Raises UsageError for a name that ends in neither .svg nor .png."""
    from memmodel.report.figure import drawn

    kind = os.path.splitext(fspath(file))[1].lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise UsageError(f"{fspath(file)}: expected a file name that ends in .svg or .png")
    content = drawn([picture], kind)
    with open(file, "wb") as target:
        target.write(content)


def drawing(picture: Drawing) -> str:
    """A picture as SVG, or as text without matplotlib."""
    try:
        from memmodel.report.figure import drawn
    except ModuleNotFoundError:
        from html import escape

        return f"<pre>{escape(str(picture))}</pre>"
    svg = drawn([picture], "svg").decode()
    return svg[svg.index("<svg") :]
