"""One trial measured on a CUDA GPU: memory by the caching allocator's statistics and history, times by CUDA events."""

from itertools import pairwise
from typing import Any

import torch

from memmodel.step import STEPS
from memmodel_validate import nvml
from memmodel_validate.events import Position, entries, packed, trace_events
from memmodel_validate.suite import Trial
from memmodel_validate.torch_step import Attention, Inputs, attention, fill, inputs, sampled, saved_bytes, step

_DEVICE = "cuda"
_HISTORY = 1_000_000  # entries kept: a trial makes some thousands
_FLUSH_BYTES = 256 << 20  # larger than any L2: writing it evicts the inputs
_PEAKS = {"live_peak": "requested_bytes.all.peak", "peak": "allocated_bytes.all.peak",
          "reserved_peak": "reserved_bytes.all.peak"}  # fmt: skip
_SHORT = {"forward": "fwd", "backward": "bwd"}


def probe() -> dict[str, Any]:
    """The GPU that torch sees, and its memory; {"reason": ...} without one."""
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} was built without CUDA"
        return {"reason": built if torch.version.cuda is None else "torch sees no GPU on this machine"}
    free, total = torch.cuda.mem_get_info(0)
    major, minor = torch.cuda.get_device_capability(0)
    return {
        "gpu": torch.cuda.get_device_name(0),
        "compute_capability": f"{major}.{minor}",
        "free": free,
        "total": total,
        "driver": nvml.driver(),
    }


def measure(trial: Trial, threads: int, protocol: dict[str, str]) -> dict[str, Any]:
    """Measure a trial: quantity -> [unit, samples], and the events from its inputs to the end of the last step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = attention(trial.implementation, trial.case)
    recorder = _Recorder()
    given = inputs(trial.case, _DEVICE)
    for _ in range(STEPS):  # the first fill the allocator's cache, the last is read
        step(given, run, trial.case, recorder.mark)
    measured: dict[str, tuple[str, list[float]]] = {name: ("B", [n]) for name, n in recorder.peaks.items()}
    measured["context"] = "B", [_context_bytes()]
    events = recorder.events()
    fill(given)
    measured.update((name, ("s", samples)) for name, samples in _times(given, run, trial, protocol).items())
    measured["saved"] = "B", [saved_bytes(given, run, trial.case)]
    return {"measured": measured, "events": packed(events), "detail": nvml.clocks()}


def runs_within(trial: Trial, cap: int) -> bool:
    """Whether a case's steps run with an allocator limited to `cap` bytes. Call it in a new process."""
    total = torch.cuda.mem_get_info(0)[1]
    torch.cuda.set_per_process_memory_fraction((cap + 0.5) / total)  # torch multiplies again, and rounds down
    try:
        run, given = attention(trial.implementation, trial.case), inputs(trial.case, _DEVICE)
        for _ in range(STEPS):
            step(given, run, trial.case, lambda phase: None)
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError:
        return False
    return True


class _Recorder:
    """The allocator's history, and its statistics by phase: a later step's replace those of an earlier one."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._positions = [Position("inputs", 0)]
        self._phase = "inputs"
        torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=_HISTORY)

    def mark(self, phase: str) -> None:
        """Begin a phase."""
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        if self._phase in _SHORT:
            self.peaks |= {f"{name}_{_SHORT[self._phase]}": int(stats[key]) for name, key in _PEAKS.items()}
        torch.cuda.reset_peak_memory_stats()
        self._positions.append(Position(phase, len(entries(torch.cuda.memory._snapshot()))))
        self._phase = phase

    def events(self) -> list[Any]:
        """All events so far; the history ends."""
        torch.cuda.synchronize()
        trace = entries(torch.cuda.memory._snapshot())
        torch.cuda.memory._record_memory_history(enabled=None)
        return trace_events(trace, self._positions)


def _times(given: Inputs, run: Attention, trial: Trial, protocol: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of forward and backward on the GPU; L2 is flushed before each step."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=_DEVICE)
    numbers = {name: int(protocol[name]) for name in ("warm_up", "least", "most")}

    def once() -> dict[str, float]:
        flush.zero_()
        torch.cuda.synchronize()
        began: list[tuple[str, torch.cuda.Event]] = []

        def mark(phase: str) -> None:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            began.append((phase, event))

        step(given, run, trial.case, mark)
        torch.cuda.synchronize()
        ends = pairwise(began)
        return {f"{phase}_time": start.elapsed_time(end) / 1e3 for (phase, start), (_, end) in ends}

    return sampled(once, **numbers, budget=float(protocol["budget"]))


def _context_bytes() -> int:
    """Memory of this process outside the allocator: by NVML, else the device's use by anybody less what is reserved."""
    reserved = torch.cuda.memory_reserved()
    used = nvml.used_bytes()
    if used is None:
        free, total = torch.cuda.mem_get_info(0)
        used = total - free
    return max(used - reserved, 0)
