"""Every block of code in a page, and how it is kept true: run, made from a run, or marked as not run with a reason."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from markdown_it import MarkdownIt

REASONS = (
    "needs a GPU",
    "measures for minutes",
    "installs",
    "needs a file of yours",
    "a drawing",
    "a formula",
)
_PARSER = MarkdownIt()
_MARK = re.compile(r"<!-- (transcript|example|not run): (.*?) -->\s*$")
_COMMAND = re.compile(r"^(?:\$ )?(memmodel(?: .*)?)$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code: its line, its language ("" for an indented one), its text, and the mark above it."""

    line: int
    language: str
    text: str
    mark: str
    value: str


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page."""
    mark: tuple[str, str] = ("", "")
    for token in _PARSER.parse(page):
        if token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            yield Block(line, token.info.strip() if token.type == "fence" else "", token.content, *mark)
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
    """Every `memmodel ...` that a page tells to type but does not run: in its blocks and in its prose."""
    for token in _PARSER.parse(page):
        if token.type == "fence":
            if not re.match(r"\$ (memmodel|python) ", token.content) or token.info.strip() != "text":
                yield from (match[1] for match in _COMMAND.finditer(token.content))
        for child in token.children or ():
            if child.type == "code_inline" and re.match(r"memmodel( |$)", child.content):
                yield child.content
