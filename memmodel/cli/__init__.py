"""The command line. A command parses, calls the library and renders; wrong use is one sentence and exit status 2."""

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from memmodel import __version__
from memmodel.cli.output import make_printable
from memmodel.errors import UsageError

_COMMANDS = {
    "predict": "Predict memory, work and time of attention, and what limits it.",
    "model": "Predict a whole model's training step or serving, and what fills its memory.",
    "compare": "Compare GPUs: fits, expected time, tokens a second and cost, the best first.",
    "max": "Find the largest size that fits, and the first that does not.",
    "formulas": "Print closed forms of memory and work, derived from the code that runs.",
    "gpus": "List GPUs, their values and the source of each value.",
    "models": "List the models that --like takes.",
    "timeline": "Draw what is in memory through one step.",
    "roofline": "Draw every kernel under the GPU's ceilings.",
    "frontier": "Draw the longest sequence that fits, by batch or heads.",
    "report": "Write a prediction as one HTML or Markdown file, with its pictures.",
    "explore": "Write one interactive page that computes predictions by itself.",
    "sweep": "Evaluate many configurations at once, as CSV or JSON.",
    "trace": "Trace your own PyTorch function: its memory as a formula and by line.",
    "replay": "Read a CUDA memory snapshot, and replay it under other settings.",
    "accuracy": "Compare the model with every run on record.",
    "validate": "Run attention for real, and compare with what was predicted.",
    "calibrate": "Measure this machine's rates, for expected times.",
    "completion": "Print the shell's completion script.",
}


_LONGEST_WORD = 300


class LazyGroup(click.Group):
    """A group that imports a command only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"memmodel.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError with the nearest names for one that does not exist."""
        if args and args[0] not in _COMMANDS:
            from memmodel.errors import unknown

            raise unknown("command", args[0], _COMMANDS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed pipe ends the process here, where click would exit with status 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _end_by_closed_pipe()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="memmodel")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """How much memory attention needs, how long it takes and what limits it: before you run it."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


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
        status = cli.main(arguments, prog_name="memmodel", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except UsageError as error:
        return _fail(str(error))
    except click.exceptions.Abort:
        return _fail("interrupted", 130)
    except click.ClickException as error:
        return _fail(f"{error.format_message().rstrip('.')}; see --help")
    except BrokenPipeError:
        _end_by_closed_pipe()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}: see that there is room and permission to read and write")


def _end_by_closed_pipe() -> NoReturn:
    """End by SIGPIPE when the reader has gone (`| head -1`), as other commands do."""
    import signal

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(1)


def _fail(message: str, status: int = 2) -> int:
    """Write an error, as one line without control characters, and return the status.

    Words longer than a path may be are cut: they are what was given, and say no more in full.
    """
    words = (word if len(word) <= _LONGEST_WORD else f"{word[:80]}..." for word in message.split(" "))
    with suppress(OSError):  # if standard error is closed, the status alone must do
        sys.stderr.write(f"memmodel: {''.join(c if c.isprintable() else '?' for c in ' '.join(words))}\n")
        sys.stderr.flush()
    return status
