"""The typed form of a CUDA memory snapshot: the events of one device, and its segments and blocks at the end.

Source: torch/csrc/cuda/memory_snapshot.cpp and torch/cuda/memory.py, torch 2.1 to 2.13; keys vary with the version.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, TypeVar

import msgspec
from msgspec import Meta

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.config import INTERVALS
from memmodel.base.checked import checked
from memmodel.base.errors import UsageError
from memmodel.snapshot.alloc_conf import AllocConf, parse_alloc_conf
from memmodel.snapshot.unpickle import load_plain, uncollected

ALLOC, FREED = "alloc", "free_completed"
GROW, SHRINK = ("segment_alloc", "segment_map"), ("segment_free", "segment_unmap")
OUT_OF_MEMORY = "oom"
_MEMORY = frozenset({ALLOC, FREED, OUT_OF_MEMORY, *GROW, *SHRINK})
_OTHER = frozenset({"free_requested", "snapshot", "user_defined"})
T = TypeVar("T")
_ADDRESSES = 1 << 64
_SIZES = 1 << 42  # 4 TiB: more than any device has
_MAX_ITEMS = 2_000_000  # a pickle can refer to one list many times, so that its file size is no bound
_ADVICE = "give the file that torch.cuda.memory._dump_snapshot wrote"
DEFAULT_POOL = (0, 0)


class Event(NamedTuple):
    """One entry of `device_traces`: "alloc", "free_completed", "segment_alloc", "segment_map", ...; `size` in bytes."""

    action: str
    address: int
    size: int
    stream: int


class BlockState(NamedTuple):
    """A block at the end; sizes in bytes. `frames` is the stack that allocated it, as recorded and not yet checked."""

    address: int
    size: int
    requested: int
    in_use: bool
    frames: Any


class Segment(NamedTuple):
    """A segment at the end, or a run of mapped pages, and its blocks in address order; sizes in bytes.

    Each stream of a private pool has its own `stream` number, since its blocks never mix with others.
    """

    address: int
    size: int
    small: bool
    stream: int
    pool: tuple[int, int] = DEFAULT_POOL
    blocks: tuple[BlockState, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """One device of a snapshot.

    Attributes:
        path: the file.
        device: index of the device.
        events: in order; those before the recording are lost.
        frames: the stack of each event, innermost first, as recorded and not yet checked.
        device_free: bytes that the driver had left, by index of the out-of-memory event.
        segments: at the end, by address.
        settings: the allocator's settings when the snapshot was written.
        notes: what was left out of the file, or assumed.
    """

    path: str
    device: int
    events: list[Event]
    frames: list[Any]
    device_free: dict[int, int]
    segments: list[Segment]
    settings: AllocConf
    notes: tuple[str, ...] = field(default=())

    @property
    def config(self) -> AllocatorConfig:
        """The allocator's settings when recorded."""
        return self.settings.config

    @property
    def kept_streams(self) -> frozenset[int]:
        """Streams of private pools that returned no segment: PyTorch keeps a pool's segments while the pool lives."""
        private = {segment.stream for segment in self.segments} | {event.stream for event in self.events}
        return frozenset(n for n in private if n < 0) - {self.events[index].stream for index in self.given_back}

    @cached_property
    def given_back(self) -> list[int]:
        """The indices of the events that return memory to the driver."""
        return [index for index, event in enumerate(self.events) if event.action in SHRINK]

    @property
    def allocations(self) -> int:
        """Number of requests that were served."""
        return sum(event.action == ALLOC for event in self.events)


@uncollected()
def read_snapshot(path: str, device: int | None = None) -> Snapshot:
    """Read a file that `torch.cuda.memory._dump_snapshot` wrote; no code in it is run.

    `device` chooses one of several; by default it is the one with events, or with segments where none has events.
    Raises UsageError for anything else.
    """
    return parse_snapshot(load_plain(path), path, device)


