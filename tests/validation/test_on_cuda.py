"""The CUDA side without a GPU: its own code runs, on CPU tensors, over a stand-in for torch's allocator."""

from typing import Any

import pytest
import torch

from memmodel_validate import cuda
from memmodel_validate.events import unpacked
from memmodel_validate.suite import Trial, trials

NUMBERS = {"warm_up": "1", "least": "2", "most": "2", "budget": "0"}


class Allocator:
    """Counts what it is asked: each look at the statistics is of a later time, and finds higher peaks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trace: list[dict[str, Any]] = []
        self.recording = False
        self.looks = 0
        self.resets = 0
        monkeypatch.setattr(cuda, "_DEVICE", "cpu")
        monkeypatch.setattr(cuda, "_FLUSH_BYTES", 1024)
        for name, found in {
            "synchronize": lambda: None,
            "memory_stats": self.stats,
            "reset_peak_memory_stats": self.reset,
            "memory_reserved": lambda: 100,
            "mem_get_info": lambda device: (400, 1000),
            "Event": Event,
        }.items():
            monkeypatch.setattr(torch.cuda, name, found)
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", self.record)
        monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"device_traces": [list(self.trace)]})

    def record(self, enabled: str | None = "all", **options: Any) -> None:
        assert options in ({}, {"context": None, "max_entries": cuda._HISTORY})
        self.recording = enabled is not None

    def stats(self) -> dict[str, int]:
        self.looks += 1
        kinds = ("requested_bytes", "allocated_bytes", "reserved_bytes")
        return {f"{kind}.all.peak": 1000 * index + self.looks for index, kind in enumerate(kinds, start=1)}

    def reset(self) -> None:
        self.resets += 1
        self.trace.append({"action": "alloc", "addr": self.resets, "size": 512 * self.resets})


class Event:
    """A CUDA event of a GPU on which everything takes 4 ms."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """Nothing to wait for."""

    def elapsed_time(self, end: "Event") -> float:
        return 4.0


def small(name: str) -> Trial:
    (trial,) = trials("cpu", names=[name])
    return trial


def test_a_measurement_is_of_the_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(monkeypatch)
    found = cuda.measure(small("naive-512"), torch.get_num_threads(), NUMBERS)
    measured = {name: samples for name, (_, samples) in found["measured"].items()}
    # Three marks a step; the third step's forward ends at the eighth, its backward at the ninth.
    assert measured["live_peak_fwd"] == [1008]
    assert measured["live_peak_bwd"] == [1009]
    assert measured["peak_bwd"] == [2009]
    assert measured["reserved_peak_fwd"] == [3008]
    assert measured["context"] == [1000 - 400 - 100]
    assert measured["saved"] == [4 * 512 * 512 * 4]
    assert measured["forward_time"] == measured["backward_time"] == [0.004, 0.004]
    assert not allocator.recording


def test_phases_stand_where_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    Allocator(monkeypatch)
    found = cuda.measure(small("naive-512"), torch.get_num_threads(), NUMBERS)
    kinds = [event.kind for event in unpacked(found["events"])]
    step = ["alloc", "forward", "alloc", "backward", "alloc", "after"]
    assert kinds == ["inputs", *step, *step, *step]


def test_inference_has_no_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    Allocator(monkeypatch)
    found = cuda.measure(small("naive-inference-512"), torch.get_num_threads(), NUMBERS)
    assert not [name for name in found["measured"] if "bwd" in name or "backward" in name]
    assert found["measured"]["saved"] == ("B", [0])


@pytest.mark.parametrize("fits", [True, False])
def test_a_try_within_a_cap(monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    Allocator(monkeypatch)
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)

    def full(*args: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    if not fits:
        monkeypatch.setattr(cuda, "step", full)
    assert cuda.runs_within(small("naive-512"), 250) is fits
    assert int(fractions[0] * 1000) == 250


def test_the_functions_that_stand_in_exist_and_take_these_arguments() -> None:
    """What is replaced above is there in this torch, under the same names."""
    import inspect

    history = inspect.signature(torch.cuda.memory._record_memory_history)
    options = {"enabled": "all", "context": None, "max_entries": 1}
    assert history.bind(**options)
    assert inspect.signature(torch.cuda.memory._snapshot).bind()
    assert inspect.signature(torch.cuda.set_per_process_memory_fraction).bind(0.5)
    assert inspect.signature(torch.cuda.memory_stats).bind()
    assert issubclass(torch.cuda.OutOfMemoryError, RuntimeError)
