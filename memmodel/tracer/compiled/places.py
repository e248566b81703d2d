"""From a graph node's stack trace to a place in the user's code, as the recordings have it."""

import dis
import re
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import torch

from memmodel.events.program import Site

_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>\S+)')
_TORCH = str(Path(torch.__file__).parent)


def site_of(stack_trace: str | None) -> Site | None:
    """The user's frames of a stack trace, innermost first; None where it has none."""
    frames = _FRAME.findall(stack_trace or "")
    found = [_frame(file, int(line), name) for file, line, name in reversed(frames) if not file.startswith(_TORCH)]
    known = tuple(frame for frame in found if frame is not None)
    return Site(known) if known else None


@cache
def _frame(file: str, line: int, function: str) -> tuple[CodeType, int] | None:
    """The code object of that function and the instruction of the longest expression that starts on the line."""
    for code in _codes(file):
        if code.co_name == function.rpartition(".")[2]:
            spans = [(_length(i.positions), i.offset) for i in dis.get_instructions(code) if _is_value(i, line)]
            if spans:
                return code, max(spans)[1]
    return None


def _is_value(instruction: dis.Instruction, line: int) -> bool:
    """Whether an instruction computes something on the line, so that its text is an expression's."""
    place = instruction.positions
    known = place is not None and None not in place and place.lineno == line
    return known and not instruction.opname.startswith(("RETURN", "STORE"))


def _length(place: Any) -> tuple[int, int]:
    """(lines, columns) of an instruction's text."""
    return place.end_lineno - place.lineno, place.end_col_offset - place.col_offset


@cache
def _codes(file: str) -> tuple[CodeType, ...]:
    """Every code object of a file, outer before inner."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = [compile(text, file, "exec", dont_inherit=True)]
    except (OSError, SyntaxError, ValueError):
        return ()
    # The list grows as it is read: functions within functions too.
    for code in found:
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return tuple(found)
