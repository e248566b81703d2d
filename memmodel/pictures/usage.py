"""Allocated and reserved bytes at each event of a step: `memmodel.replay`, event by event instead of phase by phase."""

from memmodel.allocator import AllocatorConfig, Block, CachingAllocator
from memmodel.cublas import Workspace, workspace
from memmodel.fitting import STEPS, room_bytes
from memmodel.gpus import Gpu
from memmodel.prediction import Memory
from memmodel.program import Alloc, Event, Free, Launch, Mark, Program

Usage = tuple[int, int]


def usage_by_event(
    program: Program, torch: str, gpu: Gpu, memory: Memory, config: AllocatorConfig | None = None, times: int = STEPS
) -> list[Usage]:
    """(allocated, reserved) bytes at each event of the step that `memory` describes, from the "forward" mark on.

    As there: with endless memory, or with the GPU's where a step fits that would otherwise take more; `torch` is its
    version. The last of so many `times`: 1 for a program that holds several steps.
    """
    gemms = workspace(torch, gpu.compute_capability)
    endless = _Steps(program, CachingAllocator(config=config), gemms)
    found = endless.last(times)
    room = room_bytes(gpu)
    if room is None or not memory.fits or endless.reserved_peak <= room:
        return found
    return _Steps(program, CachingAllocator(room, config), gemms).last(times)


class _Steps:
    """A program's steps, one after the other, on an allocator whose cache fills in the first of them."""

    def __init__(self, program: Program, allocator: CachingAllocator, gemms: Workspace) -> None:
        self.allocator, self.gemms = allocator, gemms
        self.blocks: dict[int, Block | None] = {}
        self.threads: set[str] = set()
        self.reserved_peak = 0
        first = next(i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward")
        self.step = program.events[first:]
        for event in program.events[:first]:
            self._after(event)

    def last(self, times: int) -> list[Usage]:
        """The last step's usage."""
        for _ in range(times):
            found = [self._after(event) for event in self.step]
        return found

    def _after(self, event: Event) -> Usage:
        """Usage after an event; a workspace that lives only for its kernel counts."""
        allocator = self.allocator
        if isinstance(event, Alloc):
            self.blocks[event.key] = allocator.malloc(event.nbytes)
        elif isinstance(event, Free):
            allocator.free(self.blocks.pop(event.key))
        passing = self._workspace(event) if isinstance(event, Launch) else None
        usage = allocator.allocated, allocator.reserved
        allocator.free(passing)
        self.reserved_peak = max(self.reserved_peak, allocator.reserved)
        return usage

    def _workspace(self, launch: Launch) -> Block | None:
        """Take a matrix product's workspace; returns one to give back after the kernel."""
        if not launch.cublas or not self.gemms.nbytes:
            return None
        if self.gemms.per_call:
            return self.allocator.malloc(self.gemms.nbytes)
        if launch.thread not in self.threads:
            self.threads.add(launch.thread)
            self.allocator.malloc(self.gemms.nbytes)
        return None
