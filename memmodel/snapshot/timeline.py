"""Allocated and reserved bytes after every event of a snapshot."""

from dataclasses import dataclass

from memmodel.errors import UsageError
from memmodel.snapshot.snapshot import ALLOC, FREE, GROW, SHRINK, Snapshot


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """Bytes of every block: those in use before the first event by address, and those granted by event."""

    start: dict[int, int]
    granted: dict[int, int]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Bytes after each event; the first entry is the state before them, so entry `i + 1` follows event `i`."""

    allocated: list[int]
    reserved: list[int]

    @property
    def peak(self) -> int:
        """The first entry at which most is allocated."""
        return self.allocated.index(max(self.allocated))


def block_sizes(snapshot: Snapshot) -> BlockSizes:
    """The blocks' sizes, read backwards from the end.

    A block in use at the end has its recorded size. One that was freed is the request rounded up; a rest too small to
    split off, which the real block may have kept, is not in the file. Raises UsageError where an event contradicts the
    blocks at the end.
    """
    live = {block.address: block.size for segment in snapshot.segments for block in segment.blocks if block.in_use}
    granted: dict[int, int] = {}
    for index in range(len(snapshot.events) - 1, -1, -1):
        event = snapshot.events[index]
        if event.action == ALLOC:
            if event.address not in live:
                raise _contradiction(snapshot, index, "allocates a block that is neither freed nor in use at the end")
            granted[index] = live.pop(event.address)
        elif event.action == FREE:
            if event.address in live:
                raise _contradiction(snapshot, index, "frees a block that is in use after it")
            live[event.address] = snapshot.config.block_size(event.size)
    return BlockSizes(live, granted)


def _contradiction(snapshot: Snapshot, index: int, what: str) -> UsageError:
    advice = "call torch.cuda.memory._dump_snapshot while the recording still runs"
    return UsageError(f"{snapshot.path}: event {index} {what}, so events are missing: {advice}")


def timeline(snapshot: Snapshot, sizes: BlockSizes) -> Timeline:
    """The course of a recorded run."""
    in_use = dict(sizes.start)
    allocated = sum(in_use.values())
    reserved = reserved_before(snapshot)
    course = Timeline([allocated], [reserved])
    for index, event in enumerate(snapshot.events):
        if event.action == ALLOC:
            in_use[event.address] = sizes.granted[index]
            allocated += sizes.granted[index]
        elif event.action == FREE:
            allocated -= in_use.pop(event.address)
        reserved += _growth(event.action, event.size)
        course.allocated.append(allocated)
        course.reserved.append(reserved)
    return course


def reserved_before(snapshot: Snapshot) -> int:
    """Bytes held from the driver before the first event."""
    grown = sum(_growth(event.action, event.size) for event in snapshot.events)
    return sum(segment.size for segment in snapshot.segments) - grown


def _growth(action: str, size: int) -> int:
    return size if action in GROW else -size if action in SHRINK else 0