@uncollected()
def parse_snapshot(data: Any, path: str, device: int | None = None) -> Snapshot:
    """A snapshot from its plain data; `path` is for messages."""
    _limit_items(data, path)
    whole = _checked(data, _File, path)
    chosen = _device(path, whole, device)
    streams = _Streams()
    segments = sorted(_segments(whole, chosen, streams, path), key=lambda segment: segment.address)
    for before, behind in pairwise(segments):
        if before.address + before.size > behind.address:
            raise UsageError(f"{path}: segments overlap at {behind.address:#x}, or one is listed twice: {_ADVICE}")
    trace = whole.device_traces[chosen] if chosen < len(whole.device_traces) else []
    listed = _checked(trace, list[_Event], f"{path}, device_traces[{chosen}]")
    events = list(_events(listed, segments, streams, path))
    expandable = any(segment.is_expandable for segment in whole.segments)
    settings = recorded_settings(whole.allocator_settings, expandable)
    notes = [
        f"events of kind {name!r} have no part in the model"
        for name in sorted({action[:30] for action in {event.action for event in events} - _MEMORY - _OTHER})
    ]
    if streams.private:
        notes.append("private pools (CUDA graphs, MemPool) are replayed as streams of their own")
    return Snapshot(
        path,
        chosen,
        events,
        [event.frames for event in listed],
        {index: event.device_free for index, event in enumerate(listed) if event.action == OUT_OF_MEMORY},
        segments,
        settings,
        (*settings.notes, *notes),
    )


def recorded_settings(settings: Any, expandable: bool = False) -> AllocConf:
    """The settings in a snapshot: its settings string, overridden by its fields, which were in force at the end.

    Of one without settings `expandable` says whether its segments are.
    """
    if not isinstance(settings, Mapping):
        assumed = "defaults but for expandable segments, which it lists," if expandable else "defaults"
        note = f"the snapshot holds no settings of the allocator: {assumed} are assumed"
        return AllocConf(AllocatorConfig(expandable_segments=expandable), (note,))
    text = settings.get("PYTORCH_ALLOC_CONF") or settings.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    try:
        read = parse_alloc_conf(text if isinstance(text, str) else "")
    except UsageError as error:
        read = AllocConf(AllocatorConfig(), (f"the recorded settings are not all understood: {error}",))
    config = read.config
    in_force, limit = settings.get("expandable_segments"), settings.get("max_split_size")
    if isinstance(in_force, bool):
        config = replace(config, expandable_segments=in_force)
    if _is_whole(limit):
        config = replace(config, max_split_size=limit if 0 < limit < 1 << 62 else None)
    steps = settings.get("roundup_power2_divisions")
    if isinstance(steps, Mapping) and len(steps) == INTERVALS and all(_is_whole(step) for step in steps.values()):
        config = replace(config, roundup_power2_divisions=tuple(steps.values()))  # written in ascending order
    threshold = settings.get("garbage_collection_threshold")
    collects = read.collects_garbage or (isinstance(threshold, float) and threshold > 0)
    return AllocConf(config, read.notes, collects)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


class _Streams:
    """A number for each stream of each pool: the stream itself in the default pool, negative ones in private pools."""

    def __init__(self) -> None:
        self.private: dict[tuple[int, tuple[int, int]], int] = {}

    def number(self, stream: int, pool: tuple[int, int]) -> int:
        """The number of a stream within a pool."""
        if pool == DEFAULT_POOL:
            return stream
        return self.private.setdefault((stream, pool), -1 - len(self.private))


Whole = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=1, lt=_SIZES)]
Pool = tuple[int, int]


class _Block(msgspec.Struct):
    size: Size
    state: str
    requested_size: Annotated[int, Meta(ge=0, lt=_SIZES)] | None = None
    frames: Any = None


class _Segment(msgspec.Struct):
    address: Whole
    total_size: Size
    stream: Whole
    segment_type: Literal["small", "large"]
    blocks: list[_Block]
    segment_pool_id: Pool = DEFAULT_POOL
    device: Whole | None = None
    is_expandable: Any = False


class _Event(msgspec.Struct):
    """An event; fields that its action does not have are -1 or 0."""

    action: str
    addr: int = -1
    size: int = 0
    stream: int = -1
    device_free: int = -1
    pool_id: Pool | None = None
    frames: Any = None


class _File(msgspec.Struct):
    segments: list[_Segment]
    device_traces: list[list[Any]]
    allocator_settings: Any = None


