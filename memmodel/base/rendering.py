"""Rendering of results by type: as printed text, in a notebook, as a dict, as LaTeX, as a file.

Results do not import renderers. `memmodel.report` registers one by name for each type and form; it is imported when a
result of that type is first rendered, so that computing results loads nothing that draws.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

_RENDERERS: dict[str, Mapping[str, str]] = {}


def register(renderers: Mapping[str, Mapping[str, str]]) -> None:
    """Register renderers by name: {"module.Type": {form: "module:function"}}. Subclasses inherit them."""
    _RENDERERS.update(renderers)


def rendered(form: str, result: object, *arguments: Any) -> Any:
    """Render a result as "screen", "text", "notebook", "dict", "latex" or "file".

    Raises TypeError if no renderer is registered for the type.
    """
    for kind in type(result).__mro__:
        name = _RENDERERS.get(f"{kind.__module__}.{kind.__qualname__}", {}).get(form)
        if name is not None:
            module, _, function = name.partition(":")
            return getattr(import_module(module), function)(result, *arguments)
    raise TypeError(f"no {form} is registered for {type(result).__name__}: memmodel.report lists the renderers")


class Renderable:
    """A result that can be printed, displayed in a notebook and converted to a dict."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form."""
        found: dict[str, Any] = rendered("dict", self)
        return found

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator[Any]:
        yield from rendered("screen", self)

    def __str__(self) -> str:
        return str(rendered("text", self))

    def _repr_html_(self) -> str:
        return str(rendered("notebook", self))


class Drawing(Renderable):
    """A result that is a picture."""

    __slots__ = ()

    def save(self, file: str | PathLike[str]) -> None:
        """Draw into a .svg or .png file, overwriting it. Needs matplotlib. Raises UsageError for other suffixes."""
        rendered("file", self, file)
