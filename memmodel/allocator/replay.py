"""Replay requests through an allocator, and yield the bytes allocated and reserved after each.

Phases, peaks, pictures and what-if questions all read this one replay.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from memmodel.allocator.blocks import Block
from memmodel.allocator.caching import CachingAllocator

MALLOC, FREE = "malloc", "free"
KEEP = "keep"  # allocate unless the key holds a block: cuBLAS requests a workspace once and keeps it
EMPTY_CACHE = "empty cache"


class Request(NamedTuple):
    """A request to the allocator, of `nbytes` bytes; `key` names the block from its request to its free."""

    action: str
    key: Hashable
    nbytes: int = 0
    stream: int = 0


Blocks = dict[Hashable, Block | None]  # key of a request -> its block; None for zero bytes


def serve(requests: Iterable[Request], allocator: CachingAllocator, blocks: Blocks) -> Iterator[tuple[int, int]]:
    """Serve the requests, and yield (allocated, reserved) bytes after each; `blocks` is updated.

    Stops at the first request that does not fit, which is then `allocator.failed`. Raises KeyError for a free of a key
    that holds no block.
    """
    malloc, free, driver = allocator.malloc, allocator.free, allocator.driver
    for action, key, nbytes, stream in requests:
        if action == MALLOC or (action == KEEP and key not in blocks):
            block = blocks[key] = malloc(nbytes, stream)
            if block is None and allocator.failed is not None:
                del blocks[key]
                return
        elif action == FREE:
            free(blocks.pop(key))
        elif action == EMPTY_CACHE:
            allocator.empty_cache()
        yield allocator.allocated, driver.reserved
