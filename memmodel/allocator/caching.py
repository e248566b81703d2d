"""The CUDA caching allocator, exactly: the block of each request, and the bytes allocated and reserved.

Source: c10/cuda/CUDACachingAllocator.cpp, unchanged in these rules from torch 2.4 to 2.15. All sizes are bytes.
A private pool (CUDA graphs, MemPool) is modelled as a stream. Not modelled: cross-stream frees (record_stream),
garbage_collection_threshold, backend:cudaMallocAsync.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import NamedTuple

from memmodel.allocator.blocks import SMALL, Block, Pool
from memmodel.allocator.config import AllocatorConfig
from memmodel.allocator.segments import Driver, ExpandableSegments, Place, Source, WholeSegments


class OutOfMemory(NamedTuple):
    """A request that the device could not hold even after the cache was released."""

    requested: int
    allocated: int
    reserved: int


class CachingAllocator:
    """One device's allocator.

    Attributes:
        allocated: bytes in blocks handed out now (`torch.cuda.memory_allocated`).
        allocated_peak: its largest value since the last `reset_peak`.
        retries: how often the cache was released to make room (`num_alloc_retries`).
        failed: the first request that did not fit, or None.
        kept: streams whose free segments are never released: those of private pools that are still in use.
    """

    def __init__(
        self, capacity: int | None = None, config: AllocatorConfig | None = None, place: Place | None = None
    ) -> None:
        """`capacity` is the driver's memory in bytes (None: unlimited); `place` gives the addresses of new segments."""
        self.config = config or AllocatorConfig()
        self.driver = Driver(capacity, place)
        self.source: Source = (ExpandableSegments if self.config.expandable_segments else WholeSegments)(
            self.driver, self.config
        )
        self.small, self.large = Pool(small=True), Pool(small=False)
        self.allocated = self.allocated_peak = 0
        self.retries = 0
        self.failed: OutOfMemory | None = None
        self.kept: frozenset[int] = frozenset()
        self._sizes: dict[int, int] = {}  # of the block of each request so far

    @property
    def reserved(self) -> int:
        """Bytes held from the driver now (`torch.cuda.memory_reserved`)."""
        return self.driver.reserved

    @property
    def reserved_peak(self) -> int:
        """The largest `reserved` since the last `reset_peak`."""
        return self.driver.reserved_peak

    def reset_peak(self) -> None:
        """Start peaks from the current values (`torch.cuda.reset_peak_memory_stats`)."""
        self.allocated_peak = self.allocated
        self.driver.reserved_peak = self.driver.reserved

    def malloc(self, requested: int, stream: int = 0) -> Block | None:
        """A block for a request; None for zero bytes, or out of memory (`failed` is then set)."""
        if requested == 0:
            return None
        size = self._sizes.get(requested)
        if size is None:
            size = self._sizes[requested] = self.config.block_size(requested)
        pool = self.small if size <= SMALL else self.large
        block = self._cached(size, stream, pool) or self._fresh(size, stream, pool)
        if block is None:
            self.failed = self.failed or OutOfMemory(requested, self.allocated, self.reserved)
            return None
        if block.size != size and self.source.splits(block, size):
            pool.add(block.split(size))
        block.allocated, block.requested = True, requested
        # A rest that was too small to split off counts: memory_allocated adds up blocks, not requests.
        self.allocated += block.size
        if self.allocated > self.allocated_peak:
            self.allocated_peak = self.allocated
        return block

    def free(self, block: Block | None) -> None:
        """Take a block back; it merges with free neighbours."""
        if block is None:
            return
        block.allocated, block.requested = False, 0
        self.allocated -= block.size
        pool = self.small if block.small else self.large
        if block.prev is not None or block.next is not None:
            pool.merge(block)
        pool.add(block)

    def free_blocks(self) -> list[tuple[int, int, int]]:
        """The free blocks of both pools, as `Pool.layout`. With the blocks in use, they decide how requests go on."""
        return [*self.small.layout(), *self.large.layout()]

    def empty_cache(self) -> None:
        """Give free segments back to the driver (`torch.cuda.empty_cache`)."""
        self.source.release(self.large, self.kept)
        self.source.release(self.small, self.kept)

    def give_back(self, address: int, size: int, stream: int) -> None:
        """Release the free block that holds `size` bytes at an address, as a recorded run did."""
        for pool in (self.large, self.small):
            free = pool.free[stream]
            for *_, block in islice(free, bisect_left(free, (size,)), None):
                if block.address <= address < block.address + block.size:
                    if block.whole_segment or self.config.expandable_segments:
                        self.source.release_block(block, pool)
                    return

    def adopt(self, blocks: list[Block]) -> None:
        """Add a recorded segment, given as its blocks in address order: allocated, free or unmapped."""
        self.driver.take(sum(block.size for block in blocks if block.mapped))
        for left, right in pairwise(blocks):
            left.append(right)
        for block in blocks:
            if block.allocated:
                self.allocated += block.size
            else:
                (self.small if block.small else self.large).add(block)

    def segments(self, in_use: Iterable[Block]) -> Iterator[list[Block]]:
        """The blocks of each segment, or run of mapped pages, in address order. `in_use` are the allocated blocks."""
        for block in (*in_use, *self.small.blocks(), *self.large.blocks()):
            if block.prev is None or not block.prev.mapped:  # the first of its segment or run
                run, behind = [block], block.next
                while behind is not None and behind.mapped:
                    run.append(behind)
                    behind = behind.next
                yield run

    def _cached(self, size: int, stream: int, pool: Pool) -> Block | None:
        """The best fit among free blocks (get_free_block)."""
        free = pool.free[stream]
        index = bisect_left(free, (size,))
        if index == len(free):
            return None
        index = self.source.prefer(index, free)
        block = free[index][2]
        limit = self.config.max_split_size
        # A block that is never split serves only requests as large, of which it wastes little.
        if limit is not None and block.size >= limit:
            rounding = self.config.max_non_split_rounding
            if size < limit or (rounding is not None and block.size >= size + rounding):
                return None
        del free[index]
        return block

    def _fresh(self, size: int, stream: int, pool: Pool) -> Block | None:
        """Memory from the driver; if it has none, release the cache and try again (alloc_block's order of attempts)."""
        block = self.source.grow(size, stream, pool)
        if block is None and self._release_oversize(size, stream, pool):
            block = self.source.grow(size, stream, pool)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self.source.grow(size, stream, pool)
        return block

    def _release_oversize(self, size: int, stream: int, pool: Pool) -> bool:
        """With max_split_size, release just enough unsplittable blocks (release_available_cached_blocks)."""
        if self.config.max_split_size is None or not isinstance(self.source, WholeSegments):
            return False
        wanted = max(size, self.config.max_split_size)
        free = pool.free[stream]
        index = bisect_left(free, (wanted,))
        if index < len(free):
            self.source.release_block(free[index][2], pool)
            return True
        released = 0  # no single block is large enough: the largest of all, until they add up
        for bytes_, _, block in reversed(free.copy()):
            if released >= wanted or not self.config.unsplittable(bytes_):
                break
            self.source.release_block(block, pool)
            released += bytes_
        return released >= wanted
