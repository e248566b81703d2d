"""The allocator events of a real PyTorch run on the CPU, and of a recording of the same code."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from memmodel import recording
from memmodel_validate.cpu_events import profiled
from memmodel_validate.events import MemoryEvent, in_order, program_events

Body = Callable[[Any], object]

__all__ = ["Body", "in_order", "real_events", "recorded_events", "without", "without_empty"]


def real_events(body: Body) -> list[MemoryEvent]:
    """("alloc" or "free", number of the storage in order of birth, bytes), as PyTorch's CPU allocator saw them."""
    return profiled(lambda: body(torch))


def recorded_events(body: Body) -> list[MemoryEvent]:
    """The same, from recording tensors on the CPU's rules."""
    with recording.Tape(recording.CPU) as tape:
        body(recording)
    return [event for event in program_events(tape.program) if event.kind in ("alloc", "free")]


def without_empty(events: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Without storages of no bytes: PyTorch does not ask its allocator for these."""
    return without(events, 0)


def without(events: Iterable[tuple[str, int, int]], size: int) -> list[tuple[str, int, int]]:
    """Without storages of that many bytes; 8 are in a real run those of Python's numbers, which no trace has."""
    known = list(events)
    dropped = {number for _, number, nbytes in known if nbytes == size}
    kept = sorted({number for _, number, _ in known} - dropped)
    renumbered = {number: index for index, number in enumerate(kept)}
    return [(kind, renumbered[n], nbytes) for kind, n, nbytes in known if n not in dropped]
