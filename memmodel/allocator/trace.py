"""A recorded allocator trace and its replay: does the model choose the addresses of the real allocator.

A trace is the ordered events of a CUDA memory snapshot and the segments and blocks at its end. The state at the start
of the window is rebuilt from the end backwards. One thing a trace does not tell: whether a block that was freed in the
window had kept a rest too small to split off when a free block follows it; it is taken to have had none.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memmodel.allocator.blocks import SMALL, SMALL_SEGMENT, Block
from memmodel.allocator.caching import CachingAllocator
from memmodel.allocator.config import AllocatorConfig
from memmodel.allocator.segments import ExpandableSegments

Live = dict[int, tuple[int, int]]  # address -> bytes requested, and of the block


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One entry of `device_traces`: "alloc", "free_completed", "segment_alloc", "segment_map", ...; `size` in bytes."""

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
    """Run the trace's requests through the allocator model and compare every address; stops at the first difference.

    With expandable segments a segment is a mapped range, as in a snapshot. What the trace gives back to the driver (an
    emptied cache, a retry after running out) is given back by the model too.
    """
    placed: list[int] = []  # where the driver put what the next request needed
    allocator = CachingAllocator(config=config, place=lambda: placed[0] if placed else None)
    blocks = start_state(allocator, events, segments)
    equal = new_segments = 0
    for event in events:
        if event.action in ("segment_alloc", "segment_map"):
            placed.append(event.address)
        elif event.action in ("segment_free", "segment_unmap"):
            allocator.give_back(event.address)
        elif event.action == "free_completed":
            allocator.free(blocks.pop(event.address))
        elif event.action == "alloc":
            reserved = allocator.reserved
            block = allocator.malloc(event.size, event.stream)
            new_segments += allocator.reserved > reserved
            placed.clear()
            if block is None or block.address != event.address:
                return TraceResult(equal, 1, new_segments, allocator.allocated, _in_use(segments))
            equal += 1
            blocks[event.address] = block
    return TraceResult(equal, 0, new_segments, allocator.allocated, _in_use(segments))


def _in_use(segments: list[Segment]) -> int:
    return sum(size for segment in segments for _, size, _ in segment.in_use)


def start_state(allocator: CachingAllocator, events: list[TraceEvent], segments: list[Segment]) -> dict[int, Block]:
    """Give the allocator the state before the first event; returns its blocks in use by address."""
    live = {address: (requested, size) for segment in segments for address, size, requested in segment.in_use}
    for event in reversed(events):
        if event.action == "alloc":
            del live[event.address]
        elif event.action == "free_completed":
            live[event.address] = event.size, allocator.config.block_size(event.size)
    rebuilt = _ranges if allocator.config.expandable_segments else _whole_segments
    blocks: dict[int, Block] = {}
    for laid_out in rebuilt(allocator.config, events, segments, live):
        allocator.adopt(laid_out)
        blocks |= {block.address: block for block in laid_out if block.allocated}
    return blocks


def _whole_segments(
    config: AllocatorConfig, events: list[TraceEvent], segments: list[Segment], live: Live
) -> Iterator[list[Block]]:
    """The blocks of each segment that was there before the first event."""
    known = {segment.address: segment for segment in segments}
    for event in reversed(events):
        if event.action == "segment_alloc":
            known.pop(event.address, None)
        elif event.action == "segment_free":
            known[event.address] = Segment(event.address, event.size, event.size == SMALL_SEGMENT, event.stream, ())
    addresses = sorted(live)
    for _, segment in sorted(known.items()):
        yield _blocks(config, segment, addresses, live)


def _ranges(
    config: AllocatorConfig, events: list[TraceEvent], segments: list[Segment], live: Live
) -> Iterator[list[Block]]:
    """The blocks of each expandable range, mapped and not, before the first event.

    A range starts at the lowest page seen of its stream and pool: allocators fill it from there.
    """
    addresses = sorted(live)
    for (stream, small), (mapped, base) in _mapped_pages(config, events, segments).items():
        page = SMALL_SEGMENT if small else config.large_segment
        end = base + ExpandableSegments.RANGE // page * page
        blocks: list[Block] = []
        position = base
        for first, size in _runs(sorted(mapped), page):
            if first > position:
                blocks.append(_unmapped(stream, small, position, first - position))
            blocks += _blocks(config, Segment(first, size, small, stream, ()), addresses, live)
            position = first + size
        blocks.append(_unmapped(stream, small, position, end - position))
        for block in blocks:
            block.base = base
        if mapped:
            yield blocks


def _mapped_pages(
    config: AllocatorConfig, events: list[TraceEvent], segments: list[Segment]
) -> dict[tuple[int, bool], tuple[set[int], int]]:
    """(stream, small) -> the pages mapped before the first event, and the lowest address ever mapped."""
    found: dict[tuple[int, bool], tuple[set[int], int]] = {}

    def change(stream: int, small: bool, address: int, size: int, mapped: bool) -> None:
        pages, base = found.get((stream, small), (set(), address))
        span = set(range(address, address + size, SMALL_SEGMENT if small else config.large_segment))
        found[stream, small] = (pages | span if mapped else pages - span), min(base, address)

    for segment in segments:
        change(segment.stream, segment.small, segment.address, segment.size, mapped=True)
    for event in reversed(events):
        if event.action in ("segment_map", "segment_unmap"):
            small = event.size % config.large_segment != 0
            change(event.stream, small, event.address, event.size, mapped=event.action == "segment_unmap")
    return found


def _runs(pages: Iterable[int], page: int) -> Iterator[tuple[int, int]]:
    """(address, bytes) of each run of adjacent pages."""
    start = end = None
    for address in pages:
        if address != end:
            if start is not None and end is not None:
                yield start, end - start
            start = address
        end = address + page
    if start is not None and end is not None:
        yield start, end - start


def _unmapped(stream: int, small: bool, address: int, size: int) -> Block:
    return Block(stream, size, small, address, mapped=False)


def _blocks(config: AllocatorConfig, segment: Segment, addresses: list[int], live: Live) -> list[Block]:
    """A segment's blocks: those in use, and the gaps; a gap too small to split off belongs to the block before."""
    end = segment.address + segment.size
    inside = addresses[bisect_left(addresses, segment.address) : bisect_left(addresses, end)]
    absorbs = 0 if segment.small or config.expandable_segments else SMALL
    blocks: list[Block] = []
    position = segment.address
    for address, following in zip(inside, [*inside[1:], end], strict=False):
        if address > position:
            blocks.append(Block(segment.stream, address - position, segment.small, position))
        requested, size = live[address]
        if following - (address + size) <= absorbs:
            size = following - address
        block = Block(segment.stream, size, segment.small, address)
        block.allocated, block.requested = True, requested
        blocks.append(block)
        position = address + size
    if position < end:
        blocks.append(Block(segment.stream, end - position, segment.small, position))
    return blocks
