"""The allocator events of a real PyTorch run on the CPU, from its profiler, and of a recording of the same code."""

from collections.abc import Callable
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from memmodel import recording
from memmodel.program import Alloc, Free

Body = Callable[[Any], object]


def real_events(body: Body) -> list[tuple[str, int, int]]:
    """("alloc" or "free", number of the storage in order of birth, bytes), as PyTorch's CPU allocator saw them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        body(torch)
    found: list[tuple[int, int, int, tuple[str, ...]]] = []

    def collect(nodes: list[Any], path: tuple[str, ...]) -> None:
        for node in nodes:
            if node.tag == _EventType.Allocation and node.extra_fields.device.type == "cpu":
                fields = node.extra_fields
                found.append((node.start_time_ns, fields.ptr, fields.alloc_size, path))
            collect(node.children, (*path, node.name))

    assert profiler.profiler is not None
    collect(profiler.profiler.kineto_results.experimental_event_tree(), ())
    found.sort(key=lambda event: event[0])
    return _numbered([(ptr, size, path) for _, ptr, size, path in found])


_WITH_SCRATCH = {"aten::bmm", "aten::mm", "aten::baddbmm", "aten::addmm", "aten::scatter_"}


def _gemm_scratch(raw: list[tuple[int, int, tuple[str, ...]]]) -> set[int]:
    """Indices of allocations born and freed inside one matrix product or scatter: buffers of the CPU's kernels."""
    scratch: set[int] = set()
    open_: dict[int, int] = {}
    for index, (ptr, size, path) in enumerate(raw):
        if not _WITH_SCRATCH & set(path):
            open_.clear()
        elif size > 0:
            open_[ptr] = index
        elif ptr in open_:
            scratch.add(open_.pop(ptr))
    return scratch


def _cpu_scalar(path: tuple[str, ...], size: int) -> bool:
    """Python scalars, which the CPU's kernels wrap as 0-d tensors: a double or int64, and a copy in another dtype."""
    return size == 8 or (size < 8 and bool({"aten::_to_copy", "aten::scalar_tensor"} & set(path)))


def _numbered(raw: list[tuple[int, int, tuple[str, ...]]]) -> list[tuple[str, int, int]]:
    events: list[tuple[str, int, int]] = []
    numbers: dict[int, int | None] = {}
    born = 0
    scratch = _gemm_scratch(raw)
    for index, (ptr, size, path) in enumerate(raw):
        if size > 0:
            if index in scratch or _cpu_scalar(path, size):
                numbers[ptr] = None
                continue
            numbers[ptr] = born
            events.append(("alloc", born, size))
            born += 1
        elif ptr in numbers:
            number = numbers.pop(ptr)
            if number is not None:
                events.append(("free", number, -size))
    return events


def recorded_events(body: Body) -> list[tuple[str, int, int]]:
    """The same, from recording tensors on the CPU's rules."""
    events: list[tuple[str, int, int]] = []
    numbers: dict[int, tuple[int, int]] = {}
    with recording.Tape(recording.CPU) as tape:
        body(recording)
    for event in tape.events:
        if isinstance(event, Alloc):
            numbers[event.key] = len(numbers), event.nbytes
            events.append(("alloc", *numbers[event.key]))
        elif isinstance(event, Free):
            events.append(("free", *numbers[event.key]))
    return events


def in_order(events: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The events with each run of frees sorted: between two allocations their order leaves no trace in an allocator."""
    result: list[tuple[str, int, int]] = []
    frees: list[tuple[str, int, int]] = []
    for event in events:
        if event[0] == "free":
            frees.append(event)
        else:
            result += [*sorted(frees), event]
            frees = []
    return result + sorted(frees)
