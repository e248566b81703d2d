"""Allocated and reserved bytes after every event of a recording."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from memmodel.base.errors import UsageError
from memmodel.snapshot.snapshot import ALLOC, FREED, GROW, SHRINK, Snapshot

_SEGMENTS = frozenset({*GROW, *SHRINK})


class StartBlock(NamedTuple):
    """A block in use before the first event: bytes requested, its bytes, and the event that frees it, or None."""

    requested: int
    size: int
    stream: int
    freed: int | None


class Recorded(NamedTuple):
    """Blocks in use before the first event, by address, and the bytes of the block that each event got, by index."""

    start: dict[int, StartBlock]
    granted: dict[int, int]


@dataclass(frozen=True, slots=True)
class History:
    """Bytes after each event; the first entry is the state before them, so entry `i + 1` follows event `i`."""

    allocated: list[int]
    reserved: list[int]

    @property
    def peak(self) -> int:
        """The first entry at which most is allocated."""
        return self.allocated.index(max(self.allocated))


def recorded_blocks(snapshot: Snapshot) -> Recorded:
    """The blocks of a recording, reconstructed backwards from its end.

    A block in use at the end has its recorded size. A freed one counts as its request rounded up: the file does not say
    whether it also kept a rest too small to split off. Raises UsageError for an event that contradicts the end.
    """
    live = {
        block.address: StartBlock(block.requested, block.size, segment.stream, None)
        for segment in snapshot.segments
        for block in segment.blocks
        if block.in_use
    }
    granted: dict[int, int] = {}
    block_size = cache(snapshot.config.block_size)  # a training step asks for the same sizes again and again
    # Backwards in time a free begins the life of a block, and its allocation ends it.
    for index in range(len(snapshot.events) - 1, -1, -1):
        action, address, size, stream = snapshot.events[index]
        if action == ALLOC:
            if address not in live:
                raise _contradiction(snapshot, index, "allocates a block that is neither freed nor in use at the end")
            granted[index] = live.pop(address).size
        elif action == FREED:
            if address in live:
                raise _contradiction(snapshot, index, "frees a block that is in use after it")
            live[address] = StartBlock(size, block_size(size), stream, index)
    return Recorded(live, granted)


def _contradiction(snapshot: Snapshot, index: int, what: str) -> UsageError:
    advice = "call torch.cuda.memory._dump_snapshot while the recording still runs"
    return UsageError(f"{snapshot.path}: event {index} {what}, so events are missing: {advice}")


def history(snapshot: Snapshot, recorded: Recorded) -> History:
    """Bytes after each event of a recording whose blocks are known."""
    in_use = {address: block.size for address, block in recorded.start.items()}
    allocated, reserved = sum(in_use.values()), reserved_before(snapshot)
    after_allocated, after_reserved = [allocated], [reserved]
    for index, (action, address, size, _) in enumerate(snapshot.events):
        if action == ALLOC:
            in_use[address] = recorded.granted[index]
            allocated += recorded.granted[index]
        elif action == FREED:
            allocated -= in_use.pop(address)
        elif action in _SEGMENTS:
            reserved += growth(action, size)
        after_allocated.append(allocated)
        after_reserved.append(reserved)
    return History(after_allocated, after_reserved)


def reserved_before(snapshot: Snapshot) -> int:
    """Bytes held from the driver before the first event."""
    grown = sum(growth(action, size) for action, _, size, _ in snapshot.events if action in _SEGMENTS)
    return sum(segment.size for segment in snapshot.segments) - grown


def growth(action: str, size: int) -> int:
    """The change of reserved bytes by an event."""
    return size if action in GROW else -size if action in SHRINK else 0
