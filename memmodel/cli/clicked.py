"""The commands as click's: for help, completion, the book, and command lines that are more than options with values."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any

import click

from memmodel import __version__
from memmodel.base.errors import UsageError, unknown
from memmodel.cli.commands import COMMANDS, Command, Kind, Parameter
from memmodel.cli.output import end_by_closed_pipe


class ClickCommand(click.Command):
    """A command that refuses an empty value: "" is a variable that a script left unset, not a choice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and name the first empty value. Raises UsageError."""
        rest = super().parse_args(ctx, args)
        for param in self.params:
            given = ctx.params.get(param.name or "")
            if given == "" or (isinstance(given, tuple) and "" in given):
                raise UsageError(f"{param.opts[0]} '': expected a value, or leave {param.opts[0]} out")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, those with a title of their own after the others."""
        titles: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                titles.setdefault(getattr(param, "title", "Options"), []).append(record)
        for title in sorted(titles, key=lambda each: each != "Options"):
            with formatter.section(title):
                formatter.write_dl(titles[title])


class KindType(click.ParamType):  # type: ignore[type-arg]
    """A `Kind` as click's type."""

    def __init__(self, kind: Kind) -> None:
        self.name, self._read = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value. Raises UsageError for text that has none."""
        return self._read(str(value), param.opts[0] if param else self.name)


class TitledOption(click.Option):
    """An option that help lists below a title.

    Its help lists its valid names in place of {names}: they are imported only to print help and to complete a value.
    """

    def __init__(self, *args: Any, title: str = "Options", names: str = "", **settings: Any) -> None:
        self.title, self._table = title, names
        super().__init__(*args, shell_complete=self._completed if names else None, **settings)

    @property
    def help(self) -> str:
        """The help text."""
        return self._text.format(names=", ".join(self._names())) if "{names}" in self._text else self._text

    @help.setter
    def help(self, text: str | None) -> None:
        self._text = text or ""

    def _names(self) -> list[str]:
        found = resolve_name(self._table)
        return list(found() if callable(found) else found)

    def _completed(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in self._names() if name.startswith(incomplete.casefold())]


def clicked(command: Command) -> click.Command:
    """A command as click's."""
    epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in command.examples) if command.examples else None
    return ClickCommand(
        command.name,
        callback=command.function,
        params=[_parameter(one) for one in command.parameters],
        help=command.function.__doc__,
        epilog=epilog,
    )


def _parameter(one: Parameter) -> click.Parameter:
    settings = dict(one.settings)
    if isinstance(settings.get("type"), Kind):
        settings["type"] = KindType(settings["type"])
    return click.Argument(one.words, **settings) if one.kind == "argument" else TitledOption(one.words, **settings)


@contextmanager
def closed_pipe_ends() -> Iterator[None]:
    """A closed pipe ends the process here, where click would exit with status 1."""
    try:
        yield
    except BrokenPipeError:
        end_by_closed_pipe()


class LazyGroup(click.Group):
    """A group that imports a command only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        return clicked(importlib.import_module(f"memmodel.cli.{cmd_name}").command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError with the nearest names for one that does not exist."""
        if args and args[0] not in COMMANDS:
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        """Parse, and print the help where it is asked for."""
        with closed_pipe_ends():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with closed_pipe_ends():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


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


def run(words: Sequence[str]) -> Any:
    """Run a command line. Raises UsageError for what click refuses, and KeyboardInterrupt for an interruption."""
    try:
        return cli.main(list(words), prog_name="memmodel", standalone_mode=False)
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        raise UsageError(f"{error.format_message().rstrip('.')}; see --help") from None


def __getattr__(name: str) -> click.Command:
    """A command by its name, for the book's pages."""
    if name in COMMANDS:
        return clicked(importlib.import_module(f"memmodel.cli.{name}").command)
    raise AttributeError(name)
