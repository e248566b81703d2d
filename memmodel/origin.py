"""Names for storages, as the code that made them names them.

A recording notes where each allocation happened (code object and instruction). Here that place becomes the variable that
the value was assigned to, or the text of the expression; a returned value takes the name that the caller gives it.
"""

import ast
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import NamedTuple

from memmodel.program import Alloc, Program, Site

_OWN_NAMES = {"max indices", "dropout mask"}  # second results, which the code does not name
Span = tuple[int, int, int, int]  # line, column, end line, end column


class Origin(NamedTuple):
    """Where a value was made: its name there, the function, and file and line."""

    name: str
    function: str
    file: str
    line: int


class _Source(NamedTuple):
    text: list[str]
    assigned: dict[Span, str]  # span of an assigned value -> the target's text
    returned: frozenset[Span]


def names(program: Program) -> dict[int, str]:
    """A name for every storage: given, assigned in the code, `x.grad` or grad(x) for gradients, or the operation's."""
    found: dict[int, str] = dict(program.names)
    for event in program.events:
        if type(event) is Alloc and event.key not in found:
            place = origin(event.site)
            found[event.key] = place.name if place and place.name and event.op not in _OWN_NAMES else event.op
    for key, of in program.gradients.items():
        if key in found and key not in program.names:
            found[key] = f"{found[of]}.grad" if of in program.names else f"grad({found.get(of, 'output')})"
    return found


def origin(site: Site | None) -> Origin | None:
    """The place in the user's code, or None where there is none (autograd's own temporaries)."""
    if site is None:
        return None
    inner, _ = site.frames[0]
    line = 0
    for depth, (code, instruction) in enumerate(site.frames):
        span = _span(code, instruction)
        if span is None:
            break
        line = line or span[0]
        source = _source(code.co_filename)
        if source is None:
            break
        if span in source.assigned:
            return Origin(source.assigned[span], inner.co_qualname, inner.co_filename, line)
        if span not in source.returned:
            name = "output" if depth else _text(source, span)
            return Origin(name, inner.co_qualname, inner.co_filename, line)
    return Origin("output", inner.co_qualname, inner.co_filename, line)


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
def _source(filename: str) -> _Source | None:
    try:
        text = Path(filename).read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    assigned: dict[Span, str] = {}
    returned: set[Span] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            _note(assigned, node.value, node.targets[0])
        elif isinstance(node, ast.Return) and node.value is not None:
            returned.add(_of(node.value))
        elif isinstance(node, ast.Lambda):
            returned.add(_of(node.body))
    return _Source(text.splitlines(), assigned, frozenset(returned))


def _note(assigned: dict[Span, str], value: ast.expr, target: ast.expr) -> None:
    """Tuples assigned to tuples count element by element."""
    if isinstance(value, ast.Tuple) and isinstance(target, ast.Tuple) and len(value.elts) == len(target.elts):
        for v, t in zip(value.elts, target.elts, strict=True):
            _note(assigned, v, t)
    else:
        assigned[_of(value)] = ast.unparse(target)


def _of(node: ast.expr) -> Span:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
