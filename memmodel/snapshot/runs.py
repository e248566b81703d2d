"""The recorded run, and replays of its requests: exactly as recorded, or under other settings.

An exact replay rebuilds the state before the first event from the file, places new segments at the driver's addresses,
and compares the address of every block. Other settings would have led to another state before the first event, so that
its blocks are requested anew, the largest first; recorded addresses then only identify blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from memmodel.allocator import AllocatorConfig, Block, CachingAllocator
from memmodel.allocator.replay import MALLOC, Blocks, Request, serve
from memmodel.snapshot.fragmentation import Fragmentation, fragmentation
from memmodel.snapshot.history import History, Recorded, StartBlock, reserved_before
from memmodel.snapshot.releases import releases, retries
from memmodel.snapshot.snapshot import ALLOC, FREED, GROW, OUT_OF_MEMORY, SHRINK, Snapshot
from memmodel.snapshot.start import start

BEFORE_THE_FIRST = -1


@dataclass(frozen=True, slots=True)
class RanOut:
    """The request that did not fit, in bytes; `event` is `BEFORE_THE_FIRST` for blocks from before the recording."""

    event: int
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """Memory of the recorded run, or of a replay of it, in bytes.

    Attributes:
        name: "recorded", "replayed", "same settings", "as asked".
        start: the state before the first event: as "recorded", or its blocks "packed" anew.
        capacity_bytes: what the allocator may hold; None where not known.
        fits: whether every request is served; None where not known.
        ran_out: the request that did not fit, or None.
        allocated_peak_bytes, reserved_peak_bytes: largest values in the window.
        allocated_end_bytes, reserved_end_bytes: at its end, or where it ran out.
        retries: how often the cache was released to make room.
        end: free memory at the end.
    """

    name: str
    start: str
    capacity_bytes: int | None
    fits: bool | None
    ran_out: RanOut | None
    allocated_peak_bytes: int
    reserved_peak_bytes: int
    allocated_end_bytes: int
    reserved_end_bytes: int
    retries: int
    end: Fragmentation


@dataclass(frozen=True, slots=True)
class Addresses:
    """The number of addresses equal in recording and replay; `first_different_event` is None if all are."""

    equal: int
    compared: int
    first_different_event: int | None


def recorded_run(snapshot: Snapshot, usage: History, end: Fragmentation) -> Run:
    """The run as the recording has it."""
    events, allocated, reserved = snapshot.events, usage.allocated, usage.reserved
    ran_out = None
    if snapshot.device_free:
        at = min(snapshot.device_free)
        ran_out = RanOut(at, events[at].size, allocated[at], reserved[at])
    ends = max(allocated), max(reserved), allocated[-1], reserved[-1]
    return Run("recorded", "recorded", None, ran_out is None, ran_out, *ends, retries(snapshot), end)


def replay_exactly(snapshot: Snapshot, recorded: Recorded) -> tuple[Run, Addresses, Recorded]:
    """Replay under the recorded settings; if every address is equal, its block sizes replace the estimated ones."""
    # Without a limit: what the driver refused, and when, is in the recording.
    replay = _Replay(snapshot, snapshot.config, None, exact=True)
    replay.start_as_recorded(recorded.start)
    sizes = {address: block.size for address, block in replay.in_use()}
    run = replace(replay.run("replayed", "recorded"), retries=retries(snapshot))
    addresses = Addresses(replay.equal, len(recorded.granted), replay.first_different)
    if replay.first_different is None and sizes.keys() == recorded.start.keys():
        before = {address: block._replace(size=sizes[address]) for address, block in recorded.start.items()}
        recorded = Recorded(before, replay.granted)
    return run, addresses, recorded


def replay_under(
    name: str, snapshot: Snapshot, recorded: Recorded, config: AllocatorConfig, capacity: int | None, packed: bool
) -> Run:
    """Replay under settings and a capacity in bytes (None: endless), from a packed or the recorded start."""
    replay = _Replay(snapshot, config, capacity)
    if packed:
        replay.start_packed(recorded.start)
    else:
        replay.start_as_recorded(recorded.start)
    return replay.run(name, "packed" if packed else "recorded")


def starts_as_recorded(snapshot: Snapshot, config: AllocatorConfig, capacity: int | None) -> bool:
    """Whether a replay can start from the recorded segments."""
    return config == snapshot.config and (capacity is None or reserved_before(snapshot) <= capacity)


class _Replay:
    """A replay in progress: the modelled allocator, and its blocks by their recorded address."""

    def __init__(self, snapshot: Snapshot, config: AllocatorConfig, capacity: int | None, exact: bool = False) -> None:
        self.snapshot = snapshot
        self.following = exact  # until the first different address
        self.placed: list[int] = []  # the driver's addresses of segments for the next request
        self.allocator = CachingAllocator(capacity, config, self.place)
        self.allocator.kept = snapshot.kept_streams
        self.blocks: Blocks = {}
        self.granted: dict[int, int] = {}
        self.equal = 0
        self.first_different: int | None = None
        self.at = BEFORE_THE_FIRST  # the event that is served

    def place(self) -> int | None:
        """The recorded address of the next segment; None once addresses differ."""
        return self.placed[0] if self.following and self.placed else None

    def in_use(self) -> Iterator[tuple[int, Block]]:
        """The blocks in use, by recorded address."""
        return ((cast(int, key), block) for key, block in self.blocks.items() if block is not None)

    def start_as_recorded(self, blocks: dict[int, StartBlock]) -> None:
        """Rebuild the segments and blocks before the first event."""
        self.blocks |= start(self.snapshot, self.allocator, blocks)

    def start_packed(self, blocks: dict[int, StartBlock]) -> None:
        """Request the blocks in use before the first event anew, the largest first."""
        largest = sorted(blocks.items(), key=lambda item: (-item[1].requested, item[0]))
        requests = (Request(MALLOC, address, block.requested, block.stream) for address, block in largest)
        for _ in serve(requests, self.allocator, self.blocks):
            pass
        self.allocator.reset_peak()

    def run(self, name: str, start: str) -> Run:
        """Serve every event, until one does not fit, and return the memory used."""
        model = self.allocator
        if model.failed is None:
            self.serve_events()
        out, capacity = model.failed, model.driver.capacity
        segments = model.segments(block for _, block in self.in_use())
        return Run(
            name,
            start,
            capacity,
            None if capacity is None else out is None,
            out and RanOut(self.at, out.requested, out.allocated, out.reserved),
            model.allocated_peak,
            model.reserved_peak,
            model.allocated,
            model.reserved,
            model.retries,
            fragmentation("all", ([(block.size, block.allocated) for block in run] for run in segments)),
        )

    def serve_events(self) -> None:
        """Serve every event, until one does not fit.

        Releases by the allocator are left to the model, except in an exact replay. A request that ran out is freed at
        once, since the recorded program went on without it.
        """
        model, blocks = self.allocator, self.blocks
        emptied = {release.last for release in releases(self.snapshot) if release.by_program}
        for index, (action, address, size, stream) in enumerate(self.snapshot.events):
            self.at = index
            if action == ALLOC:
                block = model.malloc(size, stream)
                if block is None:
                    return
                blocks[address] = block
                self.compare(block, address)
            elif action == FREED:
                model.free(blocks.pop(address))
            elif action in GROW:
                self.placed.append(address)
            elif action in SHRINK and self.following:
                model.give_back(address, size, stream)
            elif index in emptied:
                model.empty_cache()
            elif action == OUT_OF_MEMORY and model.driver.capacity is not None:
                model.free(model.malloc(size, stream))
                if model.failed is not None:
                    return

    def compare(self, block: Block, address: int) -> None:
        """Compare the address of the block just served with the recorded one."""
        self.placed.clear()
        self.granted[self.at] = block.size
        if block.address == address:
            self.equal += 1
        elif self.first_different is None:
            self.first_different, self.following = self.at, False
