"""`memmodel completion`."""

import click

from memmodel.base.errors import choice
from memmodel.cli.commands import argument, subcommand

_SHELLS = ("bash", "zsh", "fish")


@subcommand("completion", 'eval "$(memmodel completion bash)"')
@argument("shell", default="bash")
def command(shell: str) -> None:
    """Print the completion script of a SHELL: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    from memmodel.cli import cli

    found = get_completion_class(choice("shell", shell, _SHELLS))
    assert found is not None
    click.echo(found(cli, {}, "memmodel", "_MEMMODEL_COMPLETE").source())
