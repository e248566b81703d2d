"""How a picture shows itself: as text when printed, as a drawing in a notebook, as a file when saved.

The numbers know nothing of plotting; what draws them is imported when it is needed.
"""

from os import PathLike, fspath, path
from typing import TYPE_CHECKING

from memmodel.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Shown:
    """What Timeline, Roofline, Frontier and HeatMap have in common."""

    __slots__ = ()

    def save(self, file: str | PathLike[str]) -> None:
        """Draw into a file, .svg or .png, over one that is there. Needs matplotlib. Raises UsageError for others."""
        from memmodel.report.plots import drawn

        kind = path.splitext(fspath(file))[1].lower().removeprefix(".")
        if kind not in ("svg", "png"):
            raise UsageError(f"{fspath(file)}: expected a file name that ends in .svg or .png")
        content = drawn([self], kind)
        with open(file, "wb") as target:
            target.write(content)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from memmodel.report.terminal_plots import view

        return view(self, console, options)

    def __str__(self) -> str:
        from memmodel.report.tables import text

        return text(self)

    def _repr_html_(self) -> str:
        """An SVG, or text where matplotlib is not installed."""
        from html import escape

        try:
            from memmodel.report.plots import drawn
        except ModuleNotFoundError:
            return f"<pre>{escape(str(self))}</pre>"
        svg = drawn([self], "svg").decode()
        return svg[svg.index("<svg") :]
