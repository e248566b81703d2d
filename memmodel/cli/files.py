"""What the commands that write files share: nothing is overwritten unasked, and failing is one sentence."""

import os
from collections.abc import Sequence

import click

from memmodel.errors import UsageError


def check_output(output: str, force: bool, suffixes: Sequence[str]) -> None:
    """Raise UsageError unless the file's kind is known, and it is not there yet or may be overwritten."""
    if os.path.splitext(output)[1].lower() not in suffixes:
        raise UsageError(f"{output or repr(output)}: expected a file name that ends in {' or '.join(suffixes)}")
    check_free(output, force)


def check_free(output: str, force: bool) -> None:
    """Raise UsageError for a file that is there already, unless it may be overwritten."""
    if os.path.exists(output) and not force:
        raise UsageError(f"{output} exists: add --force to overwrite it, or choose another name")


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


def tell(output: str) -> None:
    """Say that a file has been written."""
    click.echo(f"wrote {output} ({os.path.getsize(output):,} bytes)")
