"""Allocator events of recorded programs and of real runs, in one form, and their comparison. Imports no torch.

An event is (kind, storage, bytes): "alloc" and "free" of the storage with that number in order of birth, or the
beginning of a phase, whose name is the kind. In the ledger they are a list: a birth is its bytes, the death of the
k-th storage (from 1) is -k, a phase its name.

A thread that no profiler watches may free a storage. That it did shows when the address is given out again: there
stands an UNSEEN event, which says that the storage died at that moment or before it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from memmodel.allocator.cublas import Taken, Workspace
from memmodel.base.units import bytes_text
from memmodel.events.liveness import states
from memmodel.events.program import Event, Launch, Mark, Program

NO_WORKSPACE = Workspace(0, False)
UNSEEN = "unseen free"
Packed = list[int | str]


class MemoryEvent(NamedTuple):
    """One event; `storage` is -1 and `nbytes` 0 where a phase begins."""

    kind: str
    storage: int
    nbytes: int


class EventMatch(NamedTuple):
    """The agreement of the events of a real run and of the model, place by place.

    Attributes:
        measured: events of the real run. predicted: of the model. equal: at the same place with the same bytes.
        first_difference: in words; empty where all are equal.
    """

    measured: int
    predicted: int
    equal: int
    first_difference: str

    @property
    def all_equal(self) -> bool:
        """Whether the runs have the same events."""
        return self.measured == self.predicted == self.equal


class Numbering:
    """Events from births and deaths, whatever names the storages: keys of a recording, addresses of an allocator."""

    def __init__(self) -> None:
        self.events: list[MemoryEvent] = []
        self._alive: dict[int, tuple[int, int]] = {}
        self._born = 0

    def birth(self, name: int, nbytes: int) -> None:
        """Record the birth of a storage of that many bytes, and that the last one of this name must have died."""
        if name in self._alive:
            self.events.append(MemoryEvent(UNSEEN, *self._alive[name]))
        self._alive[name] = self._born, nbytes
        self.events.append(MemoryEvent("alloc", self._born, nbytes))
        self._born += 1

    def death(self, name: int) -> None:
        """Record the death of a storage; ignore one that was born before the first event."""
        if name in self._alive:
            self.events.append(MemoryEvent("free", *self._alive.pop(name)))

    def phase(self, name: str) -> None:
        """Record the start of a phase."""
        self.events.append(MemoryEvent(name, -1, 0))


def program_events(program: Program, workspace: Workspace = NO_WORKSPACE, steps: int = 1) -> list[MemoryEvent]:
    """The events of a program: its inputs, then its step `steps` times over, with cuBLAS workspaces.

    A workspace is born at the first matrix product of each thread, or lives for one product where torch gives it back.
    """
    found = Numbering()
    kept: dict[str, int] = {}
    for now in states(program._replace(events=_repeated(program.events, steps))):
        if now.born:
            found.birth(now.born.key, int(now.born.nbytes))
        elif now.died:
            found.death(now.died.key)
        elif isinstance(now.event, Mark):
            found.phase(now.phase)
        elif isinstance(now.event, Launch) and now.event.cublas:
            _workspaces(found, workspace.taken(now.event), kept)
    return found.events


def _workspaces(found: Numbering, taken: list[Taken], kept: dict[str, int]) -> None:
    """The births of the workspaces that are not kept yet, and the deaths of those that are given back."""
    new = [one for one in taken if one.name not in kept]
    for one in new:
        kept[one.name] = -1 - len(kept)  # no storage of a recording has a key below 0
        found.birth(kept[one.name], one.nbytes)
    for one in new:
        if one.per_call:
            found.death(kept.pop(one.name))


def _repeated(events: list[Event], steps: int) -> list[Event]:
    """The events with those from the first "forward" on `steps` times over."""
    if steps == 1:
        return events
    first = next(i for i, event in enumerate(events) if isinstance(event, Mark) and event.phase == "forward")
    return [*events[:first], *events[first:] * steps]


def in_order(events: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Births and deaths, with runs of deaths sorted: their order between two births does not affect an allocator."""
    result: list[tuple[str, int, int]] = []
    frees: list[tuple[str, int, int]] = []
    for event in events:
        if event[0] == "free":
            frees.append(event)
        elif event[0] == "alloc":
            result += [*sorted(frees), event]
            frees = []
    return result + sorted(frees)


