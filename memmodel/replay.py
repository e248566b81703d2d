"""A program's requests run through the caching allocator: allocated and reserved bytes, phase by phase, and out of memory."""

from dataclasses import dataclass

from memmodel.allocator import Block, CachingAllocator, OutOfMemory
from memmodel.cublas import Workspace
from memmodel.program import Alloc, Free, Launch, Mark, Program


@dataclass(frozen=True, slots=True)
class Usage:
    """Allocator statistics of a phase, in bytes: at its start, the peaks within it, and at its end."""

    allocated_start: int
    allocated_peak: int
    reserved_peak: int
    allocated_end: int
    reserved_end: int


@dataclass(frozen=True, slots=True)
class Replay:
    """The phases of a replayed program, in order (a phase that repeats appears each time), and what did not fit."""

    phases: tuple[tuple[str, Usage], ...]
    out_of_memory: OutOfMemory | None
    retries: int

    def last(self, phase: str) -> Usage:
        """The last phase of that name: the steady state after the warm-up."""
        return next(usage for name, usage in reversed(self.phases) if name == phase)


def replay(program: Program, allocator: CachingAllocator, workspace: Workspace) -> Replay:
    """Give `allocator` the program's events. Peaks are reset at each mark; stops at the first request that does not fit."""
    blocks: dict[int, Block | None] = {}
    threads: set[str] = set()
    phases: list[tuple[str, Usage]] = []
    phase, start = "start", allocator.allocated
    malloc, free = allocator.malloc, allocator.free

    def finish() -> None:
        usage = Usage(
            start, allocator.allocated_peak, allocator.reserved_peak, allocator.allocated, allocator.reserved
        )
        phases.append((phase, usage))

    for event in program.events:
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
