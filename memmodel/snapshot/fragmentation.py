"""How much of what is reserved is free, and in how large pieces."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memmodel.allocator.blocks import Block
from memmodel.snapshot.snapshot import DEFAULT_POOL, SegmentState, Snapshot


@dataclass(frozen=True, slots=True)
class Fragmentation:
    """Segments of one pool, or of all, in bytes.

    Attributes:
        pool: "small" or "large", with the id of a private pool; "all".
        segments: how many; with expandable segments, how many runs of mapped pages.
        reserved: held from the driver.
        free: in blocks that are not in use.
        largest_free: the largest of those: a request above it needs memory from the driver.
        split: free in segments that are partly in use; emptying the cache can't give it back
            (`inactive_split_bytes`).
    """

    pool: str
    segments: int
    reserved: int
    free: int
    largest_free: int
    split: int


def fragmentation(snapshot: Snapshot) -> list[Fragmentation]:
    """Fragmentation at the end, by pool and then of all together."""
    pools: dict[str, list[SegmentState]] = {}
    for segment in snapshot.segments:
        pools.setdefault(_pool(segment), []).append(segment)
    return [_of_segments(name, found) for name, found in (*sorted(pools.items()), ("all", snapshot.segments))]


def _pool(segment: SegmentState) -> str:
    name = "small" if segment.small else "large"
    return name if segment.pool == DEFAULT_POOL else f"{name} of private pool {segment.pool[0]},{segment.pool[1]}"


def _of_segments(name: str, segments: Sequence[SegmentState]) -> Fragmentation:
    free = [(block.size, len(s.blocks) > 1) for s in segments for block in s.blocks if not block.in_use]
    return Fragmentation(
        name,
        len(segments),
        sum(segment.size for segment in segments),
        sum(size for size, _ in free),
        max((size for size, _ in free), default=0),
        sum(size for size, split in free if split),
    )


def fragmentation_of_blocks(free: Sequence[Block], used: Iterable[Block]) -> Fragmentation:
    """Fragmentation of an allocator of the model, from its free and its used blocks."""
    mapped = [*free, *used]
    return Fragmentation(
        "all",
        sum(not _mapped(block.prev) for block in mapped),
        sum(block.size for block in mapped),
        sum(block.size for block in free),
        max((block.size for block in free), default=0),
        sum(block.size for block in free if _mapped(block.prev) or _mapped(block.next)),
    )


def _mapped(block: Block | None) -> bool:
    return block is not None and block.mapped
