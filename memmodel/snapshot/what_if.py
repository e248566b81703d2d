"""A recorded run again: exactly as it was, or under other settings and with another capacity.

Exactly, the state before the first event is rebuilt from the file, new segments land where the driver put them, and
every address is compared. Under other settings the past is not known; the blocks in use before the first event are
then asked for anew, the largest first, and recorded addresses only name blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from memmodel.allocator import AllocatorConfig, Block, CachingAllocator
from memmodel.allocator.trace import TraceEvent, start_state
from memmodel.snapshot.emptied import emptied_by_program
from memmodel.snapshot.fragmentation import Fragmentation, fragmentation_of_blocks
from memmodel.snapshot.snapshot import ALLOC, FREE, GROW, OUT_OF_MEMORY, SHRINK, Snapshot
from memmodel.snapshot.timeline import BlockSizes, Timeline, reserved_before

BEFORE_THE_FIRST = -1


@dataclass(frozen=True, slots=True)
class RanOut:
    """The request that did not fit, in bytes; `event` is `BEFORE_THE_FIRST` for blocks from before the recording."""

    event: int
    requested: int
    allocated: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run took, in bytes.

    Attributes:
        allocated_peak, reserved_peak: largest values in the window.
        allocated_end, reserved_end: at its end, or where it ran out.
        end: free memory then.
        ran_out: the request that did not fit, or None.
        retries: how often the cache was released to make room; None in a recording, which does not tell.
    """

    allocated_peak: int
    reserved_peak: int
    allocated_end: int
    reserved_end: int
    end: Fragmentation
    ran_out: RanOut | None
    retries: int | None


@dataclass(frozen=True, slots=True)
class Landing:
    """How many addresses of the recording the model chose too; `first_different` is an event, or None."""

    equal: int
    compared: int
    first_different: int | None


def recorded(snapshot: Snapshot, course: Timeline, end: Fragmentation) -> Outcome:
    """What the recording itself says."""
    out = next((index for index, event in enumerate(snapshot.events) if event.action == OUT_OF_MEMORY), None)
    ran_out = None
    if out is not None:
        ran_out = RanOut(out, snapshot.events[out].size, course.allocated[out], course.reserved[out])
    allocated, reserved = course.allocated, course.reserved
    return Outcome(max(allocated), max(reserved), allocated[-1], reserved[-1], end, ran_out, None)


def known_capacity(snapshot: Snapshot, course: Timeline) -> int | None:
    """Bytes that the allocator could get in the recorded run: known where it ran out, from what the driver had left."""
    seen = [course.reserved[index] + free for index, free in snapshot.device_free.items()]
    return max(max(seen), max(course.reserved)) if seen else None


def replay_exactly(snapshot: Snapshot, sizes: BlockSizes) -> tuple[Outcome, Landing, BlockSizes]:
    """Replay under the settings it was recorded with; block sizes are better known where every address is equal."""
    run = _Run(snapshot, snapshot.config, None, exact=True)
    run.start_as_recorded()
    start = {address: block.size for address, block in run.blocks.items()}
    outcome = run.play()
    landing = Landing(run.equal, len(sizes.granted), run.first_different)
    landed = run.first_different is None and start.keys() == sizes.start.keys()
    return outcome, landing, BlockSizes(start, run.granted) if landed else sizes


def replay_under(snapshot: Snapshot, config: AllocatorConfig, capacity: int | None) -> Outcome:
    """Replay under settings and a capacity in bytes (None: endless).

    The state at the start is the recorded one where the settings are and it fits, else its blocks packed anew.
    """
    run = _Run(snapshot, config, capacity)
    if starts_as_recorded(snapshot, config, capacity):
        run.start_as_recorded()
    else:
        run.start_packed()
    return run.play()


def starts_as_recorded(snapshot: Snapshot, config: AllocatorConfig, capacity: int | None) -> bool:
    """Whether a replay can start from the recorded segments."""
    return config == snapshot.config and (capacity is None or reserved_before(snapshot) <= capacity)


def replay_packed(snapshot: Snapshot, capacity: int | None) -> Outcome:
    """Replay under the recorded settings from a packed start: what other settings are to be compared with."""
    run = _Run(snapshot, snapshot.config, capacity)
    run.start_packed()
    return run.play()


