"""The typed form of a CUDA memory snapshot: the events of one device, and its segments and blocks at the end.

Source: torch/csrc/cuda/memory_snapshot.cpp and torch/cuda/memory.py, torch 2.1 to 2.13; keys vary with the version.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.config import INTERVALS
from memmodel.errors import UsageError
from memmodel.snapshot.alloc_conf import AllocConf, parse_alloc_conf
from memmodel.snapshot.unpickle import load_plain

ALLOC, FREE = "alloc", "free_completed"
GROW, SHRINK = ("segment_alloc", "segment_map"), ("segment_free", "segment_unmap")
OUT_OF_MEMORY = "oom"
_MEMORY = frozenset({ALLOC, FREE, OUT_OF_MEMORY, *GROW, *SHRINK})
_OTHER = ("free_requested", "snapshot", "user_defined")
_ADDRESSES = 1 << 64
_SIZES = 1 << 42  # 4 TiB: more than any device has
_MAX_ITEMS = 2_000_000  # a list may be named more than once in a pickle: counted before it is read
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

    `stream` is a number of its own for each stream of each private pool: their blocks never mix with others.
    """

    address: int
    size: int
    small: bool
    stream: int
    pool: tuple[int, int] = DEFAULT_POOL
    blocks: tuple[BlockState, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One device of a snapshot.

    Attributes:
        path: the file.
        device: index of the device.
        events: in the order of recording; what happened before is lost.
        frames: the stack of each event, innermost first, as recorded and not yet checked.
        device_free: bytes that the driver had left, by index of the out-of-memory event.
        segments: at the end, by address.
        settings: the allocator's settings when the snapshot was written.
        notes: what of the file was left out or assumed.
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
        """The settings it was recorded under."""
        return self.settings.config

    @property
    def allocations(self) -> int:
        """Number of requests that were served."""
        return sum(event.action == ALLOC for event in self.events)


def read_snapshot(path: str, device: int | None = None) -> Snapshot:
    """Read a file that `torch.cuda.memory._dump_snapshot` wrote; no code in it is run.

    `device` chooses one of several; by default it is the one with events, or with segments where none has events.
    Raises UsageError for anything else.
    """
    return parse_snapshot(load_plain(path), path, device)


def parse_snapshot(data: Any, path: str, device: int | None = None) -> Snapshot:
    """A snapshot from its plain data; `path` is for messages."""
    reader = _Reader(path)
    whole = reader.mapping(data, "the file")
    traces = reader.items(reader.key(whole, "device_traces", "the file"), "device_traces")
    listed = reader.items(reader.key(whole, "segments", "the file"), "segments")
    counts = {i: len(reader.items(trace, f"device_traces[{i}]")) for i, trace in enumerate(traces)}
    chosen = _device(path, counts, [reader.mapping(s, f"segments[{i}]") for i, s in enumerate(listed)], device)
    streams = _Streams()
    segments = sorted(_segments(reader, listed, chosen, streams), key=lambda segment: segment.address)
    for before, behind in pairwise(segments):
        if before.address + before.size > behind.address:
            raise UsageError(f"{path}: segments overlap at {behind.address:#x}, or one is listed twice: {_ADVICE}")
    settings = recorded_settings(whole.get("allocator_settings"))
    found = Snapshot(path, chosen, [], [], {}, segments, settings, settings.notes)
    unknown = _read_events(reader, traces[chosen] if chosen in counts else [], found, streams)
    notes = [f"events of kind {name!r} have no part in the model" for name in sorted(unknown)]
    if streams.private:
        notes.append("private pools (CUDA graphs, MemPool) are replayed as streams of their own")
    return replace(found, notes=(*found.notes, *notes))


def recorded_settings(settings: Any) -> AllocConf:
    """The settings in a snapshot: the string first, then the fields, which tell what was in force at its end."""
    if not isinstance(settings, Mapping):
        return AllocConf(AllocatorConfig(), ("the snapshot holds no settings of the allocator: defaults are assumed",))
    text = settings.get("PYTORCH_ALLOC_CONF") or settings.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    try:
        read = parse_alloc_conf(text if isinstance(text, str) else "")
    except UsageError as error:
        read = AllocConf(AllocatorConfig(), (f"the recorded settings are not all understood: {error}",))
    config = read.config
    expandable, limit = settings.get("expandable_segments"), settings.get("max_split_size")
    if isinstance(expandable, bool):
        config = replace(config, expandable_segments=expandable)
    if _is_whole(limit):
        config = replace(config, max_split_size=limit if 0 < limit < 1 << 62 else None)
    steps = settings.get("roundup_power2_divisions")
    if isinstance(steps, Mapping) and len(steps) == INTERVALS and all(_is_whole(step) for step in steps.values()):
        config = replace(config, roundup_power2_divisions=tuple(steps.values()))  # written in ascending order
    threshold = settings.get("garbage_collection_threshold")
    collects = read.collects_garbage or (isinstance(threshold, float) and threshold > 0)
    return AllocConf(config, read.notes, collects)


class _Streams:
    """A number for each stream of each pool: the stream itself in the default pool, negative ones in private pools."""

    def __init__(self) -> None:
        self.private: dict[tuple[int, tuple[int, int]], int] = {}

    def number(self, stream: int, pool: tuple[int, int]) -> int:
        """The number of a stream within a pool."""
        if pool == DEFAULT_POOL:
            return stream
        return self.private.setdefault((stream, pool), -1 - len(self.private))


class _Reader:
    """Reads keys of plain data, and says in one sentence what was expected where."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.read = 0

    def wrong(self, where: str, expected: str, given: str) -> UsageError:
        """The error for data of another form."""
        return UsageError(f"{self.path}: {where} is {given} where {expected} was expected: {_ADVICE}")

    def mapping(self, value: Any, where: str) -> dict[Any, Any]:
        """A dict."""
        if not isinstance(value, dict):
            raise self.wrong(where, "a dict", f"a {type(value).__name__}")
        return value

    def items(self, value: Any, where: str) -> list[Any]:
        """A list, not too long together with those before."""
        if not isinstance(value, list):
            raise self.wrong(where, "a list", f"a {type(value).__name__}")
        self.read += len(value)
        if self.read > _MAX_ITEMS:
            raise UsageError(f"{self.path}: more than {_MAX_ITEMS} segments, blocks and events: record fewer events")
        return value

    def key(self, mapping: dict[Any, Any], key: str, where: str) -> Any:
        """The value of a key that must be there."""
        try:
            return mapping[key]
        except KeyError:
            there = ", ".join(repr(k[:30]) for k in list(mapping)[:8] if isinstance(k, str)) or "no names"
            message = f"{self.path}: expected key {key!r} in {where}, which has {there}: {_ADVICE}"
            raise UsageError(message) from None

    def whole(self, mapping: dict[Any, Any], key: str, where: str, limit: int = _ADDRESSES, least: int = 0) -> int:
        """A whole number from `least`, below `limit`."""
        value = self.key(mapping, key, where)
        if not _is_whole(value) or not least <= value < limit:
            given = f"{value}" if _is_whole(value) and abs(value) < _ADDRESSES else f"a {type(value).__name__}"
            raise self.wrong(f"{key!r} of {where}", f"a whole number from {least} to {limit - 1}", given)
        return int(value)

    def size(self, mapping: dict[Any, Any], key: str, where: str) -> int:
        """Bytes, at least one."""
        return self.whole(mapping, key, where, _SIZES, least=1)

    def name(self, mapping: dict[Any, Any], key: str, where: str) -> str:
        """A text."""
        value = self.key(mapping, key, where)
        if not isinstance(value, str):
            raise self.wrong(f"{key!r} of {where}", "a name", f"a {type(value).__name__}")
        return value

    def pool(self, value: Any, where: str) -> tuple[int, int]:
        """The id of a pool: two whole numbers."""
        if not isinstance(value, tuple | list) or len(value) != 2 or not all(_is_whole(part) for part in value):
            raise self.wrong(f"the pool of {where}", "two whole numbers", f"a {type(value).__name__}")
        return value[0], value[1]


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _device(path: str, counts: Mapping[int, int], segments: list[dict[Any, Any]], device: int | None) -> int:
    """The device to read, given the number of events of each and all segments."""
    busy = [index for index, count in counts.items() if count]
    held = sorted({d for segment in segments if _is_whole(d := segment.get("device", busy[0] if busy else 0))})
    if not busy and not held:
        raise UsageError(
            f"{path} holds no events and no segments: "
            "call torch.cuda.memory._record_memory_history() before what is to be recorded"
        )
    known = busy or held
    if device is None:
        if len(known) > 1:
            kind = "events" if busy else "segments"
            listed = ", ".join(f"{index} ({counts[index]})" if busy else f"{index}" for index in known)
            raise UsageError(f"{path} holds {kind} of devices {listed}: choose one with --device")
        return known[0]
    if device not in {*busy, *held}:
        offered = " or ".join(map(str, sorted({*busy, *held})))
        raise UsageError(f"{path} holds nothing of device {device}: choose --device {offered}")
    return device


def _segments(reader: _Reader, listed: list[Any], device: int, streams: _Streams) -> Iterator[Segment]:
    """The segments of the device."""
    for index, given in enumerate(listed):
        if given.get("device", device) != device:
            continue
        where = f"segments[{index}]"
        pool = reader.pool(given.get("segment_pool_id", DEFAULT_POOL), where)
        kind = reader.name(given, "segment_type", where)
        if kind not in ("small", "large"):
            raise reader.wrong(f"'segment_type' of {where}", "small or large", repr(kind[:30]))
        address = reader.whole(given, "address", where)
        blocks = tuple(_blocks(reader, given, where, address))
        size = reader.size(given, "total_size", where)
        if sum(block.size for block in blocks) != size:
            raise UsageError(f"{reader.path}: the blocks of {where} do not add up to its {size} bytes: {_ADVICE}")
        stream = streams.number(reader.whole(given, "stream", where), pool)
        yield Segment(address, size, kind == "small", stream, pool, blocks)


def _blocks(reader: _Reader, segment: dict[Any, Any], where: str, address: int) -> Iterator[BlockState]:
    """A segment's blocks; each begins where the one before ends."""
    for index, item in enumerate(reader.items(reader.key(segment, "blocks", where), f"'blocks' of {where}")):
        place = f"block {index} of {where}"
        given = reader.mapping(item, place)
        size = reader.size(given, "size", place)
        requested = reader.whole({"requested_size": size} | given, "requested_size", place, _SIZES)
        state = reader.key(given, "state", place)
        yield BlockState(address, size, requested, state != "inactive", given.get("frames"))
        address += size


def _read_events(reader: _Reader, trace: Iterable[Any], into: Snapshot, streams: _Streams) -> set[str]:
    """Fill in the events; returns the actions that the model does not know."""
    unknown: set[str] = set()
    pools = [segment for segment in into.segments if segment.pool != DEFAULT_POOL]
    for index, item in enumerate(trace):
        given = item if type(item) is dict else reader.mapping(item, f"event {index}")
        action = given.get("action")
        if type(action) is not str:
            action = reader.name(given, "action", f"event {index}")
        address = size = stream = 0
        if action in _MEMORY:
            address, size, stream = _numbers(reader, given, action, index)
            if action == OUT_OF_MEMORY:
                into.device_free[index] = reader.whole(given, "device_free", f"event {index}")
            pool = given.get("pool_id") if "pool_id" in given else _pool_at(address, pools) if pools else DEFAULT_POOL
            if pool != DEFAULT_POOL:
                stream = streams.number(stream, reader.pool(pool, f"event {index}"))
        elif action not in _OTHER:
            unknown.add(action[:30])
        into.events.append(Event(action, address, size, stream))
        into.frames.append(given.get("frames"))
    return unknown


def _numbers(reader: _Reader, given: dict[Any, Any], action: str, index: int) -> tuple[int, int, int]:
    """Address, size and stream of an event."""
    address, size, stream = given.get("addr", 0), given.get("size"), given.get("stream")
    if type(address) is int and type(size) is int and type(stream) is int and "addr" in given:
        within = 0 <= address < _ADDRESSES and 0 < size < _SIZES and 0 <= stream < _ADDRESSES
        if within:  # the common case, without the names that an error needs
            return address, size, stream
    where = f"event {index}"
    address = 0 if action == OUT_OF_MEMORY else reader.whole(given, "addr", where)
    return address, reader.size(given, "size", where), reader.whole(given, "stream", where)


def _pool_at(address: int, private: Sequence[Segment]) -> tuple[int, int]:
    """The private pool whose segment holds an address, where events do not tell theirs; segments are sorted."""
    at = bisect_right(private, address, key=lambda segment: segment.address) - 1
    return private[at].pool if at >= 0 and address < private[at].address + private[at].size else DEFAULT_POOL
