"""Output of commands: to the screen, as JSON, or into a file, which is overwritten only with --force."""

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import wraps
from typing import Any, NoReturn, TextIO

from memmodel.base.errors import UsageError
from memmodel.cli.commands import option

PICTURES = (".svg", ".png")
force_option = option("--force", is_flag=True, help="Overwrite the output file.")


def show(*parts: Any) -> None:
    """Print in the terminal's width; into a pipe or file in 80 columns, without spaces at line ends."""
    from memmodel.report.console import Screen, text

    if sys.stdout.isatty():
        Screen().print(*parts, sep="\n")
    else:
        sys.stdout.write("".join(text(part, width=80) for part in parts))


def print_json(data: Any) -> None:
    """Print as indented JSON."""
    import json

    sys.stdout.write(json.dumps(data, indent=2) + "\n")


@contextmanager
def progress_bar(length: int, label: str, shortest: int = 0) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal's standard error for work above two seconds; None for less than `shortest`, or elsewhere."""
    if length < shortest or not sys.stderr.isatty():
        yield None
        return
    import click

    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


_SILENT = 1.0  # seconds


@contextmanager
def busy(words: str) -> Iterator[Callable[[str], None]]:
    """These words and a moving mark on a terminal's standard error, once work has taken a second.

    What it yields changes the words.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    import threading

    status = _Status(words, threading.Lock())
    timer = threading.Timer(_SILENT, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield status.say
    finally:
        timer.cancel()
        status.stop()


class _Status:
    """Words beside a moving mark, between `start` and `stop`; both may come at once, from two threads."""

    def __init__(self, words: str, lock: Any) -> None:
        self.words, self.lock, self.stopped = words, lock, False
        self.status: Any = None

    def start(self) -> None:
        from rich.console import Console

        with self.lock:
            if not self.stopped:  # the work may have ended while the timer was about to call
                self.status = Console(stderr=True).status(self.words)
                self.status.start()

    def say(self, words: str) -> None:
        with self.lock:
            self.words = words
            if self.status is not None:
                self.status.update(words)

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            if self.status is not None:
                self.status.stop()


@contextmanager
def lent_streams() -> Iterator[None]:
    """What a user's code prints goes to standard error; where it closes or replaces the streams, they come back."""
    with redirect_stdout(_Lent(sys.stderr)), redirect_stderr(_Lent(sys.stderr)):
        yield


class _Lent(io.TextIOBase):
    """Writes to a stream, which stays open where this is closed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()


def pictures(function: Callable[..., Sequence[Any]]) -> Any:
    """Let a command that returns pictures draw them on the screen or into a file, or print their numbers as JSON."""

    @option("--output", "-o", metavar="FILE", help="Draw into FILE.svg or FILE.png, not into the terminal.")
    @force_option
    @option("--data", "--json", "data", is_flag=True, help="The plotted numbers as JSON, see docs/pictures.md.")
    @wraps(function)
    def run(*args: Any, output: str | None, force: bool, data: bool, **given: Any) -> None:
        if output is not None:
            check_picture(output, force)
        with busy("computing the picture"):
            drawn = function(*args, **given)
        put(drawn, output, data)

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
    """Draw pictures into a file. Raises UsageError if it cannot be written."""
    from memmodel.report.figure import drawn as file_of

    write(output, file_of(drawn, kind_of(output)))


def writes(example: str, suffixes: Sequence[str], about: str) -> Callable[[Callable[..., str]], Any]:
    """Give a command that returns a file's text the options to write it; `about` is the help of `--output`."""

    def decorate(function: Callable[..., str]) -> Any:
        @option("--output", "-o", metavar="FILE", help=about)
        @force_option
        @option("--json", "as_json", is_flag=True, help="Say what was written as JSON.")
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
    """Raise UsageError for an unknown suffix, or a file that exists and may not be overwritten."""
    if os.path.splitext(output)[1].lower() not in suffixes:
        raise UsageError(f"{output or repr(output)}: expected a file name that ends in {' or '.join(suffixes)}")
    check_free(output, force)


def check_free(output: str, force: bool) -> None:
    """Raise UsageError for a file that exists, unless `force` lets it be overwritten, and for what is no file."""
    if os.path.exists(output) and not force:
        raise UsageError(f"{output} exists: add --force to overwrite it, or choose another name")
    if "\0" in output or (os.path.exists(output) and not os.path.isfile(output)):  # to open a pipe waits for a reader
        raise UsageError(f"{output} is not a regular file: choose another name")


def check_plotting() -> None:
    """Raise UsageError, which says what to install, if the plotting library is missing."""
    try:
        import memmodel.report.figure  # noqa: F401 - the first that needs it
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("memmodel"):
            raise
        raise UsageError(
            f"pictures in files need {missing.name}, which is not installed: run pip install 'memmodel[plot]'"
        ) from missing


def kind_of(output: str) -> str:
    """The suffix of a file name, without its dot: "svg", "html", "json"."""
    return os.path.splitext(output)[1].lower().removeprefix(".")


def write(output: str, content: bytes) -> None:
    """Write a whole file. Raises UsageError if it cannot be written."""
    with opened(output, "wb") as file:
        file.write(content)


@contextmanager
def opened(output: str, mode: str = "w") -> Iterator[Any]:
    """A file to write. Raises UsageError if it cannot be written."""
    try:
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
        with open(output, mode, encoding=encoding, newline=newline) as file:
            yield file
    except OSError as error:
        raise UsageError(f"{output} can't be written ({error.strerror}): choose another place with -o") from None


def tell(output: str, as_json: bool = False) -> None:
    """Say that a file has been written."""
    size = os.path.getsize(output)
    if as_json:
        print_json({"schema": 1, "file": output, "bytes": size})
    else:
        print(f"wrote {output} ({size:,} bytes)")


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
    "●": "o",
    "■": "#",
    "◆": "<",
    "…": "...",
}


def make_printable(*streams: TextIO) -> None:
    """Let streams write every character, with ASCII for those that their encoding lacks (the C locale's)."""
    codecs.register_error("plain", _replace)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(plain, error.object[error.start : error.end])), error.end


def plain(character: str) -> str:
    """A character in ASCII: "^2" for "²", "?" if nothing resembles it."""
    if character in _ASCII:
        return _ASCII[character]
    raised = "^" if unicodedata.decomposition(character).startswith("<super>") else ""
    return raised + (unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?")


def end_by_closed_pipe() -> NoReturn:
    """End by SIGPIPE when the reader has gone (`| head -1`), as other commands do."""
    import signal

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(1)