def _checked(data: Any, kind: type[T], where: str) -> T:
    try:
        return checked(data, kind, where)
    except UsageError as error:
        raise UsageError(f"{error}: {_ADVICE}") from None


def _limit_items(data: Any, path: str) -> None:
    """Raise UsageError for more items than a snapshot has: a small pickle can refer to one list many times."""
    whole = data if isinstance(data, dict) else {}
    lists = [part for key in ("segments", "device_traces") if isinstance(part := whole.get(key), list)]
    count = sum(map(len, lists))
    if count <= _MAX_ITEMS:
        inner = (item.get("blocks") if isinstance(item, dict) else item for part in lists for item in part)
        count += sum(len(part) for part in inner if isinstance(part, list))
    if count > _MAX_ITEMS:
        raise UsageError(f"{path}: more than {_MAX_ITEMS} segments, blocks and events: record fewer events")


def _device(path: str, whole: _File, device: int | None) -> int:
    """The device to read: the one given, or that with events, or with segments if none has events."""
    busy = [index for index, trace in enumerate(whole.device_traces) if trace]
    first = busy[0] if busy else 0  # the device of segments that do not name theirs
    held = sorted({first if segment.device is None else segment.device for segment in whole.segments})
    known, usual = sorted({*busy, *held}), busy or held
    if not known:
        advice = "call torch.cuda.memory._record_memory_history() before what is to be recorded"
        raise UsageError(f"{path} holds no events and no segments: {advice}")
    if device is None and len(usual) > 1:
        kind = "events" if busy else "segments"
        raise UsageError(f"{path} holds {kind} of devices {', '.join(map(str, usual))}: choose one with --device")
    if device not in (None, *known):
        raise UsageError(f"{path} holds nothing of device {device}: choose --device {' or '.join(map(str, known))}")
    return usual[0] if device is None else device


def _segments(whole: _File, device: int, streams: _Streams, path: str) -> Iterator[Segment]:
    """The segments of the device; each block begins where the one before ends."""
    for index, given in enumerate(whole.segments):
        if given.device not in (None, device):
            continue
        if sum(block.size for block in given.blocks) != given.total_size:
            raise UsageError(
                f"{path}: the blocks of segments[{index}] do not add up to its {given.total_size} bytes: {_ADVICE}"
            )
        blocks = []
        address = given.address
        for block in given.blocks:
            requested = block.size if block.requested_size is None else block.requested_size
            blocks.append(BlockState(address, block.size, requested, block.state != "inactive", block.frames))
            address += block.size
        stream = streams.number(given.stream, given.segment_pool_id)
        small = given.segment_type == "small"
        yield Segment(given.address, given.total_size, small, stream, given.segment_pool_id, tuple(blocks))


def _events(listed: list[_Event], segments: Sequence[Segment], streams: _Streams, path: str) -> Iterator[Event]:
    """The events, with streams of private pools numbered separately."""
    private = [segment for segment in segments if segment.pool != DEFAULT_POOL]
    made = tuple.__new__  # the constructor of a NamedTuple is a function of Python's, which takes twice as long
    for index, given in enumerate(listed):
        action, address, size, stream, pool = given.action, given.addr, given.size, given.stream, given.pool_id
        if action not in _MEMORY:
            yield made(Event, (action, 0, 0, 0))
            continue
        if action == OUT_OF_MEMORY:
            address = given.device_free
        if not (0 <= address < _ADDRESSES and 0 < size < _SIZES and stream >= 0):
            given_as = f"{action} with address {address}, size {size} and stream {stream} (-1: none)"
            raise UsageError(f"{path}: event {index} is {given_as}, expected 1 byte to 4 TiB at an address: {_ADVICE}")
        if pool is None and private:
            pool = _pool_at(address, private)
        if pool is not None and pool != DEFAULT_POOL:
            stream = streams.number(stream, pool)
        yield made(Event, (action, address, size, stream))


def _pool_at(address: int, private: Sequence[Segment]) -> tuple[int, int]:
    """The private pool whose segment holds an address, for events that do not name theirs; `private` is sorted."""
    at = bisect_right(private, address, key=lambda segment: segment.address) - 1
    return private[at].pool if at >= 0 and address < private[at].address + private[at].size else DEFAULT_POOL
