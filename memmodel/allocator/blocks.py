"""Blocks of device memory and the pools of free ones.

A block is a piece of a segment; the blocks of a segment form a doubly linked list in address order. A pool keeps the
free blocks of each stream sorted by (size, address), so the first that is large enough is the best fit.

Source: c10/cuda/CUDACachingAllocator.cpp (Block, BlockPool, BlockComparatorSize, try_merge_blocks).
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator

KiB = 1 << 10
MiB = 1 << 20
MIN_BLOCK = 512  # kMinBlockSize: every block is a multiple of it
SMALL = MiB  # kSmallSize: requests up to this come from small segments
SMALL_SEGMENT = 2 * MiB  # kSmallBuffer
LARGE_SEGMENT = 20 * MiB  # kLargeBuffer: the segment for requests below MIN_LARGE
MIN_LARGE = 10 * MiB  # kMinLargeAlloc: from here on each request gets its own segment
ROUND_LARGE = 2 * MiB  # kRoundLarge: segments of such requests are multiples of it


class Block:
    """A piece of a segment: allocated, free, or (expandable segments) address space without memory.

    `small` is whether it belongs to the pool of small blocks; `base` is the first address of its expandable segment, or
    None. Sizes are bytes; `requested` is the size asked for, 0 in a free block.
    """

    __slots__ = ("address", "allocated", "base", "mapped", "next", "prev", "requested", "size", "small", "stream")

    def __init__(
        self, stream: int, size: int, small: bool, address: int, base: int | None = None, mapped: bool = True
    ) -> None:
        self.stream = stream
        self.size = size
        self.small = small
        self.address = address
        self.base = base
        self.mapped = mapped
        self.allocated = False
        self.requested = 0
        self.prev: Block | None = None
        self.next: Block | None = None

    @property
    def whole_segment(self) -> bool:
        """Whether the block is the only one of its segment."""
        return self.prev is None and self.next is None

    def split(self, size: int, mapped: bool = True) -> "Block":
        """Keep the first `size` bytes; the rest, `mapped` or not, is a new block behind, which is returned."""
        rest = Block(self.stream, self.size - size, self.small, self.address + size, self.base, mapped)
        rest.prev, rest.next = self, self.next
        if self.next is not None:
            self.next.prev = rest
        self.next, self.size = rest, size
        return rest

    def append(self, other: "Block") -> None:
        """Link `other` behind this block, the last of its segment."""
        self.next, other.prev = other, self


class Pool:
    """The free blocks of small or of large segments: mapped ones by stream, size and address, unmapped by address."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.free: dict[int, list[tuple[int, int, Block]]] = defaultdict(list)
        self.unmapped: dict[int, list[tuple[int, Block]]] = defaultdict(list)

    def blocks(self, but: frozenset[int] = frozenset()) -> Iterator[Block]:
        """The free blocks that have memory, of all streams except those in `but`."""
        return (block for stream, free in self.free.items() if stream not in but for *_, block in free)

    def layout(self) -> list[tuple[int, int, int]]:
        """(stream, address, size) of each free block, mapped or not."""
        mapped = [(stream, address, size) for stream, free in self.free.items() for size, address, _ in free]
        return mapped + [(stream, at, block.size) for stream, free in self.unmapped.items() for at, block in free]

    def add(self, block: Block) -> None:
        """Make a block available."""
        if block.mapped:
            insort(self.free[block.stream], (block.size, block.address, block))
        else:
            insort(self.unmapped[block.stream], (block.address, block))

    def remove(self, block: Block) -> None:
        """Take a block out."""
        if block.mapped:
            free = self.free[block.stream]
            del free[bisect_left(free, (block.size, block.address))]
        else:
            unmapped = self.unmapped[block.stream]
            del unmapped[bisect_left(unmapped, (block.address,))]

    def merge(self, block: Block) -> None:
        """Absorb the free neighbours of a block that is not in the pool."""
        before, behind = block.prev, block.next
        if before is not None and not before.allocated and before.mapped == block.mapped:
            self.remove(before)
            block.address = before.address
            block.size += before.size
            block.prev = before.prev
            if block.prev is not None:
                block.prev.next = block
        if behind is not None and not behind.allocated and behind.mapped == block.mapped:
            self.remove(behind)
            block.size += behind.size
            block.next = behind.next
            if block.next is not None:
                block.next.prev = block


def round_up(size: int, multiple: int) -> int:
    """`size` rounded up to a multiple."""
    return -(-size // multiple) * multiple
