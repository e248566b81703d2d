"""Names of storages, taken from the source code that made them.

A recording holds the place of each allocation (code object and instruction). Its name is that of the variable that the
value is assigned to, or else the text of the expression; a returned value takes its name in the caller.
"""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from types import CodeType
from typing import NamedTuple

from memmodel.events.program import Program, Site

LAYER_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.)")
_OWN_NAMES = {
    "max indices",
    "dropout mask",
    "log-sum-exp",
    "rng state",
    "unused",
    "seed",
    "offset",
}  # second results, which have no name in the code
Span = tuple[int, int, int, int]  # line, column, end line, end column


class Origin(NamedTuple):
    """The place that made a value: its name there, the function, file and line."""

    name: str
    function: str
    file: str
    line: int


class _Source(NamedTuple):
    text: list[str]
    assigned: dict[Span, str]  # span of an assigned value -> the target's text
    returned: frozenset[Span]


def names(program: Program) -> dict[int, str]:
    """A name for every storage: its explicit one, that in the code, x.grad or grad(x), or else its operation's."""
    found: dict[int, str] = dict(program.names)
    for birth in program.births():
        if birth.key not in found:
            place = origin(birth.site)
            found[birth.key] = place.name if place and place.name and birth.op not in _OWN_NAMES else birth.op
    for key, of in program.gradients.items():
        if key in found and key not in program.names:
            found[key] = f"{found[of]}.grad" if of in program.names else f"grad({found.get(of, 'output')})"
    return found


def wildcard(name: str) -> str:
    """A parameter's name without numbers of layers: `blocks.3.mlp.weight` is `blocks.*.mlp.weight`."""
    return LAYER_NUMBER.sub("*", name)


def origin(site: Site | None) -> Origin | None:
    """The place in the user's code; None for autograd's temporaries, which have none."""
    if site is None:
        return None
    inner, _ = site.frames[0]
    function = inner.co_qualname.rpartition("<locals>.")[2]
    line = 0
    for depth, (code, instruction) in enumerate(site.frames):
        span = _span(code, instruction)
        if span is None:
            break
        line = line or span[0]
        source = _source(code.co_filename, span[0])
        if source is None:
            break
        if span in source.assigned:
            return Origin(source.assigned[span], function, inner.co_filename, line)
        if span not in source.returned:
            name = "output" if depth else _text(source, span)
            return Origin(name, function, inner.co_filename, line)
    return Origin("output", function, inner.co_filename, line)


@cache
def is_library(file: str) -> bool:
    """Whether a file is installed, or Python's own, rather than the user's."""
    return "site-packages" in file or "dist-packages" in file or file.startswith(os.path.dirname(os.__file__))


def users_frame(site: Site) -> tuple[CodeType, int]:
    """The innermost frame of the user's own code; the innermost of all where the library itself is what runs."""
    return next((frame for frame in site.frames if not is_library(frame[0].co_filename)), site.frames[0])


def line_of(frame: tuple[CodeType, int]) -> int:
    """The line of a frame; 0 where Python does not say."""
    span = _span(*frame)
    return span[0] if span else 0


@cache
def _span(code: CodeType, instruction: int) -> Span | None:
    position = next(islice(code.co_positions(), instruction // 2, None), None)
    if position is None or None in position:
        return None
    line, end_line, column, end_column = position
    return line, column, end_line, end_column  # type: ignore[return-value]


def _text(source: _Source, span: Span) -> str:
    line, column, end_line, end_column = span
    if line != end_line:
        return ""
    text = source.text[line - 1].encode()[column:end_column].decode()
    return text if len(text) <= 40 else text[:37] + "..."


@cache
def _source(filename: str, line: int) -> _Source | None:
    """The assignments and returns of a line; if it is no whole statement, the file is parsed instead."""
    lines = _lines(filename)
    if lines is None or line > len(lines):
        return None
    text = lines[line - 1]
    indent = len(text) - len(text.lstrip())
    try:
        return _read(ast.parse(text[indent:]), lines, line - 1, len(text[:indent].encode()))
    except SyntaxError:
        return _file(filename)


@cache
def _file(filename: str) -> _Source | None:
    lines = _lines(filename)
    try:
        return None if lines is None else _read(ast.parse("\n".join(lines)), lines)
    except SyntaxError:
        return None


@cache
def _lines(filename: str) -> list[str] | None:
    try:
        with open(filename, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return None


def _read(tree: ast.AST, lines: list[str], line: int = 0, column: int = 0) -> _Source:
    """Assignments, returns and lambda bodies of a tree whose text starts at `line` and `column` of the file."""

    def of(node: ast.expr) -> Span:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            node.lineno + line,
            node.col_offset + column,
            node.end_lineno + line,
            node.end_col_offset + column,
        )

    assigned: dict[Span, str] = {}
    returned: set[Span] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            assigned |= {of(value): ast.unparse(target) for value, target in _pairs(node.value, node.targets[0])}
        elif isinstance(node, ast.Return) and node.value is not None:
            returned.add(of(node.value))
        elif isinstance(node, ast.Lambda):
            returned.add(of(node.body))
    return _Source(lines, assigned, frozenset(returned))


def _pairs(value: ast.expr, target: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(value, target) of an assignment; a tuple assigned to a tuple gives a pair per element."""
    if isinstance(value, ast.Tuple) and isinstance(target, ast.Tuple) and len(value.elts) == len(target.elts):
        for v, t in zip(value.elts, target.elts, strict=True):
            yield from _pairs(v, t)
    else:
        yield value, target
