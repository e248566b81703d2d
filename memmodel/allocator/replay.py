"""The one replay: requests go into an allocator, allocated and reserved bytes after each come out.

Phases, peaks, pictures and what-if questions are readings of it.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from memmodel.allocator.blocks import Block
from memmodel.allocator.caching import CachingAllocator

MALLOC, FREE = "malloc", "free"
KEEP = "keep"  # a request for what its key does not hold yet: cuBLAS asks for a workspace once and keeps it
EMPTY_CACHE = "empty cache"
GIVE_BACK = "give back"  # `nbytes` of the free segment at the address `key` return to the driver


class Request(NamedTuple):
    """What a program asks of the allocator; `key` names the block from its request to its free. `nbytes` in bytes."""

    action: str
    key: Hashable
    nbytes: int = 0
    stream: int = 0


Blocks = dict[Hashable, Block | None]  # key of a request -> its block; None for zero bytes


def serve(requests: Iterable[Request], allocator: CachingAllocator, blocks: Blocks) -> Iterator[tuple[int, int]]:
    """Give the requests to the allocator; yields (allocated, reserved) bytes after each.

    Ends at the first request that does not fit: `allocator.failed` then says which. `blocks` is kept up to date. Raises
    KeyError where a key is freed that holds nothing.
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
        elif action == GIVE_BACK:
            assert isinstance(key, int)
            allocator.give_back(key, nbytes, stream)
        yield allocator.allocated, driver.reserved
