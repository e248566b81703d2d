"""The state before the first event of a recording, reconstructed backwards from its end.

A block may keep a rest that is too small to split off, which the file does not hold for blocks that were freed. If a
free block followed, the first request served from there shows where the rest ended, since a request gets the front of a
free block. Otherwise the block is assumed to have had no rest.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.allocator.blocks import SMALL, SMALL_SEGMENT, Block
from memmodel.allocator.replay import Blocks
from memmodel.allocator.segments import ExpandableSegments
from memmodel.snapshot.history import StartBlock
from memmodel.snapshot.snapshot import ALLOC, FREED, GROW, SHRINK, Event, Segment, Snapshot


def start(snapshot: Snapshot, allocator: CachingAllocator, blocks: dict[int, StartBlock]) -> Blocks:
    """Give an empty allocator the state before the first event, and return its blocks in use by address.

    `blocks` are those of `recorded_blocks`.
    """
    layout = _Layout(snapshot, blocks)
    in_use: Blocks = {}
    for segment in layout.ranges() if snapshot.config.expandable_segments else layout.whole_segments():
        allocator.adopt(segment)
        in_use |= {block.address: block for block in segment if block.allocated}
    allocator.reset_peak()
    return in_use


class _Layout:
    """The layout of blocks and gaps in the segments before the first event."""

    def __init__(self, snapshot: Snapshot, blocks: dict[int, StartBlock]) -> None:
        self.config: AllocatorConfig = snapshot.config
        self.events, self.segments = snapshot.events, snapshot.segments
        self.live = blocks
        self.addresses = sorted(blocks)

    @cached_property
    def freed(self) -> list[tuple[int, int]]:
        """(address, size) of each block that is freed."""
        return sorted((event.address, event.size) for event in self.events if event.action == FREED)

    @cached_property
    def placed(self) -> list[tuple[int, int]]:
        """(address, event) of each request."""
        return sorted((event.address, i) for i, event in enumerate(self.events) if event.action == ALLOC)

    def whole_segments(self) -> Iterator[list[Block]]:
        """The blocks of each segment held before the first event."""
        known = {segment.address: segment for segment in self.segments}
        for event in reversed(self.events):  # undone from the end: what was made was not there, what was freed was
            if event.action == "segment_alloc":
                known.pop(event.address, None)
            elif event.action == "segment_free":
                known[event.address] = Segment(event.address, event.size, event.size == SMALL_SEGMENT, event.stream)
        for _, segment in sorted(known.items()):
            yield self.blocks(segment)

    def ranges(self) -> Iterator[list[Block]]:
        """The blocks of each expandable range, mapped and not.

        A range is taken to start at the lowest page seen of its stream and pool, since it is filled from there.
        """
        for (stream, small), pages in self.pages().items():
            size = SMALL_SEGMENT if small else self.config.large_segment
            end = pages.base + ExpandableSegments.RANGE // size * size
            blocks: list[Block] = []
            position = pages.base
            for first, mapped in _runs(sorted(pages.mapped), size):
                if first > position:
                    blocks.append(Block(stream, first - position, small, position, mapped=False))
                blocks += self.blocks(Segment(first, mapped, small, stream))
                position = first + mapped
            blocks.append(Block(stream, end - position, small, position, mapped=False))
            for block in blocks:
                block.base = pages.base
            if pages.mapped:
                yield blocks

    def pages(self) -> dict[tuple[int, bool], "_Pages"]:
        """(stream, small) -> the pages mapped before the first event."""
        found: dict[tuple[int, bool], _Pages] = {}
        for segment in self.segments:
            self._map(found, segment.small, Event(SHRINK[1], segment.address, segment.size, segment.stream))
        for event in reversed(self.events):
            if event.action in (GROW[1], SHRINK[1]):
                self._map(found, self._of_small(event), event)
        return found

    def _of_small(self, event: Event) -> bool:
        """Whether pages belong to the small pool, whose pages are mapped one at a time but unmapped in any number.

        An unmapped run as long as large pages belongs to the small pool if a small block was freed in it.
        """
        if event.action == GROW[1] or event.size % self.config.large_segment:
            return event.size % self.config.large_segment != 0
        at = bisect_left(self.freed, (event.address,))
        return any(size <= SMALL for _, size in self.freed[at : bisect_left(self.freed, (event.address + event.size,))])

    def _map(self, found: dict[tuple[int, bool], "_Pages"], small: bool, event: Event) -> None:
        """Undo an event: pages that it unmapped were mapped before, and those that it mapped were not."""
        step = SMALL_SEGMENT if small else self.config.large_segment
        span = set(range(event.address, event.address + event.size, step))
        mapped, base = found.get((event.stream, small), _Pages(set(), event.address))
        mapped = mapped | span if event.action == SHRINK[1] else mapped - span
        found[event.stream, small] = _Pages(mapped, min(base, event.address))

    def blocks(self, segment: Segment) -> list[Block]:
        """A segment's blocks: those in use, and the gaps; a gap too small to split off belongs to the block before."""
        end = segment.address + segment.size
        inside = self.addresses[bisect_left(self.addresses, segment.address) : bisect_left(self.addresses, end)]
        blocks: list[Block] = []
        position = segment.address
        for address, following in zip(inside, [*inside[1:], end], strict=False):
            if address > position:
                blocks.append(Block(segment.stream, address - position, segment.small, position))
            size = self.size(segment, address, following)
            block = Block(segment.stream, size, segment.small, address)
            block.allocated, block.requested = True, self.live[address].requested
            blocks.append(block)
            position = address + size
        if position < end:
            blocks.append(Block(segment.stream, end - position, segment.small, position))
        return blocks

    def size(self, segment: Segment, address: int, following: int) -> int:
        """Bytes of a block in use, given the address of the next one or of the segment's end."""
        block = self.live[address]
        if segment.small or self.config.expandable_segments:  # there every rest of a block is split off
            return block.size
        if following - (address + block.size) <= SMALL or self.config.unsplittable(segment.size):
            return following - address
        return block.size + self.rest(block, address, following)

    def rest(self, block: StartBlock, address: int, following: int) -> int:
        """Bytes that a block kept beyond its request: the distance to the first request served behind it."""
        end = address + block.size
        behind = self.placed[bisect_left(self.placed, (end,)) : bisect_left(self.placed, (following,))]
        index, front = min(((index, front) for front, index in behind), default=(0, end))
        in_use_then = block.freed is not None and index < block.freed
        return front - end if in_use_then and front - end <= SMALL else 0


class _Pages(NamedTuple):
    """Addresses of mapped pages, and the lowest address ever mapped."""

    mapped: set[int]
    base: int


def _runs(pages: Iterable[int], page: int) -> Iterator[tuple[int, int]]:
    """(address, bytes) of each run of adjacent pages."""
    first = end = None
    for address in pages:
        if address != end:
            if first is not None and end is not None:
                yield first, end - first
            first = address
        end = address + page
    if first is not None and end is not None:
        yield first, end - first