class _Run:
    """The allocator of the model and what of the recording it has served; blocks go by their recorded address."""

    def __init__(self, snapshot: Snapshot, config: AllocatorConfig, capacity: int | None, exact: bool = False) -> None:
        self.snapshot = snapshot
        self.following = exact  # until the first different address
        self.placed: list[int] = []  # where the driver put what the next request needed
        self.allocator = CachingAllocator(capacity, config, self.place)
        self.blocks: dict[int, Block] = {}
        self.granted: dict[int, int] = {}
        self.equal = 0
        self.first_different: int | None = None
        self.ran_out: RanOut | None = None

    def place(self) -> int | None:
        """Where the recorded run had the next segment."""
        return self.placed[0] if self.following and self.placed else None

    def start_as_recorded(self) -> None:
        """The segments and blocks before the first event, rebuilt from the end."""
        segments = [segment.traced() for segment in self.snapshot.segments]
        self.blocks = start_state(self.allocator, self.snapshot.events, segments)
        self.allocator.reset_peak()

    def start_packed(self) -> None:
        """The blocks in use before the first event, the largest first, in segments that are new."""
        for address, size, stream in sorted(_before(self.snapshot), key=lambda block: (-block[1], block[0])):
            if not self.serve(BEFORE_THE_FIRST, address, size, stream):
                return
        self.allocator.reset_peak()

    def play(self) -> Outcome:
        """Serve every event, until one does not fit."""
        emptied = emptied_by_program(self.snapshot)
        for index, event in enumerate(self.snapshot.events):
            if self.ran_out is not None:
                break
            if event.action == ALLOC:
                self.allocate(index, event)
            elif event.action == FREE:
                self.allocator.free(self.blocks.pop(event.address))
            elif event.action in GROW:
                self.placed.append(event.address)
            elif event.action in SHRINK and self.following:
                self.allocator.give_back(event.address)
            elif index in emptied:
                self.allocator.empty_cache()
            elif event.action == OUT_OF_MEMORY and self.allocator.driver.capacity is not None:
                self.try_again(index, event)
        return self.outcome()

    def allocate(self, index: int, event: TraceEvent) -> None:
        """Serve a request and compare its address."""
        if not self.serve(index, event.address, event.size, event.stream):
            return
        self.placed.clear()
        block = self.blocks[event.address]
        self.granted[index] = block.size
        if block.address == event.address:
            self.equal += 1
        elif self.first_different is None:
            self.first_different, self.following = index, False

    def try_again(self, index: int, event: TraceEvent) -> None:
        """The request that ran out when recorded: the program went on without it, so a block is returned at once."""
        block = self.allocator.malloc(event.size, event.stream)
        if block is None:
            self.note_ran_out(index)
        self.allocator.free(block)

    def serve(self, index: int, address: int, size: int, stream: int) -> bool:
        """A block for a request; False where it does not fit."""
        block = self.allocator.malloc(size, stream)
        if block is None:
            self.note_ran_out(index)
            return False
        self.blocks[address] = block
        return True

    def note_ran_out(self, index: int) -> None:
        """Remember the first request that did not fit."""
        failed = self.allocator.failed
        assert failed is not None
        self.ran_out = RanOut(index, failed.requested, failed.allocated, failed.reserved)

    def outcome(self) -> Outcome:
        """What the run took."""
        model = self.allocator
        free = [*model.small.blocks(), *model.large.blocks()]
        end = fragmentation_of_blocks(free, self.blocks.values())
        return Outcome(
            model.allocated_peak,
            model.reserved_peak,
            model.allocated,
            model.reserved,
            end,
            self.ran_out,
            model.retries,
        )


def _before(snapshot: Snapshot) -> Iterator[tuple[int, int, int]]:
    """(address, bytes requested, stream) of the blocks in use before the first event."""
    allocated: set[int] = set()
    freed: set[int] = set()
    for event in snapshot.events:
        if event.action == ALLOC:
            allocated.add(event.address)
        elif event.action == FREE:
            if event.address not in allocated and event.address not in freed:
                yield event.address, event.size, event.stream
            freed.add(event.address)
    for segment in snapshot.segments:
        for block in segment.blocks:
            if block.in_use and block.address not in allocated and block.address not in freed:
                yield block.address, block.requested, segment.stream
