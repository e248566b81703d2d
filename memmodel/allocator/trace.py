"""A recorded allocator trace and its replay: does the model choose the addresses of the real allocator.

A trace is the ordered events of a CUDA memory snapshot and the segments and blocks at its end. The state at the start
of the window is rebuilt from the end backwards.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from memmodel.allocator.blocks import SMALL, Block
from memmodel.allocator.caching import CachingAllocator
from memmodel.allocator.config import AllocatorConfig


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One entry of `device_traces`: "alloc", "free_completed", "segment_alloc", ...; `size` in bytes as requested."""

    action: str
    address: int
    size: int
    stream: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment at the end of a trace, and the (address, block size, requested size) of its blocks in use."""

    address: int
    size: int
    small: bool
    stream: int
    in_use: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TraceResult:
    """How a replay went: equal and differing addresses, new segments, and allocated bytes at the end."""

    equal: int
    different: int
    new_segments: int
    allocated: int
    recorded_allocated: int


def replay_trace(
    events: list[TraceEvent], segments: list[Segment], config: AllocatorConfig | None = None
) -> TraceResult:
    """Run the trace's requests through the allocator model and compare every address; stops at the first difference."""
    places = deque(event.address for event in events if event.action == "segment_alloc")
    allocator = CachingAllocator(config=config, place=lambda _: places.popleft() if places else 0)
    blocks = _start(allocator, events, segments)
    equal = new_segments = 0
    for event in events:
        if event.action == "alloc":
            before = len(places)
            block = allocator.malloc(event.size, event.stream)
            new_segments += before - len(places)
            if block is None or block.address != event.address:
                return TraceResult(equal, 1, new_segments, allocator.allocated, _in_use(segments))
            equal += 1
            blocks[event.address] = block
        elif event.action == "free_completed":
            allocator.free(blocks.pop(event.address))
    return TraceResult(equal, 0, new_segments, allocator.allocated, _in_use(segments))


def _in_use(segments: list[Segment]) -> int:
    return sum(size for segment in segments for _, size, _ in segment.in_use)


def _start(allocator: CachingAllocator, events: list[TraceEvent], segments: list[Segment]) -> dict[int, Block]:
    """Give the allocator the state before the first event; returns its blocks in use by address."""
    live = {address: requested for segment in segments for address, _, requested in segment.in_use}
    known = {segment.address: segment for segment in segments}
    for event in reversed(events):
        if event.action == "alloc":
            del live[event.address]
        elif event.action == "free_completed":
            live[event.address] = event.size
        elif event.action == "segment_alloc":
            known.pop(event.address, None)
    addresses = sorted(live)
    blocks: dict[int, Block] = {}
    for _, segment in sorted(known.items()):
        inside = addresses[
            bisect_left(addresses, segment.address) : bisect_left(addresses, segment.address + segment.size)
        ]
        laid_out = _blocks(allocator.config, segment, inside, live)
        allocator.adopt(laid_out)
        blocks |= {block.address: block for block in laid_out if block.allocated}
    return blocks


def _blocks(config: AllocatorConfig, segment: Segment, inside: list[int], live: dict[int, int]) -> list[Block]:
    """A segment's blocks: those in use, and the gaps; a gap too small to split off belongs to the block before."""
    blocks: list[Block] = []
    position = segment.address
    end = segment.address + segment.size
    for address, following in zip(inside, [*inside[1:], end], strict=False):
        if address > position:
            blocks.append(Block(segment.stream, address - position, segment.small, position))
        size = config.block_size(live[address])
        if not segment.small and following - (address + size) <= SMALL:
            size = following - address
        block = Block(segment.stream, size, segment.small, address)
        block.allocated, block.requested = True, live[address]
        blocks.append(block)
        position = address + size
    if position < end:
        blocks.append(Block(segment.stream, end - position, segment.small, position))
    return blocks
