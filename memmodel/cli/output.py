"""Where answers go: the screen, JSON, or a file that is not overwritten unasked."""

import codecs
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TextIO

import click

from memmodel.errors import UsageError

PICTURES = (".svg", ".png")
force_option = click.option("--force", is_flag=True, help="Overwrite the output file.")


def show(*parts: Any) -> None:
    """Print in the terminal's width; where output is not a terminal in 80 columns, without spaces at line ends."""
    from memmodel.report.console import Screen, text

    if sys.stdout.isatty():
        Screen().print(*parts, sep="\n")
    else:
        sys.stdout.write("".join(text(part, width=80) for part in parts))


def print_json(data: Any) -> None:
    """Print as indented JSON."""
    import json

    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def pictures(function: Callable[..., Sequence[Any]]) -> Any:
    """Let a command that returns pictures draw them on the screen or into a file, or print their numbers as JSON."""

    @click.option("--output", "-o", metavar="FILE", help="Draw into FILE.svg or FILE.png, not into the terminal.")
    @force_option
    @click.option("--data", "--json", "data", is_flag=True, help="The plotted numbers as JSON, see docs/pictures.md.")
    @wraps(function)
    def run(*args: Any, output: str | None, force: bool, data: bool, **given: Any) -> None:
        if output is not None:
            check_picture(output, force)
        put(function(*args, **given), output, data)

    return run


def put(drawn: Sequence[Any], output: str | None, data: bool) -> None:
    """Draw pictures of one kind on the screen or into a file, or print their numbers."""
    if data:
        from memmodel.report.json import pictures_dict

        print_json(pictures_dict(drawn))
    elif output is None:
        show(*drawn)
    if output is not None:
        save(drawn, output)
        if not data:
            tell(output)


def save(drawn: Sequence[Any], output: str) -> None:
    """Draw pictures into a file. Raises UsageError where that cannot be."""
    from memmodel.report.figure import drawn as file_of

    write(output, file_of(drawn, kind_of(output)))


def writes(example: str, suffixes: Sequence[str], about: str) -> Callable[[Callable[..., str]], Any]:
    """Let a command that returns the text of a file write it where `--output` says; `about` describes the option."""

    def decorate(function: Callable[..., str]) -> Any:
        @click.option("--output", "-o", metavar="FILE", help=about)
        @force_option
        @click.option("--json", "as_json", is_flag=True, help="Say what was written as JSON.")
        @wraps(function)
        def run(*args: Any, output: str | None, force: bool, as_json: bool, **given: Any) -> None:
            if output is None:
                raise UsageError(f"{function.__module__.rpartition('.')[2]}: give the file to write, with {example}")
            check_output(output, force, suffixes)
            write(output, function(*args, kind=kind_of(output), **given).encode(errors="replace"))
            tell(output, as_json)

        return run

    return decorate


def check_picture(output: str, force: bool) -> None:
    """Raise UsageError unless a picture can be drawn into the file."""
    check_output(output, force, PICTURES)
    check_plotting()


def check_output(output: str, force: bool, suffixes: Sequence[str]) -> None:
    """Raise UsageError unless the file's kind is known, and it is not there yet or may be overwritten."""
    if os.path.splitext(output)[1].lower() not in suffixes:
        raise UsageError(f"{output or repr(output)}: expected a file name that ends in {' or '.join(suffixes)}")
    check_free(output, force)


def check_free(output: str, force: bool) -> None:
    """Raise UsageError for a file that is there already, unless it may be overwritten."""
    if os.path.exists(output) and not force:
        raise UsageError(f"{output} exists: add --force to overwrite it, or choose another name")


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


def kind_of(output: str) -> str:
    """The kind of file that a name asks for: "svg", "html", "json"."""
    return os.path.splitext(output)[1].lower().removeprefix(".")


def write(output: str, content: bytes) -> None:
    """Write a whole file. Raises UsageError where that cannot be."""
    try:
        with open(output, "wb") as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"{output} can't be written ({error.strerror}): choose another place with -o") from None


def tell(output: str, as_json: bool = False) -> None:
    """Say that a file has been written."""
    size = os.path.getsize(output)
    if as_json:
        print_json({"schema": 1, "file": output, "bytes": size})
    else:
        click.echo(f"wrote {output} ({size:,} bytes)")


_BARS = dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True))
_ASCII = _BARS | {
    "·": "*",
    "≥": ">=",
    "≤": "<=",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{EN DASH}": "-",
    "√": "sqrt",
    "▼": "v",
    "✖": "x",
    "…": "...",
}


def make_printable(*streams: TextIO) -> None:
    """Let streams write every character: in ASCII those that their encoding lacks, as in the C locale."""
    codecs.register_error("plain", _replace)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(plain, error.object[error.start : error.end])), error.end


def plain(character: str) -> str:
    """One character in ASCII: "^2" for "²", "?" where nothing is like it."""
    if character in _ASCII:
        return _ASCII[character]
    raised = "^" if unicodedata.decomposition(character).startswith("<super>") else ""
    return raised + (unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?")
