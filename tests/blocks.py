"""Every block of code in a page, and how it is kept true: run, made from a run, or marked as not run with a reason."""

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

import click
from markdown_it import MarkdownIt

from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.cli.commands import COMMANDS

REASONS = ("needs a GPU", "measures for minutes", "installs", "a drawing", "a formula", "a size that rules change")
_PARSER = MarkdownIt()
_MARK = re.compile(r"<!-- (transcript|example|not run): (.*?) -->\s*$")
_COMMAND = re.compile(r"^ *(?:\$ )?(memmodel(?: .*)?)$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code: its line, its language ("" where it is indented), its text, and the mark right above it."""

    line: int
    language: str
    text: str
    mark: str
    value: str


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page."""
    mark = ("", "")
    for token in _PARSER.parse(page):
        if token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            yield Block(line, token.info.strip(), token.content, *mark)
        found = _MARK.match(token.content) if token.type == "html_block" else None
        mark = (found[1], found[2]) if found else ("", "")


def complaint(block: Block) -> str | None:
    """What is wrong with a block's mark, or None."""
    if block.mark == "not run":
        return None if block.value in REASONS else f"{block.value!r} is no reason: there are {', '.join(REASONS)}"
    if not block.language:
        return "an indented block, or one without a language: fence it and name one"
    if block.language == "text":
        return None if block.mark else "text that no command printed: mark it"
    if block.language in ("python", "pycon", "toml") or block.language.startswith("{"):
        return None  # run, read as a GPU's file, or a directive that Sphinx follows
    return f"{block.language} is not run: mark it with a reason"


def commands(page: str) -> Iterator[str]:
    """Every `memmodel ...` that a page tells to type and that no transcript runs: in its blocks and in its text."""
    for block in blocks(page):
        if block.mark not in ("transcript", "example"):
            yield from (match[1] for match in _COMMAND.finditer(block.text))
    for token in _PARSER.parse(page):
        for child in token.children or ():
            if child.type == "code_inline" and re.match(r"memmodel( |$)", child.content):
                yield child.content


def misuse(line: str) -> str | None:
    """What is wrong with the words of a `memmodel ...` line; None for a command's bare name and for right ones."""
    name, *arguments = shlex.split(line, comments=True)[1:] or [""]
    if name and name not in COMMANDS:
        return f"{line}: no such command"
    if not arguments:
        return None
    try:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, arguments)
    except click.ClickException as error:
        return f"{line}: {error.format_message()}"
    except UsageError as error:
        return f"{line}: {error}"
    return None
