"""Results in a terminal, a pipe, a notebook or a file. Matplotlib is imported late, since it is optional."""

import io
import re
from collections.abc import Iterator
from html import escape
from os import PathLike, fspath, path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from memmodel.base.errors import UsageError
from memmodel.base.rendering import Drawing

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
# Text is taken as it is: files of users name GPUs, functions and lines of code, and square brackets are no markup.
_AS_IT_IS: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}


class Screen(Console):
    """A terminal or notebook; control characters of users' files, which could drive the terminal, are left out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**_AS_IT_IS, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments to print, without control characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_CONTROL.sub("", segment.text), segment.style)


def text(result: Any, width: int = 100) -> str:
    """`result` as terminal text, without colours and without spaces at line ends."""
    console = Console(width=width, no_color=True, force_terminal=False, **_AS_IT_IS)
    with console.capture() as capture:
        console.print(result)
    plain = _CONTROL.sub("", capture.get())  # once, where a `Screen` goes through the segments of each nested part
    return "".join(f"{line.rstrip()}\n" for line in plain.splitlines())


def html(result: Any) -> str:
    """`result` as HTML for a notebook."""
    console = Screen(width=100, record=True, file=io.StringIO(), force_jupyter=False)
    console.print(result)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def save(picture: Drawing, file: str | PathLike[str]) -> None:
    """Draw into a file. Raises UsageError for a name that ends in neither .svg nor .png."""
    from memmodel.report.figure import drawn

    kind = path.splitext(fspath(file))[1].lower().removeprefix(".")
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
        return f"<pre>{escape(str(picture))}</pre>"
    svg = drawn([picture], "svg").decode()
    return svg[svg.index("<svg") :]
