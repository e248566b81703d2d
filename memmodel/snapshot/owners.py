"""The bytes in use by the line of code that allocated them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
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


class Stack(NamedTuple):
    """A stack as recorded and not yet checked, and what is known where it is empty."""

    frames: Any
    without: str


class Owner(NamedTuple):
    """Blocks in use that one line allocated.

    Attributes:
        where: the innermost line of the user's own code; of a library where there is none.
        library: the line of a library that was called there and allocated; None where the user's own line did.
        nbytes, blocks: their bytes and number.
        recorded: the stack that led to the largest of them.
    """

    where: CodeLine
    library: CodeLine | None
    nbytes: int
    blocks: int
    recorded: Stack

    @property
    def stack(self) -> tuple[CodeLine, ...]:
        """The calls that led to the largest block, innermost first, without C++ and PyTorch; never empty."""
        return tuple(calls(self.recorded, {}))


Lines = dict[int, CodeLine | None]  # by the id of a frame: a snapshot has each frame once, for all stacks that it is in


def owners(snapshot: Snapshot, recorded: Recorded, at: int) -> list[Owner]:
    """The blocks in use before event `at`, by the user's line and the library's that it calls; the largest first."""
    lines: Lines = {}
    found: dict[tuple[CodeLine, CodeLine | None], list[tuple[int, Stack]]] = defaultdict(list)
    for nbytes, stack in _in_use(snapshot, recorded, at):
        found[place(calls(stack, lines))].append((nbytes, stack))
    listed = []
    for (where, library), blocks in found.items():
        _, largest = max(blocks, key=lambda block: block[0])
        listed.append(Owner(where, library, sum(nbytes for nbytes, _ in blocks), len(blocks), largest))
    return sorted(listed, key=lambda owner: (-owner.nbytes, owner.where, owner.library or ()))


def _in_use(snapshot: Snapshot, recorded: Recorded, at: int) -> Iterable[tuple[int, Stack]]:
    """The bytes and the stack of each block in use before event `at`."""
    without = NO_STACK if not snapshot.events else BEFORE  # a block from before the recording has no event with frames
    kept = _kept_frames(snapshot)
    live = {address: (block.size, Stack(kept.get(address), without)) for address, block in recorded.start.items()}
    for index, event in enumerate(snapshot.events[:at]):
        if event.action == ALLOC:
            live[event.address] = recorded.granted[index], Stack(snapshot.frames[index], NO_STACK)
        elif event.action == FREED:
            del live[event.address]
    return live.values()


def _kept_frames(snapshot: Snapshot) -> dict[int, Any]:
    """The stacks, by address, of blocks in use from the first event to the end: only the blocks hold them."""
    freed = {event.address for event in snapshot.events if event.action == FREED}
    blocks = (block for segment in snapshot.segments for block in segment.blocks)
    return {block.address: block.frames for block in blocks if block.in_use and block.address not in freed}


def place(stack: Iterable[CodeLine]) -> tuple[CodeLine, CodeLine | None]:
    """The innermost line of the user's own code, and the library's that it calls, as in an `Owner`."""
    lines = iter(stack)
    innermost = next(lines)
    where = next((line for line in chain((innermost,), lines) if not _is_library(line.filename)), innermost)
    return where, None if where == innermost else innermost


def calls(stack: Stack, lines: Lines) -> Iterator[CodeLine]:
    """The lines of a stack, innermost first, without C++, PyTorch, Triton and generated code; at least one.

    `lines` are those of frames read before, and then of these. If nothing is left, the line is named by the autograd
    node that ran, since backward runs in a thread without Python frames.
    """
    known = []
    shown = False
    for frame in stack.frames if isinstance(stack.frames, list) else ():
        if id(frame) not in lines:
            lines[id(frame)] = _frame(frame)
        line = lines[id(frame)]
        if line is None:
            continue
        known.append(line)
        if _is_shown(line.filename):
            shown = True
            yield line
    if not shown:
        node = next((match[1] for line in known if (match := _NODE.search(line.function))), None)
        yield CodeLine("", 0, stack.without if not known else f"{NO_FRAMES} ({node})" if node else NO_FRAMES)


@lru_cache(maxsize=1 << 12)
def _is_library(filename: str) -> bool:
    """Whether a file is a package's or Python's own."""
    return bool(_LIBRARY.search(filename))


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
