"""The allocator events of a CUDA memory snapshot. Pure: it reads the dicts that torch makes, and imports none of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from memmodel_validate.events import MemoryEvent, Numbering

_BORN, _DIED = "alloc", "free_completed"


class Position(NamedTuple):
    """Where a phase begins: before the entry with that index."""

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
        if entry["action"] == _BORN:
            found.birth(entry["addr"], entry["size"])
        elif entry["action"] == _DIED:
            found.death(entry["addr"])
    for position in waiting:
        found.phase(position.phase)
    return found.events
