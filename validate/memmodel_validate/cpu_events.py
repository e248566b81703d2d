"""The allocator events of a real PyTorch run on the CPU, read from its profiler."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch._C._profiler import _EventType  # noqa: TID251  # the only name of an event's kind
from torch.profiler import ProfilerActivity, profile, record_function

from memmodel_validate.events import MemoryEvent, Numbering

_PHASE = "memmodel phase "
_WITH_SCRATCH = {"aten::bmm", "aten::mm", "aten::baddbmm", "aten::addmm", "aten::scatter_"}


class _Raw(NamedTuple):
    """An allocator event or a phase as the profiler has it; a free's size is below 0, a phase's is 0."""

    start_ns: int
    pointer: int
    size: int
    path: tuple[str, ...]
    phase: str = ""


def profiled(body: Callable[[], object]) -> list[MemoryEvent]:
    """What PyTorch's CPU allocator saw while `body` ran, and the phases that it marked with `mark`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        body()
    assert profiler.profiler is not None
    found: list[_Raw] = []
    _collect(profiler.profiler.kineto_results.experimental_event_tree(), (), found)
    found.sort(key=lambda raw: raw.start_ns)
    return _numbered(found)


def mark(phase: str) -> None:
    """Begin a phase, in a body that is profiled."""
    with record_function(_PHASE + phase):
        pass


def _collect(nodes: list[Any], path: tuple[str, ...], found: list[_Raw]) -> None:
    for node in nodes:
        if node.tag == _EventType.Allocation and node.extra_fields.device.type == "cpu":
            fields = node.extra_fields
            found.append(_Raw(node.start_time_ns, fields.ptr, fields.alloc_size, path))
        elif node.name.startswith(_PHASE):
            found.append(_Raw(node.start_time_ns, 0, 0, path, node.name.removeprefix(_PHASE)))
        _collect(node.children, (*path, node.name), found)


def _gemm_scratch(raw: list[_Raw]) -> set[int]:
    """Indices of allocations born and freed inside one matrix product or scatter: buffers of the CPU's kernels."""
    scratch: set[int] = set()
    open_: dict[int, int] = {}
    for index, event in enumerate(raw):
        if not _WITH_SCRATCH & set(event.path):
            open_.clear()
        elif event.size > 0:
            open_[event.pointer] = index
        elif event.pointer in open_:
            scratch.add(open_.pop(event.pointer))
    return scratch


def _cpu_scalar(path: tuple[str, ...], size: int) -> bool:
    """Python scalars, which the CPU's kernels wrap as 0-d tensors: a double or int64, and a copy in another dtype."""
    return size == 8 or (size < 8 and bool({"aten::_to_copy", "aten::scalar_tensor"} & set(path)))


def _numbered(raw: list[_Raw]) -> list[MemoryEvent]:
    found = Numbering()
    scratch = _gemm_scratch(raw)
    for index, event in enumerate(raw):
        if event.phase:
            found.phase(event.phase)
        elif event.size < 0:
            found.death(event.pointer)
        elif index not in scratch and not _cpu_scalar(event.path, event.size):
            found.birth(event.pointer, event.size)
    return found.events
