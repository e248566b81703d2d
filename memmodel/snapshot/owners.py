"""The bytes in use by the line of code that allocated them."""

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
    """The line that allocated memory. Without a Python frame, `filename` is empty and `function` says what is known."""

    filename: str
    line: int
    function: str


class Owner(NamedTuple):
    """Blocks in use that one line allocated: their bytes and their number."""

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
    """The stacks, by address, of blocks in use from the first event to the end: only the blocks hold them."""
    freed = {event.address for event in snapshot.events if event.action == FREED}
    blocks = (block for segment in snapshot.segments for block in segment.blocks)
    return {block.address: block.frames for block in blocks if block.in_use and block.address not in freed}


def code_line(frames: Any, without: str = NO_STACK) -> CodeLine:
    """The innermost frame of the user's code in a stack, which is innermost first; `without` names an empty stack.

    Frames of C++, PyTorch, Triton and generated code are skipped. If none is left, the line is named by the autograd
    node that ran, since backward runs in a thread without Python frames.
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
    """A recorded frame, with its names cut to a safe length; None for malformed data."""
    if not isinstance(frame, dict):
        return None
    filename, line, name = (frame.get(key) for key in ("filename", "line", "name"))
    if not (isinstance(filename, str) and isinstance(line, int) and isinstance(name, str) and 0 <= line < 1 << 32):
        return None
    return CodeLine(filename[-_LONGEST:], line, name[:_LONGEST])