def compared(measured: Iterable[tuple[str, int, int]], predicted: Iterable[tuple[str, int, int]]) -> EventMatch:
    """The events of a run beside those of the model; phases do not count, only the order of births and deaths."""
    real, model = in_order(measured), in_order(predicted)
    equal = sum(a == b for a, b in zip(real, model, strict=False))
    pairs = enumerate(zip_longest(real, model), start=1)
    first = next((f"event {i}: {_words(a)}, predicted {_words(b)}" for i, (a, b) in pairs if a != b), "")
    return EventMatch(len(real), len(model), equal, first)


def _words(event: tuple[str, int, int] | None) -> str:
    if event is None:
        return "nothing"
    kind, storage, nbytes = event
    return f"{kind} of {nbytes} B ({bytes_text(nbytes)}, storage {storage + 1})"


def with_unseen_frees(measured: Iterable[MemoryEvent], predicted: Iterable[MemoryEvent]) -> list[MemoryEvent]:
    """The events of a run, where an unseen free stands as early as the model has it; no earlier than the run allows.

    Births are the clock of both: the model's free of a storage comes after as many births.
    """
    clock: dict[int, int] = {}
    births = 0
    for event in predicted:
        births += event.kind == "alloc"
        if event.kind == "free":
            clock[event.storage] = births
    real = list(measured)
    moved = {e.storage: e for e in real if e.kind == UNSEEN}
    found: list[MemoryEvent] = []
    births = 0
    for event in real:
        # Born, and at the model's moment; at the latest where its address is given out again.
        due = [s for s in moved if s < births and (births >= clock.get(s, math.inf) or event == moved[s])]
        found += [moved.pop(s)._replace(kind="free") for s in due]
        births += event.kind == "alloc"
        if event.kind != UNSEEN:
            found.append(event)
    return found


def live_peaks(events: Iterable[MemoryEvent]) -> dict[str, int]:
    """The peak of live bytes in each phase, as `memmodel.events.liveness.phase_peaks` counts them."""
    live, phase = 0, "start"
    peaks: dict[str, int] = {}
    for kind, _, nbytes in events:
        if kind == "alloc":
            live += nbytes
            peaks[phase] = max(peaks.get(phase, 0), live)
        elif kind in ("free", UNSEEN):
            live -= nbytes
        else:
            phase, peaks[kind] = kind, live
    return peaks


def packed(events: Iterable[MemoryEvent]) -> Packed:
    """The short form, for the ledger."""
    deaths = "free", UNSEEN
    return [e.nbytes if e.kind == "alloc" else -1 - e.storage if e.kind in deaths else e.kind for e in events]


def unpacked(items: Sequence[int | str]) -> list[MemoryEvent]:
    """The events of the short form. Raises ValueError for a malformed list."""
    return list(_unpacked(items))


def _unpacked(items: Sequence[int | str]) -> Iterator[MemoryEvent]:
    sizes: list[int] = []
    for item in items:
        if isinstance(item, str):
            yield MemoryEvent(item, -1, 0)
        elif item > 0:
            yield MemoryEvent("alloc", len(sizes), item)
            sizes.append(item)
        elif -item <= len(sizes) and item:
            yield MemoryEvent("free", -item - 1, sizes[-item - 1])
        else:
            raise ValueError(f"no storage {-item} is born before it dies")


class Position(NamedTuple):
    """The start of a phase, before the entry with that index."""

    phase: str
    entry: int


def entries(snapshot: Mapping[str, Any], device: int = 0) -> Sequence[Mapping[str, Any]]:
    """The trace of a device in what `torch.cuda.memory._snapshot()` returns, oldest entry first."""
    traces: Sequence[Sequence[Mapping[str, Any]]] = snapshot["device_traces"]
    return traces[device] if device < len(traces) else ()


def trace_events(trace: Sequence[Mapping[str, Any]], positions: Sequence[Position] = ()) -> list[MemoryEvent]:
    """Births and deaths of a trace with their requested bytes, and the phases that begin between them.

    An entry's size is what was asked for, before rounding (torch/csrc, CUDACachingAllocator.cpp: `orig_size`).
    Segments, snapshots and requests to free say nothing about storages.
    """
    found = Numbering()
    waiting = list(positions)
    for index, entry in enumerate(trace):
        while waiting and waiting[0].entry <= index:
            found.phase(waiting.pop(0).phase)
        if entry["action"] == "alloc":
            found.birth(entry["addr"], entry["size"])
        elif entry["action"] == "free_completed":
            found.death(entry["addr"])
    for position in waiting:
        found.phase(position.phase)
    return found.events
