"""The bytes in use by the line of code that allocated them."""

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any, NamedTuple

from memmodel.snapshot.history import Recorded
from memmodel.snapshot.snapshot import ALLOC, FREED, Snapshot

# PyTorch's own files; <eval_with_key> is code that torch.fx generates, <frozen ...> the importer's.
_TORCH = re.compile(r"(^|[/\\])(site|dist)-packages[/\\](torch|triton)[/\\]|^<(frozen |eval_with_key)")
_LIBRARY = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python3\.\d+[/\\]|^<")
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
    """Blocks in use that one line allocated.

    Attributes:
        stack: the calls that led to its largest block, innermost first, without C++ and PyTorch; never empty.
        nbytes, blocks: their bytes and number.
    """

    stack: tuple[CodeLine, ...]
    nbytes: int
    blocks: int

    @property
    def where(self) -> CodeLine:
        """The innermost line of the user's own code; of a library where there is none."""
        return next((line for line in self.stack if not _LIBRARY.search(line.filename)), self.stack[0])

    @property
    def library(self) -> CodeLine | None:
        """The line of a library that was called there and allocated; None where the user's own line did."""
        return None if self.stack[0] == self.where else self.stack[0]


def owners(snapshot: Snapshot, recorded: Recorded, at: int) -> list[Owner]:
    """The blocks in use before event `at`, by the user's line and the library's that it calls; the largest first."""
    without = NO_STACK if not snapshot.events else BEFORE  # a block from before the recording has no event with frames
    kept = _kept_frames(snapshot)
    live = {address: (block.size, kept.get(address), without) for address, block in recorded.start.items()}
    for index, event in enumerate(snapshot.events[:at]):
        if event.action == ALLOC:
            live[event.address] = recorded.granted[index], snapshot.frames[index], NO_STACK
        elif event.action == FREED:
            del live[event.address]
    blocks = (Owner(calls(frames, nothing), size, 1) for size, frames, nothing in live.values())
    found: dict[tuple[CodeLine, CodeLine | None], list[Owner]] = defaultdict(list)
    for block in blocks:
        found[block.where, block.library].append(block)
    listed = [_together(of_one_line) for of_one_line in found.values()]
    return sorted(listed, key=lambda owner: (-owner.nbytes, owner.where, owner.stack))


def _together(blocks: list[Owner]) -> Owner:
    largest = max(blocks, key=lambda block: block.nbytes)
    return Owner(largest.stack, sum(block.nbytes for block in blocks), len(blocks))


def _kept_frames(snapshot: Snapshot) -> dict[int, Any]:
    """The stacks, by address, of blocks in use from the first event to the end: only the blocks hold them."""
    freed = {event.address for event in snapshot.events if event.action == FREED}
    blocks = (block for segment in snapshot.segments for block in segment.blocks)
    return {block.address: block.frames for block in blocks if block.in_use and block.address not in freed}


def calls(frames: Any, without: str = NO_STACK) -> tuple[CodeLine, ...]:
    """The frames of a stack, innermost first, without C++, PyTorch, Triton and generated code; at least one.

    `without` names an empty stack. If nothing is left, the line is named by the autograd node that ran, since backward
    runs in a thread without Python frames.
    """
    known = [frame for frame in map(_frame, frames if isinstance(frames, list) else ()) if frame]
    if not known:
        return (CodeLine("", 0, without),)
    found = tuple(frame for frame in known if _is_shown(frame.filename))
    if found:
        return found
    node = next((match[1] for frame in known if (match := _NODE.search(frame.function))), None)
    return (CodeLine("", 0, f"{NO_FRAMES} ({node})" if node else NO_FRAMES),)


@lru_cache(maxsize=1 << 12)
def _is_shown(filename: str) -> bool:
    """Whether a file holds Python code that is neither PyTorch's nor generated."""
    return bool(_PYTHON.search(filename)) and not _TORCH.search(filename)


def _frame(frame: Any) -> CodeLine | None:
    """A recorded frame, with its names cut to a safe length; None for malformed data."""
    if not isinstance(frame, dict):
        return None
    filename, line, name = frame.get("filename"), frame.get("line"), frame.get("name")
    if not (isinstance(filename, str) and isinstance(line, int) and isinstance(name, str) and 0 <= line < 1 << 32):
        return None
    return CodeLine(filename[-_LONGEST:], line, name[:_LONGEST])
