"""Runs of PyTorch on the CPU: a trial measured, and the allocator events that the profiler sees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch._C._profiler import _EventType  # noqa: TID251  # the only name of an event's kind
from torch.autograd.profiler import profile, record_function

from memmodel_validate.events import MemoryEvent, Numbering, live_peaks, packed
from memmodel_validate.suite import Trial
from memmodel_validate.torch_step import (
    Attention,
    Inputs,
    attention,
    fill,
    inputs,
    sampled,
    saved_bytes,
    step,
    timed_step,
)

_PHASE = "memmodel phase "
HOST = "memmodel host"  # a range whose tensors are the host's on any machine
_OTHERS = (HOST, "c10d::", "gloo:")
_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
_WITH_SCRATCH = {
    f"aten::{name}"
    for name in (
        "bmm", "mm", "baddbmm", "addmm", "addmm_", "_grouped_mm", "scatter_", "histc", "sort", "mkldnn_convolution",
        "convolution_backward",
    )
}  # fmt: skip


class _Raw(NamedTuple):
    """An allocator event or a phase as the profiler has it; a free's size is below 0, a phase's is 0."""

    start_ns: int
    pointer: int
    size: int
    path: tuple[str, ...]
    phase: str = ""


def measure(trial: Trial, threads: int, protocol: dict[str, str]) -> dict[str, Any]:
    """Measure a trial: quantity -> [unit, samples], and its events."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = attention(trial.implementation, trial.case)
    given = inputs(trial.case, "cpu")
    fill(given)
    numbers = {name: int(protocol[name]) for name in ("warm_up", "least", "most")}
    times = sampled(lambda: timed_step(given, run, trial.case), **numbers, budget=float(protocol["budget"]))
    alive: list[Inputs] = []  # keeps the inputs alive past the step, so that their frees are no events of it
    events = profiled(lambda: _marked_step(run, trial, alive))
    peaks = live_peaks(events)
    measured: dict[str, tuple[str, list[float]]] = {name: ("s", samples) for name, samples in times.items()}
    for name, phase in (("live_peak_fwd", "forward"), ("live_peak_bwd", "backward")):
        if phase in peaks:
            measured[name] = "B", [peaks[phase]]
    measured["saved"] = "B", [saved_bytes(given, run, trial.case)]
    return {"measured": measured, "events": packed(events)}


def _marked_step(run: Attention, trial: Trial, alive: list[Inputs]) -> None:
    mark("inputs")
    alive.append(inputs(trial.case, "cpu"))
    step(alive[0], run, trial.case, mark)


def profiled(body: Callable[[], object]) -> list[MemoryEvent]:
    """The events of PyTorch's CPU allocator while `body` ran, and the phases that it marked with `mark`.

    `torch.profiler` would make its tables of operators too, which takes many times as long as the run.
    """
    with profile(profile_memory=True) as profiler:
        body()
    found: list[_Raw] = []
    _collect(profiler.kineto_results.experimental_event_tree(), (), found)
    # The tree is ordered by parents; what threads do beside one another is put in the order of time.
    found.sort(key=lambda raw: raw.start_ns)
    return _numbered(found)


def mark(phase: str) -> None:
    """Begin a phase in a profiled body."""
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


def _inside_kernels(raw: list[_Raw]) -> set[int]:
    """Indices of allocations born and freed inside one matrix product, convolution or scatter: the kernels' buffers."""
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
    if any(name.startswith(_ATTENTION) for name in path):  # its sums of two rows are 8 bytes too
        return False
    return size == 8 or (size < 8 and bool({"aten::_to_copy", "aten::scalar_tensor"} & set(path)))


def _others(path: tuple[str, ...]) -> bool:
    """The host's tensors, and gloo's copies of what it sends and receives, in its threads too; NCCL makes none."""
    return any(name.startswith(_OTHERS) for name in path)


def _numbered(raw: list[_Raw]) -> list[MemoryEvent]:
    found = Numbering()
    scratch = _inside_kernels(raw)
    for index, event in enumerate(raw):
        if event.phase:
            found.phase(event.phase)
        elif event.size < 0:
            found.death(event.pointer)
        elif index not in scratch and not _cpu_scalar(event.path, event.size) and not _others(event.path):
            found.birth(event.pointer, event.size)
    return found.events
