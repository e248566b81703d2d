"""What the commands that draw share: to the terminal, to a file, or as numbers."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from memmodel.cli.files import check_output, kind_of, tell, write
from memmodel.cli.options import print_json, show
from memmodel.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
SUFFIXES = (".svg", ".png")


def picture_options(function: F) -> F:
    """Where the picture goes."""
    for option in (
        click.option("--data", is_flag=True, help="The plotted numbers as JSON, with the keys of docs/pictures.md."),
        click.option("--force", is_flag=True, help="Overwrite the output file."),
        click.option("--output", "-o", metavar="FILE", help="Draw into FILE.svg or FILE.png, not into the terminal."),
    ):
        function = option(function)
    return function


def put(pictures: Sequence[Any], output: str | None, force: bool, data: bool) -> None:
    """Show pictures of one kind as the options say. Raises UsageError for a file that cannot be written."""
    if output is not None:
        check_output(output, force, SUFFIXES)
        check_plotting()
    if data:
        from memmodel.report.picture_data import pictures_dict

        print_json(pictures_dict(pictures))
    elif output is None:
        show(*pictures)
    if output is not None:
        save(pictures, output)
        if not data:
            tell(output)


def save(pictures: Sequence[Any], output: str) -> None:
    """Draw into a file. Raises UsageError where that cannot be."""
    from memmodel.report.figure import drawn

    write(output, drawn(pictures, kind_of(output)))


def check_plotting() -> None:
    """Raise UsageError, which says what to install, where the plotting library is missing."""
    try:
        import memmodel.report.figure  # noqa: F401 - the first that needs it
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("memmodel"):
            raise
        raise UsageError(
            f"pictures in files need {missing.name}, which is not installed: run pip install 'memmodel[plot]'"
        ) from missing
