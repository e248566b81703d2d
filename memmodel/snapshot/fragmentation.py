"""Fragmentation: the free part of reserved memory, and the sizes of its blocks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memmodel.snapshot.snapshot import DEFAULT_POOL, Segment, Snapshot

Pieces = Sequence[tuple[int, bool]]  # (bytes, whether in use) of each block of a segment


@dataclass(frozen=True, slots=True)
class Fragmentation:
    """Free memory in the segments of one pool, or of all.

    Attributes:
        pool: "small" or "large", with the id of a private pool; "all".
        segments: their number; with expandable segments, that of runs of mapped pages.
        reserved_bytes: held from the driver.
        free_bytes: in blocks that are not in use.
        largest_free_bytes: the largest of those: a request above it needs memory from the driver.
        inactive_split_bytes: free in segments that are partly in use; emptying the cache can't give it back.
    """

    pool: str
    segments: int
    reserved_bytes: int
    free_bytes: int
    largest_free_bytes: int
    inactive_split_bytes: int


def fragmentation(pool: str, segments: Iterable[Pieces]) -> Fragmentation:
    """The fragmentation of segments, whether recorded or replayed."""
    listed = list(segments)
    # A free block that is its segment's only one goes back to the driver when the cache is emptied.
    free = [(size, len(segment) > 1) for segment in listed for size, in_use in segment if not in_use]
    return Fragmentation(
        pool,
        len(listed),
        sum(size for segment in listed for size, _ in segment),
        sum(size for size, _ in free),
        max((size for size, _ in free), default=0),
        sum(size for size, split in free if split),
    )


def by_pool(snapshot: Snapshot) -> list[Fragmentation]:
    """Fragmentation at the end: of each pool, then of all together."""
    pools: dict[str, list[Pieces]] = {}
    everything: list[Pieces] = []
    for segment in snapshot.segments:
        pieces: Pieces = [(block.size, block.in_use) for block in segment.blocks]
        pools.setdefault(_pool(segment), []).append(pieces)
        everything.append(pieces)
    return [fragmentation(name, found) for name, found in (*sorted(pools.items()), ("all", everything))]


def _pool(segment: Segment) -> str:
    name = "small" if segment.small else "large"
    return name if segment.pool == DEFAULT_POOL else f"{name} of private pool {segment.pool[0]},{segment.pool[1]}"
