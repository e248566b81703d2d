"""One trial measured on the CPU: times by the clock, memory by the profiler's allocator events."""

from typing import Any

import torch

from memmodel_validate import cpu_events
from memmodel_validate.events import live_peaks, packed
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


def measure(trial: Trial, threads: int, protocol: dict[str, str]) -> dict[str, Any]:
    """Measure a trial: quantity -> [unit, samples], and its events."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = attention(trial.implementation, trial.case)
    given = inputs(trial.case, "cpu")
    fill(given)
    numbers = {name: int(protocol[name]) for name in ("warm_up", "least", "most")}
    times = sampled(lambda: timed_step(given, run, trial.case), **numbers, budget=float(protocol["budget"]))
    alive: list[Inputs] = []  # the inputs outlive the step
    events = cpu_events.profiled(lambda: _marked_step(run, trial, alive))
    peaks = live_peaks(events)
    measured: dict[str, tuple[str, list[float]]] = {name: ("s", samples) for name, samples in times.items()}
    for name, phase in (("live_peak_fwd", "forward"), ("live_peak_bwd", "backward")):
        if phase in peaks:
            measured[name] = "B", [peaks[phase]]
    measured["saved"] = "B", [saved_bytes(given, run, trial.case)]
    return {"measured": measured, "events": packed(events)}


def _marked_step(run: Attention, trial: Trial, alive: list[Inputs]) -> None:
    cpu_events.mark("inputs")
    alive.append(inputs(trial.case, "cpu"))
    step(alive[0], run, trial.case, cpu_events.mark)
