"""Whose the bytes in use are, by line of code."""

import re
from collections import defaultdict
from typing import Any, NamedTuple

from memmodel.snapshot.history import Recorded
from memmodel.snapshot.snapshot import ALLOC, FREED, Snapshot

_TORCH = re.compile(r"(^|[/\\])(site|dist)-packages[/\\](torch|triton)[/\\]|^<(frozen |eval_with_key)")
_PYTHON = re.compile(r"\.py$|^<|ipykernel")
_NODE = re.compile(r"\b(\w*Backward\d*|AccumulateGrad)\b")
_LONGEST = 200  # characters of a name that are kept

BEFORE = "before the recording"
NO_STACK = "no stack recorded"
NO_FRAMES = "no Python frame"


class CodeLine(NamedTuple):
    """Where memory was asked for. Without a frame of Python, `function` says what is known and `filename` is empty."""

    filename: str
    line: int
    function: str


class Owner(NamedTuple):
    """Blocks in use that one line asked for."""

    where: CodeLine
    nbytes: int
    blocks: int


def owners(snapshot: Snapshot, recorded: Recorded, at: int) -> list[Owner]:
    """The blocks in use before event `at`, by the innermost frame outside PyTorch; the largest first, in bytes."""
    without = NO_STACK if not snapshot.events else BEFORE
    kept = _kept_frames(snapshot)
    live = {address: (block.size, kept.get(address), without) for address, block in recorded.start.items()}
    for index, event in enumerate(snapshot.events[:at]):
        if event.action == ALLOC:
            live[event.address] = recorded.granted[index], snapshot.frames[index], NO_STACK
        elif event.action == FREED:
            del live[event.address]
    found: dict[CodeLine, list[int]] = defaultdict(list)
    for size, frames, nothing in live.values():
        found[code_line(frames, nothing)].append(size)
    listed = [Owner(where, sum(blocks), len(blocks)) for where, blocks in found.items()]
    return sorted(listed, key=lambda owner: (-owner.nbytes, owner.where))


def _kept_frames(snapshot: Snapshot) -> dict[int, Any]:
    """The stacks, by address, of blocks in use from before the first event to the end: only blocks still know them."""
    freed = {event.address for event in snapshot.events if event.action == FREED}
    blocks = (block for segment in snapshot.segments for block in segment.blocks)
    return {block.address: block.frames for block in blocks if block.in_use and block.address not in freed}


def code_line(frames: Any, without: str = NO_STACK) -> CodeLine:
    """The innermost frame of the user's code in a stack, innermost first; `without` is what to say where there is none.

    Passed over are frames of C++, of PyTorch and Triton themselves, and of generated code. Where none is left, the
    autograd node that ran says most: backward runs in a thread without Python.
    """
    known = [frame for frame in map(_frame, frames if isinstance(frames, list) else ()) if frame]
    if not known:
        return CodeLine("", 0, without)
    for frame in known:
        if _PYTHON.search(frame.filename) and not _TORCH.search(frame.filename):
            return frame
    node = next((found[1] for frame in known if (found := _NODE.search(frame.function))), None)
    return CodeLine("", 0, f"{NO_FRAMES} ({node})" if node else NO_FRAMES)


def _frame(frame: Any) -> CodeLine | None:
    """A frame as recorded, its names cut; None for data of another form."""
    if not isinstance(frame, dict):
        return None
    filename, line, name = (frame.get(key) for key in ("filename", "line", "name"))
    if not (isinstance(filename, str) and isinstance(line, int) and isinstance(name, str) and 0 <= line < 1 << 32):
        return None
    return CodeLine(filename[-_LONGEST:], line, name[:_LONGEST])
