"""Blocks of device memory and the pools of free ones.

A block is a piece of a segment; the blocks of a segment form a doubly linked list in address order. Free blocks are
kept sorted by (stream, size, address), so the first that is large enough is the best fit (BlockComparatorSize).
"""

from bisect import bisect_left, insort

KiB = 1 << 10
MiB = 1 << 20
MIN_BLOCK = 512  # kMinBlockSize: every block is a multiple of it
SMALL = MiB  # kSmallSize: requests up to this come from small segments
SMALL_SEGMENT = 2 * MiB  # kSmallBuffer
LARGE_SEGMENT = 20 * MiB  # kLargeBuffer: the segment for requests below MIN_LARGE
MIN_LARGE = 10 * MiB  # kMinLargeAlloc: from here on a request has a segment of its own
ROUND_LARGE = 2 * MiB  # kRoundLarge: rounded up to this


class Block:
    """A piece of a segment: allocated, free, or (expandable segments) address space without memory."""

    __slots__ = (
        "address",
        "allocated",
        "expandable",
        "mapped",
        "next",
        "prev",
        "requested",
        "size",
        "small",
        "stream",
    )

    def __init__(self, stream: int, size: int, small: bool, address: int, expandable: "object | None" = None) -> None:
        self.stream = stream
        self.size = size
        self.small = small
        self.address = address
        self.expandable = expandable
        self.allocated = False
        self.mapped = True
        self.requested = 0
        self.prev: Block | None = None
        self.next: Block | None = None

    @property
    def whole_segment(self) -> bool:
        """Whether nothing was split off."""
        return self.prev is None and self.next is None

    def insert_before(self, other: "Block") -> None:
        """Link this block in front of `other`."""
        self.prev, self.next = other.prev, other
        if self.prev is not None:
            self.prev.next = self
        other.prev = self

    def insert_after(self, other: "Block") -> None:
        """Link this block behind `other`."""
        self.prev, self.next = other, other.next
        if self.next is not None:
            self.next.prev = self
        other.next = self


class Pool:
    """Free mapped blocks by (stream, size, address), and unmapped ones by (stream, address)."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.free: list[tuple[int, int, int, Block]] = []
        self.unmapped: list[tuple[int, int, Block]] = []

    def add(self, block: Block) -> None:
        """Make a block available."""
        if block.mapped:
            insort(self.free, (block.stream, block.size, block.address, block))
        else:
            insort(self.unmapped, (block.stream, block.address, block))

    def remove(self, block: Block) -> None:
        """Take a block out."""
        if block.mapped:
            del self.free[bisect_left(self.free, (block.stream, block.size, block.address))]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.stream, block.address))]

    def first_fit_index(self, size: int, stream: int) -> int | None:
        """Index of the smallest free block of the stream with at least `size` bytes."""
        index = bisect_left(self.free, (stream, size, -1))
        return index if index < len(self.free) and self.free[index][0] == stream else None

    def merge(self, block: Block, neighbour: Block | None) -> None:
        """Absorb a free neighbour of the same kind into `block` (try_merge_blocks)."""
        if neighbour is None or neighbour.allocated or neighbour.mapped != block.mapped:
            return
        self.remove(neighbour)
        if block.prev is neighbour:
            block.address, block.prev = neighbour.address, neighbour.prev
            if block.prev is not None:
                block.prev.next = block
        else:
            block.next = neighbour.next
            if block.next is not None:
                block.next.prev = block
        block.size += neighbour.size


def round_up(size: int, multiple: int) -> int:
    """`size` rounded up to a multiple."""
    return -(-size // multiple) * multiple
