"""The typed form of a CUDA memory snapshot: the events of one device, and its segments and blocks at the end.

Source: torch/csrc/cuda/memory_snapshot.cpp and torch/cuda/memory.py, torch 2.1 to 2.13; keys vary with the version.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.config import INTERVALS
from memmodel.allocator.trace import Segment, TraceEvent
from memmodel.errors import UsageError
from memmodel.snapshot.alloc_conf import AllocConf, parse_alloc_conf
from memmodel.snapshot.unpickle import load_plain

ALLOC, FREE = "alloc", "free_completed"
GROW, SHRINK = ("segment_alloc", "segment_map"), ("segment_free", "segment_unmap")
OUT_OF_MEMORY = "oom"
_OTHER = ("free_requested", "snapshot", "user_defined")
_ADDRESSES = 1 << 64
_SIZES = 1 << 42  # 4 TiB: more than any device has
_MAX_ITEMS = 2_000_000  # a list may be named more than once in a pickle: counted before it is read
_ADVICE = "give the file that torch.cuda.memory._dump_snapshot wrote"
DEFAULT_POOL = (0, 0)


@dataclass(frozen=True, slots=True)
class BlockState:
    """A block at the end; sizes in bytes. `frames` is the stack that allocated it, as recorded and not yet checked."""

    address: int
    size: int
    requested: int
    in_use: bool
    frames: Any


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment at the end, and its blocks in address order; sizes in bytes.

    `stream` is a number of its own for each stream of each private pool: their blocks never mix with others.
    """

    address: int
    size: int
    small: bool
    stream: int
    expandable: bool
    pool: tuple[int, int]
    blocks: tuple[BlockState, ...]

    def traced(self) -> Segment:
        """The form that the allocator's replay takes."""
        used = tuple((b.address, b.size, b.requested) for b in self.blocks if b.in_use)
        return Segment(self.address, self.size, self.small, self.stream, used)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One device of a snapshot.

    Attributes:
        path: the file.
        device: index of the device.
        events: in the order of recording; what happened before is lost.
        frames: the stack of each event, innermost first, as recorded and not yet checked.
        device_free: bytes that the driver had left, by index of the out-of-memory event.
        segments: at the end.
        settings: the allocator's settings when the snapshot was written.
        notes: what of the file was left out or assumed.
    """

    path: str
    device: int
    events: list[TraceEvent]
    frames: list[Any]
    device_free: dict[int, int]
    segments: list[SegmentState]
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

    `device` chooses one of several; by default it is the one with events. Raises UsageError for anything else.
    """
    return parse_snapshot(load_plain(path), path, device)


def parse_snapshot(data: Any, path: str, device: int | None = None) -> Snapshot:
    """A snapshot from its plain data; `path` is for messages."""
    reader = _Reader(path)
    whole = reader.mapping(data, "the file")
    traces = reader.items(reader.key(whole, "device_traces", "the file"), "device_traces")
    chosen = _device(path, [len(reader.items(t, f"device_traces[{i}]")) for i, t in enumerate(traces)], device)
    streams = _Streams()
    segments = sorted(_segments(reader, whole, chosen, streams), key=lambda segment: segment.address)
    settings = recorded_settings(whole.get("allocator_settings"))
    found = Snapshot(path, chosen, [], [], {}, segments, settings, settings.notes)
    unknown = _read_events(reader, traces[chosen], found, streams)
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
    if isinstance(limit, int) and not isinstance(limit, bool):
        config = replace(config, max_split_size=limit if 0 < limit < 1 << 62 else None)
    steps = settings.get("roundup_power2_divisions")
    if isinstance(steps, Mapping) and len(steps) == INTERVALS and all(_is_whole(step) for step in steps.values()):
        config = replace(config, roundup_power2_divisions=tuple(steps.values()))  # written in ascending order
    return AllocConf(config, read.notes)


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

    def pool(self, value: Any, where: str) -> tuple[int, int]:
        """The id of a pool: two whole numbers."""
        if not isinstance(value, tuple | list) or len(value) != 2 or not all(_is_whole(part) for part in value):
            raise self.wrong(f"the pool of {where}", "two whole numbers", f"a {type(value).__name__}")
        return value[0], value[1]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _device(path: str, counts: list[int], device: int | None) -> int:
    """The device to read, given the number of events of each."""
    busy = [index for index, count in enumerate(counts) if count]
    if not busy:
        raise UsageError(
            f"{path} holds no events: call torch.cuda.memory._record_memory_history() before what is to be recorded"
        )
    if device is None:
        if len(busy) > 1:
            listed = ", ".join(f"{index} ({counts[index]})" for index in busy)
            raise UsageError(f"{path} holds events of devices {listed}: choose one with --device")
        return busy[0]
    if device not in busy:
        raise UsageError(f"{path} holds no events of device {device}: choose --device {' or '.join(map(str, busy))}")
    return device


def _segments(reader: _Reader, whole: dict[Any, Any], device: int, streams: _Streams) -> Iterator[SegmentState]:
    """The segments of the device."""
    for index, item in enumerate(reader.items(reader.key(whole, "segments", "the file"), "segments")):
        where = f"segments[{index}]"
        given = reader.mapping(item, where)
        if given.get("device", device) != device:
            continue
        pool = reader.pool(given.get("segment_pool_id", DEFAULT_POOL), where)
        kind = reader.key(given, "segment_type", where)
        if kind not in ("small", "large"):
            raise reader.wrong(
                f"'segment_type' of {where}",
                "small or large",
                repr(kind[:30]) if isinstance(kind, str) else f"a {type(kind).__name__}",
            )
        address = reader.whole(given, "address", where)
        blocks = tuple(_blocks(reader, given, where, address))
        size = reader.size(given, "total_size", where)
        if sum(block.size for block in blocks) != size:
            raise UsageError(f"{reader.path}: the blocks of {where} do not add up to its {size} bytes: {_ADVICE}")
        stream = streams.number(reader.whole(given, "stream", where), pool)
        yield SegmentState(
            address, size, kind == "small", stream, given.get("is_expandable", False) is True, pool, blocks
        )


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
    pools = {s.address: s for s in into.segments if s.pool != DEFAULT_POOL}
    for index, item in enumerate(trace):
        where = f"event {index}"
        given = reader.mapping(item, where)
        action = reader.key(given, "action", where)
        if not isinstance(action, str):
            raise reader.wrong(f"'action' of {where}", "a name", f"a {type(action).__name__}")
        address = size = stream = 0
        if action == OUT_OF_MEMORY:
            into.device_free[index] = reader.whole(given, "device_free", where)
        if action in (ALLOC, FREE, OUT_OF_MEMORY, *GROW, *SHRINK):
            if action != OUT_OF_MEMORY:
                address = reader.whole(given, "addr", where)
            size = reader.size(given, "size", where)
            own = given["pool_id"] if "pool_id" in given else _pool_at(address, pools.values())
            stream = streams.number(reader.whole(given, "stream", where), reader.pool(own, where))
        elif action not in _OTHER:
            unknown.add(action[:30])
        into.events.append(TraceEvent(action, address, size, stream))
        into.frames.append(given.get("frames"))
    return unknown


def _pool_at(address: int, private: Iterable[SegmentState]) -> tuple[int, int]:
    """The private pool whose segment holds an address, where events do not tell theirs."""
    return next((s.pool for s in private if s.address <= address < s.address + s.size), DEFAULT_POOL)
