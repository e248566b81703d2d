"""The command line. A command parses, calls the library and renders; wrong use is one sentence and exit status 2."""

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from memmodel.base.errors import UsageError
from memmodel.cli.commands import COMMANDS
from memmodel.cli.output import end_by_closed_pipe, make_printable

if TYPE_CHECKING:
    from memmodel.cli.clicked import cli as cli


def main() -> None:
    """Entry point: run the command and end with its status."""
    status = run() if _opened_streams() else _fail("standard output is closed: give a file, a pipe or /dev/null")
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        os._exit(status)  # the error has been reported; the interpreter would flush again, and fail again
    if status:
        sys.exit(status)
    os._exit(0)  # skip the interpreter's shutdown, which takes longer than some commands


def _opened_streams() -> bool:
    """Make the standard streams writable in any encoding, and return whether standard output was open.

    Closed ones are opened on the null device: else the next file opened would get their number, and what is printed.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - open to the end
    make_printable(sys.stdout, sys.stderr)
    return "stdout" not in closed


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command (of `sys.argv`, unless given) and return its exit status.

    Errors of use are one line and status 2, an interruption is 130; a closed pipe ends the process as SIGPIPE does.
    """
    try:
        status = _ran(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except UsageError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        end_by_closed_pipe()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        problem = f"{where}{error.strerror or error}: see that there is room and permission to read and write"
        return _fail(str(UsageError(problem)))


def _ran(words: Sequence[str]) -> Any:
    """What the command returns. A plain command line is read without click."""
    if words and words[0] in COMMANDS:
        command = importlib.import_module(f"memmodel.cli.{words[0]}").command
        values = command.values(words[1:])
        if values is not None:
            return command.function(**values)
    return importlib.import_module("memmodel.cli.clicked").run(words)


def __getattr__(name: str) -> Any:
    """click's group of all commands, imported when it is asked for."""
    if name == "cli":
        return importlib.import_module("memmodel.cli.clicked").cli
    raise AttributeError(f"module 'memmodel.cli' has no attribute {name!r}")


def _fail(message: str, status: int = 2) -> int:
    """Write an error, as one line without control characters, and return the status."""
    with suppress(OSError):  # if standard error is closed, the status alone must do
        sys.stderr.write(f"memmodel: {''.join(c if c.isprintable() else '?' for c in message)}\n")
        sys.stderr.flush()
    return status
