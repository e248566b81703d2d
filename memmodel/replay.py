"""A program run through the caching allocator: allocated and reserved bytes by phase, and out of memory."""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from memmodel.allocator import Block, CachingAllocator, OutOfMemory
from memmodel.cublas import Workspace
from memmodel.program import Alloc, Event, Free, Launch, Mark, Program


class Usage(NamedTuple):
    """Allocator statistics of a phase, in bytes: at its start, the peaks within it, and at its end."""

    allocated_start: int
    allocated_peak: int
    reserved_peak: int
    allocated_end: int
    reserved_end: int


class Replay(NamedTuple):
    """The phases of a replayed program, in order (a phase that repeats appears each time), and what did not fit."""

    phases: tuple[tuple[str, Usage], ...]
    out_of_memory: OutOfMemory | None
    retries: int

    def last(self, phase: str) -> Usage:
        """The last phase of that name: the steady state after the warm-up."""
        return next(usage for name, usage in reversed(self.phases) if name == phase)


def replay(program: Program, allocator: CachingAllocator, workspace: Workspace, steps: int = 1) -> Replay:
    """Give `allocator` the program's events, those from the first "forward" on `steps` times over.

    `reserved` depends on the steps before: the cache settles in the first two. Peaks are reset at each mark; the
    replay stops at the first request that does not fit.
    """
    blocks: dict[int, Block | None] = {}
    threads: set[str] = set()
    phases: list[tuple[str, Usage]] = []
    phase, start = "start", allocator.allocated
    malloc, free = allocator.malloc, allocator.free

    def finish() -> None:
        usage = Usage(start, allocator.allocated_peak, allocator.reserved_peak, allocator.allocated, allocator.reserved)
        phases.append((phase, usage))

    events = program.events if steps == 1 else _repeated(program.events, steps)
    for event in events:
        kind = type(event)
        if kind is Alloc:
            blocks[event.key] = malloc(event.nbytes)  # type: ignore[union-attr]
        elif kind is Free:
            free(blocks.pop(event.key))  # type: ignore[union-attr]
        elif kind is Launch:
            if event.cublas and workspace.nbytes:  # type: ignore[union-attr]
                if workspace.per_call:
                    free(malloc(workspace.nbytes))
                elif event.thread not in threads:  # type: ignore[union-attr]
                    threads.add(event.thread)  # type: ignore[union-attr]
                    malloc(workspace.nbytes)
        elif kind is Mark:
            finish()
            phase, start = event.phase, allocator.allocated  # type: ignore[union-attr]
            allocator.reset_peak()
        if allocator.failed is not None:
            break
    finish()
    return Replay(tuple(phases), allocator.failed, allocator.retries)


def _repeated(events: list[Event], steps: int) -> Iterable[Event]:
    first = next(i for i, event in enumerate(events) if isinstance(event, Mark) and event.phase == "forward")
    return chain(events[:first], *(events[first:] for _ in range(steps)))
