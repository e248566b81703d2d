"""Sources of the allocator's memory: whole segments from the driver, or pages mapped into expandable segments.

Source: c10/cuda/CUDACachingAllocator.cpp (alloc_block, release_blocks; find_expandable_block, map_block, unmap_block).
"""

from collections.abc import Callable
from typing import Protocol

from memmodel.allocator.blocks import MIN_BLOCK, SMALL, SMALL_SEGMENT, Block, Pool, round_up
from memmodel.allocator.config import AllocatorConfig

Place = Callable[[], int | None]  # the address of the driver's next segment; None if it is not known


class Source(Protocol):
    """The operations that the caching allocator needs of a source of memory."""

    def grow(self, size: int, stream: int, pool: Pool) -> Block | None:
        """A free block of at least `size` bytes from the driver, or None where it has no more."""

    def prefer(self, index: int, free: list[tuple[int, int, Block]]) -> int:
        """The index of the free block to take, given that of the best fit."""

    def splits(self, block: Block, size: int) -> bool:
        """Whether to split `block` and keep the rest as a free block."""

    def release(self, pool: Pool, but: frozenset[int]) -> None:
        """Return free memory to the driver, of all streams except those in `but`."""

    def release_block(self, block: Block, pool: Pool) -> None:
        """Return one free block to the driver, or the whole pages in it."""


class Driver:
    """The device's memory: bytes reserved, of a capacity (None: unlimited).

    A new segment lies below the one before, as on Linux, where the driver maps memory from the top down (snapshots of
    an A100 and of an RTX PRO 6000 there show it). Of free blocks of one size the allocator takes the lowest, so that
    the order decides which are whole again later, and which rests of up to 1 MiB count as allocated.
    """

    FIRST = 1 << 64  # new segments lie below this, and above every address of a real device
    GAP = 1 << 30  # between segments, so that blocks of two of them are never taken for neighbours

    def __init__(self, capacity: int | None, place: Place | None = None) -> None:
        self.capacity = capacity
        self.reserved = 0
        self.reserved_peak = 0
        self._next = self.FIRST
        self._place = place

    def take(self, size: int) -> bool:
        """Reserve memory; False where it does not fit."""
        reserved = self.reserved + size
        if self.capacity is not None and reserved > self.capacity:
            return False
        self.reserved = reserved
        if reserved > self.reserved_peak:
            self.reserved_peak = reserved
        return True

    def give_back(self, size: int) -> None:
        """Return memory."""
        self.reserved -= size

    def address(self, size: int) -> int:
        """The address of a new segment: that of the recorded run if known, else below the one before."""
        known = self._place() if self._place is not None else None
        if known is not None:
            return known
        self._next -= round_up(size, SMALL_SEGMENT) + self.GAP
        return self._next


class WholeSegments:
    """The default: cudaMalloc of a segment at a time; a segment goes back only when it is whole and free."""

    def __init__(self, driver: Driver, config: AllocatorConfig) -> None:
        self.driver = driver
        self.config = config

    def grow(self, size: int, stream: int, pool: Pool) -> Block | None:
        """One segment as one block."""
        segment = self.config.segment_size(size)
        if not self.driver.take(segment):
            return None
        return Block(stream, segment, pool.small, self.driver.address(segment))

    def prefer(self, index: int, free: list[tuple[int, int, Block]]) -> int:
        """The best fit."""
        return index

    def splits(self, block: Block, size: int) -> bool:
        """A rest of at most 1 MiB of a large segment stays in the block, and counts as allocated."""
        rest = block.size - size
        if block.small:
            return rest >= MIN_BLOCK
        return rest > SMALL and not self.config.unsplittable(size)

    def release(self, pool: Pool, but: frozenset[int]) -> None:
        """cudaFree of every free block that is a whole segment."""
        for block in list(pool.blocks(but)):
            if block.whole_segment:
                self.release_block(block, pool)

    def release_block(self, block: Block, pool: Pool) -> None:
        """cudaFree of one block, a whole segment."""
        pool.remove(block)
        self.driver.give_back(block.size)


class ExpandableSegments:
    """One address range per stream and pool; pages of 2 MiB (small) or 20 MiB (large) are mapped as it grows."""

    RANGE = 1 << 160  # address space of a range: more than any request asks for

    def __init__(self, driver: Driver, config: AllocatorConfig) -> None:
        self.driver = driver
        self.config = config

    def page(self, small: bool) -> int:
        """Bytes mapped at a time."""
        return SMALL_SEGMENT if small else self.config.large_segment

    def grow(self, size: int, stream: int, pool: Pool) -> Block | None:
        """Map pages behind (or into) free address space until a free block holds `size`."""
        block = self._candidate(size, stream, pool)
        if not block.mapped and not self._map(block, min(block.size, size), pool):
            return None
        while block.size < size:  # a mapped block that ends before the free address space behind it
            unmapped = block.next
            assert unmapped is not None
            if not self._map(unmapped, min(size - block.size, unmapped.size), pool):
                return None
            block = unmapped
        pool.remove(block)
        return block

    def prefer(self, index: int, free: list[tuple[int, int, Block]]) -> int:
        """The block that can expand least, of those that fit: the last block of a range includes its unmapped tail."""
        while index + 1 < len(free) and _extent(free[index + 1][2]) < _extent(free[index][2]):
            index += 1
        return index

    def splits(self, block: Block, size: int) -> bool:
        """Split whenever the rest can be a block."""
        return block.size - size >= MIN_BLOCK

    def release(self, pool: Pool, but: frozenset[int]) -> None:
        """Unmap the whole pages inside every free block."""
        for block in list(pool.blocks(but)):
            self.release_block(block, pool)

    def _candidate(self, size: int, stream: int, pool: Pool) -> Block:
        """The first free or unmapped run of at least `size` bytes of address space, else a new range."""
        for _, block in pool.unmapped[stream]:
            start = block.prev if block.prev is not None and not block.prev.allocated else block
            room, end = 0, start
            while room < size and end is not None and not end.allocated:
                room, end = room + end.size, end.next  # type: ignore[assignment]
            if room >= size:
                return start
        page = self.page(pool.small)
        base = self.driver.address(self.RANGE)
        block = Block(stream, self.RANGE // page * page, pool.small, base, base, mapped=False)
        pool.add(block)
        return block

    def _map(self, block: Block, size: int, pool: Pool) -> bool:
        """Map the first pages of an unmapped block; False if the driver has no memory."""
        mapped = round_up(size, self.page(pool.small))
        if not self.driver.take(mapped):
            return False
        pool.remove(block)
        if mapped < block.size:
            pool.add(block.split(mapped, mapped=False))
        block.mapped = True
        pool.merge(block)
        pool.add(block)
        return True

    def release_block(self, block: Block, pool: Pool) -> None:
        """Unmap the whole pages inside one free block."""
        base, page = block.base, self.page(pool.small)
        assert base is not None
        # Pages that the block shares with its neighbours stay mapped: both ends are rounded inwards.
        start = base + round_up(block.address - base, page)
        end = base + (block.address + block.size - base) // page * page
        if end <= start:
            return
        pool.remove(block)
        if start > block.address:
            front, block = block, block.split(start - block.address)
            pool.add(front)
        if block.address + block.size > end:
            pool.add(block.split(end - block.address))
        block.mapped = False
        pool.merge(block)
        pool.add(block)
        self.driver.give_back(end - start)


def _extent(block: Block) -> int:
    """The bytes of a block and of the unmapped address space behind it."""
    tail = block.next
    return block.size + (tail.size if tail is not None and not tail.mapped else 0)
