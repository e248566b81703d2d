"""Where results are printed: a terminal, a pipe, a notebook."""

import io
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Screen(Console):
    """A console that takes text as it is: files of users name GPUs, functions and lines of code.

    Square brackets are no markup, and control characters, which could drive the reader's terminal, are left out.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """What is printed, piece by piece."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_CONTROL.sub("", segment.text), segment.style)


def text(result: Any, width: int = 100) -> str:
    """What `result` looks like in a terminal, without colours and without spaces at line ends."""
    console = Screen(width=width, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(result)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def html(result: Any) -> str:
    """What `result` looks like in a notebook."""
    console = Screen(width=100, record=True, file=io.StringIO(), force_jupyter=False)
    console.print(result)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
